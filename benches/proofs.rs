//! The cost of proofs and bound tokens as multiples of one raw signature, and of a bare round trip, on this machine in
//! this run.
//!
//! `cargo bench --bench proofs` (or `make bench`). Starts a daemon in release mode, with audit log and journal, and calls
//! it over its sockets.

mod support;

use std::path::Path;

use support::{Client, Host, Journald, measure, micros, ratio, raw_signature};

const API: &str = "https://api.example.com";
const LOGIN: &str = "https://login.example.com";
/// An access key, as the example in AWS's documentation.
const ACCESS_KEY: &str =
    r#"{\"AccessKeyId\":\"AKIDEXAMPLE\",\"SecretAccessKey\":\"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\"}"#;
/// Of a body.
const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn main() {
    let _journald = Journald::ensure();
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(Host::start(dir.path()));
    register(dir.path());
    let host = Host::start(dir.path());
    let body = format!("{{\"name\":\"key\",\"value\":\"{ACCESS_KEY}\"}}");
    Client::connect(&dir.path().join("run/admin.sock")).ask("POST", "/v1/credentials/put", &body);

    let before = raw_signature();
    let bare = measure(&host, "bare round trip", ("GET", "/v1/none"), "");
    let action = |kind: &str| {
        format!(
            "{{\"kind\":\"{kind}\",\"method\":\"POST\",\"url\":\"{API}/v1/items\",\"body_sha256\":\"{DIGEST}\"}}"
        )
    };
    let server = |kind: &str| format!("{{\"kind\":\"{kind}\",\"audience\":\"{LOGIN}\"}}");
    let measured = [
        ("token", "/v1/token", format!("{{\"audience\":\"{LOGIN}\"}}")),
        ("token, bound by dpop", "/v1/token", format!("{{\"audience\":\"{API}\"}}")),
        ("dpop (aim: at most 3.2)", "/v1/prove", action("dpop")),
        ("wpt", "/v1/prove", action("wpt")),
        ("http-signature", "/v1/prove", action("http-signature")),
        ("client-assertion", "/v1/prove", server("client-assertion")),
        ("client-attestation", "/v1/prove", server("client-attestation")),
        ("sigv4", "/v1/prove", action("sigv4")),
    ]
    .map(|(name, path, body)| (name, measure(&host, name, ("POST", path), &body)));
    let raw = (before + raw_signature()) / 2;
    println!("raw ring P-256 signature    {:8.1} us", micros(raw));
    for (name, used) in measured {
        let (of_raw, of_bare) = (ratio(used, raw), ratio(used, bare));
        println!("{name:<28}{of_raw:8.2} raw signatures, {of_bare:.2} bare round trips");
    }
}

/// An agent of this user with every kind of proof.
fn register(dir: &Path) {
    let text = format!(
        "name = \"example\"\n[match]\nuser = {}\n\
         [[grant]]\naudience = \"{API}\"\nbind = \"dpop\"\nproofs = [\"dpop\", \"wpt\", \"http-signature\"]\n\
         [[grant]]\naudience = \"{LOGIN}\"\nproofs = [\"client-assertion\", \"client-attestation\"]\n\
         [[credential]]\nname = \"key\"\nuse = \"sign\"\nregion = \"eu-west-1\"\nservice = \"execute-api\"\n\
         actions = [\"* {API}/*\"]\n",
        nix::unistd::geteuid()
    );
    std::fs::write(dir.join("etc/agents.d/example.toml"), text).expect("a file");
}

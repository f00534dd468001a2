//! The cost of releasing a sealed credential, beside a token without its signature and a bare round trip on
//! this machine in this run.
//!
//! `cargo bench --bench credentials` (or `make bench`). Starts a daemon in release mode, with audit log and
//! journal, and calls it over its sockets.

mod support;

use std::path::Path;

use support::{Client, Host, Journald, measure, micros, ratio, raw_signature};

const TOKEN: &str = r#"{"audience":"https://api.example.com"}"#;
/// Lengths of the values, in bytes: a usual key, and the longest of a private key.
const LENGTHS: [usize; 2] = [64, 4_096];

fn main() {
    let _journald = Journald::ensure();
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(Host::start(dir.path()));
    register(dir.path());
    let host = Host::start(dir.path());
    let admin = dir.path().join("run/admin.sock");
    for length in LENGTHS {
        let body = format!("{{\"name\":\"c{length}\",\"value\":\"{}\"}}", "x".repeat(length));
        Client::connect(&admin).ask("POST", "/v1/credentials/put", &body);
    }
    let raw = raw_signature();
    let bare = measure(&host, "bare round trip", ("GET", "/v1/none"), "");
    let token = measure(&host, "token", ("POST", "/v1/token"), TOKEN);
    let raw = (raw + raw_signature()) / 2;
    println!("raw ring P-256 signature    {:8.1} us", micros(raw));
    let unsigned = token.saturating_sub(raw);
    for length in LENGTHS {
        let name = format!("release of {length} bytes");
        let release =
            measure(&host, &name, ("POST", "/v1/credential"), &format!("{{\"name\":\"c{length}\"}}"));
        let more = release.saturating_sub(unsigned);
        println!(
            "  over a token's without its signature: {:.1} us, {:.2} bare round trips (aim: at most 2)",
            micros(more),
            ratio(more, bare)
        );
    }
}

/// An agent of this user with a grant and the credentials.
fn register(dir: &Path) {
    let mut text = format!(
        "name = \"example\"\n[match]\nuser = {}\n[[grant]]\naudience = \"https://api.example.com\"\n",
        nix::unistd::geteuid()
    );
    for length in LENGTHS {
        text += &format!("[[credential]]\nname = \"c{length}\"\nuse = \"release\"\n");
    }
    std::fs::write(dir.join("etc/agents.d/example.toml"), text).expect("a file");
}

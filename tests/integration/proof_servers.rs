//! Servers of others that take the daemon's proofs: an authorization server (oidc-provider), and those of MCP's
//! conformance suite.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::libraries::node_with;
use crate::common::processes::Running;
use crate::common::{Host, until};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// oidc-provider with two clients, and a host with an agent for each of them.
struct AuthorizationServer {
    host: Host,
    issuer: String,
    _server: Running,
}

/// Status, body and fields of an answer.
struct Answer {
    status: String,
    body: Value,
    fields: Vec<(String, String)>,
}

impl AuthorizationServer {
    fn start() -> AuthorizationServer {
        let libraries = node_with("oidc-provider", &["oidc-provider@9.13.3"]);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let issuer = format!("http://127.0.0.1:{port}");
        let mut host = Host::new();
        for (agent, client, kind) in
            [("one", "client-1", "client-assertion"), ("two", "client-2", "client-attestation")]
        {
            host.agents_file(
                agent,
                &format!(
                    "name = \"{agent}\"\n[match]\nuser = 0\n\
                     [[grant]]\naudience = \"{issuer}\"\nproofs = [\"{kind}\"]\nclient_id = \"{client}\"\n\
                     [[grant]]\naudience = \"tokens\"\nproofs = [\"dpop\"]\nactions = [\"POST {issuer}/token\"]\n"
                ),
            );
        }
        host.start();
        let keys = host.path("jwks.json");
        fs::write(&keys, host.get("/.well-known/jwks.json").text()).unwrap();
        let mut node = Command::new("node");
        node.env("LIBRARIES", &libraries).arg(script("authorization_server.mjs"));
        node.arg(port.to_string()).arg(&keys).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Running::start(node);
        until("the authorization server answers", || TcpStream::connect(("127.0.0.1", port)).ok());
        AuthorizationServer { host, issuer, _server: server }
    }

    /// What the daemon makes.
    #[track_caller]
    fn prove(&self, request: Value) -> Value {
        let answer = self.host.post("/v1/prove", request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    fn dpop(&self, agent: &str, nonce: Option<&str>) -> Value {
        let url = format!("{}/token", self.issuer);
        let mut request = json!({ "kind": "dpop", "method": "POST", "url": url, "agent": agent });
        nonce.into_iter().for_each(|nonce| request["nonce"] = json!(nonce));
        self.prove(request)["headers"].clone()
    }

    /// A token request with these headers and parameters.
    fn ask(&self, headers: &[&Value], parameters: &Value) -> Answer {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--data", "grant_type=client_credentials"]);
        for (name, value) in headers.iter().flat_map(|headers| headers.as_object().unwrap()) {
            curl.args(["--header", &format!("{name}: {}", value.as_str().unwrap())]);
        }
        for (name, value) in parameters.as_object().unwrap() {
            curl.args(["--data-urlencode", &format!("{name}={}", value.as_str().unwrap())]);
        }
        let output = curl.arg(format!("{}/token", self.issuer)).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
        let (status, fields) = head.split_once("\r\n").unwrap();
        Answer {
            status: status.split(' ').nth(1).unwrap().to_owned(),
            body: serde_json::from_str(body).unwrap_or_else(|_| panic!("{text}")),
            fields: fields
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
        }
    }
}

impl Answer {
    #[track_caller]
    fn refused(&self, error: &str) {
        assert_eq!(self.body["error"], error, "{}", self.body);
        assert_ne!(self.status, "200");
    }

    #[track_caller]
    fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("{name}: {:?}", self.fields))
    }
}

#[test]
#[ignore = "run by make test-clients: it fetches 34 packages"]
fn oidc_provider_takes_assertions_with_proofs_of_its_nonce_once() {
    let server = AuthorizationServer::start();
    let assertion = || {
        let request = json!({ "kind": "client-assertion", "audience": server.issuer, "agent": "one" });
        server.prove(request)["parameters"].clone()
    };
    let unproven = server.ask(&[&server.dpop("one", None)], &assertion());
    unproven.refused("use_dpop_nonce");
    let nonce = unproven.field("dpop-nonce").to_owned();
    let (used, proof) = (assertion(), server.dpop("one", Some(&nonce)));
    let granted = server.ask(&[&proof], &used);
    assert_eq!(
        (&granted.body["token_type"], granted.status.as_str()),
        (&json!("DPoP"), "200"),
        "{}",
        granted.body
    );
    server.ask(&[&server.dpop("one", Some(&nonce))], &used).refused("invalid_client");
    server.ask(&[&proof], &assertion()).refused("invalid_grant");
    server.ask(&[], &assertion()).refused("invalid_grant");
    // An assertion for another server is not made, and that of another client is refused.
    let other = json!({ "kind": "client-assertion", "audience": "http://127.0.0.1:1", "agent": "one" });
    assert_eq!(server.host.post("/v1/prove", other).error(), "invalid_target");
    let mut stolen = assertion();
    stolen["client_id"] = json!("client-2");
    server.ask(&[&server.dpop("one", Some(&nonce))], &stolen).refused("invalid_request");
}

#[test]
#[ignore = "run by make test-clients: it fetches 34 packages"]
fn oidc_provider_takes_attestations_with_its_challenge_once() {
    let server = AuthorizationServer::start();
    let client = json!({ "client_id": "client-2" });
    let attestation = |challenge: Option<&str>| {
        let mut request = json!({ "kind": "client-attestation", "audience": server.issuer, "agent": "two" });
        challenge.into_iter().for_each(|challenge| request["nonce"] = json!(challenge));
        server.prove(request)["headers"].clone()
    };
    let unchallenged = server.ask(&[&server.dpop("two", None), &attestation(None)], &client);
    unchallenged.refused("use_attestation_challenge");
    let challenge = unchallenged.field("oauth-client-attestation-challenge").to_owned();
    let without_nonce = server.ask(&[&server.dpop("two", None), &attestation(Some(&challenge))], &client);
    without_nonce.refused("use_dpop_nonce");
    let nonce = without_nonce.field("dpop-nonce").to_owned();
    let used = attestation(Some(&challenge));
    let granted = server.ask(&[&server.dpop("two", Some(&nonce)), &used], &client);
    assert_eq!(
        (&granted.body["token_type"], granted.status.as_str()),
        (&json!("DPoP"), "200"),
        "{}",
        granted.body
    );
    server.ask(&[&server.dpop("two", Some(&nonce)), &used], &client).refused("invalid_client");
    // The attestation of one key with the proof of another one.
    let mut mixed = attestation(Some(&challenge));
    let pop = "OAuth-Client-Attestation-PoP";
    mixed[pop] = json!(crate::common::http::tampered(mixed[pop].as_str().unwrap()));
    server.ask(&[&server.dpop("two", Some(&nonce)), &mixed], &client).refused("invalid_client");
}

#[test]
#[ignore = "run by make test-clients: it fetches 240 MB"]
fn mcp_conformance_passes_with_every_proof_from_the_daemon() {
    let suite =
        node_with("mcp-conformance", &["@modelcontextprotocol/conformance@0.2.0-alpha.12", "node@24.21.0"]);
    let programs = suite.join("node_modules/.bin");
    // The client replaces its file.
    let mut host = Host::new();
    host.agent("client", "user = 0");
    host.start();
    let path = std::env::join_paths(
        std::iter::once(programs.clone()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let path = path.unwrap();
    for (scenario, checks) in [("auth/dpop", "12/12"), ("auth/dpop-nonce", "14/14")] {
        let mut command = Command::new(programs.join("conformance"));
        command.args(["client", "--scenario", scenario, "--command"]);
        command.arg(format!("node {}", script("mcp_client.mjs").display()));
        command.current_dir(host.path("")).env("PATH", &path);
        command.env("HOSTBADGE", env!("CARGO_BIN_EXE_hostbadge"));
        command
            .env("HOSTBADGE_SOCKET", host.agent_socket())
            .env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
        command.env("AGENTS_FILE", host.path("etc/agents.d/client.toml"));
        let output = command.output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(&format!("Passed: {checks}, 0 failed, 0 warnings")), "{said}");
    }
}

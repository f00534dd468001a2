//! Responses of a running daemon are valid by `docs/openapi.yaml`, as Python's jsonschema reads it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::libraries::python_with;
use crate::common::{API, Host};
use serde_json::{Value, json};

const REQUIREMENTS: [&str; 3] =
    ["jsonschema==4.26.0", "openapi-spec-validator==0.7.2", "rfc3339-validator==0.1.4"];

#[test]
fn responses_are_valid_by_the_document() {
    let python = python_with("openapi", &REQUIREMENTS);
    let mut responses = Responses { host: Host::started(), received: Vec::new() };

    responses.get(200, "/v1/whoami");
    responses.get(200, "/v1/whoami/why");
    responses.get(200, "/v1/health");
    responses.get(200, "/v1/bundle");
    responses.get(200, "/.well-known/jwks.json");
    responses.get(200, "/.well-known/openid-configuration");
    let token = responses.post(200, "/v1/token", json!({ "audience": API }));
    responses.post(400, "/v1/token", json!({ "audience": "https://other.example.com" }));
    responses.post(200, "/v1/certificate", json!({ "ttl": "2m" }));
    responses.post(200, "/v1/introspect", json!({ "token": token["access_token"] }));
    responses.post(200, "/v1/introspect", json!({ "token": "unknown" }));
    responses.post(200, "/v1/attest", json!({ "nonce": "AAAAAAAAAAA" }));

    responses.get(200, "/v1/status");
    responses.get(200, "/v1/agents");
    responses.get(200, &format!("/v1/processes/{}", std::process::id()));
    responses.get(404, "/v1/processes/2147483647");
    responses.get(400, "/v1/processes/self");
    responses.get(404, "/v1/processes/1?agent=none");
    responses.get(200, "/v1/keys");
    let posture = responses.get(200, "/v1/posture");
    responses.post(409, "/v1/posture/accept", json!({ "digest": "00" }));
    responses.post(200, "/v1/posture/accept", json!({ "digest": posture["reading"]["digest"] }));
    responses.get(200, "/v1/posture");
    responses.get(200, "/v1/posture/diff");
    responses.post(200, "/v1/keys/rotate", json!({}));
    let recovery = responses.post(200, "/v1/keys/recovery", json!({}));
    let recovery = json!({ "recovery_key": recovery["recovery_key"] });
    responses.post(200, "/v1/keys/recovery/confirm", recovery.clone());
    responses.post(400, "/v1/keys/recovery/confirm", json!({ "recovery_key": "hbr1-" }));
    responses.post(409, "/v1/keys/recover", recovery);
    responses.post(400, "/v1/keys/recover", json!({ "recovery_key": "hbr1-" }));
    responses.post(200, "/v1/enroll/request", json!({}));
    responses.post(422, "/v1/enroll/install", json!({ "certificate": "" }));
    let review = json!({
        "sha256": "0a".repeat(32), "reviewer": "Ada", "since": "2025-11-01T00:00:00Z", "until": "2025-11-27T00:00:00Z",
        "host": "host-1", "complete": true, "missing_records": 0, "agents": 1, "unused_agents": 0, "not_seen": 0,
        "unused_rights": 2
    });
    responses.post(200, "/v1/reviews/sign", review);
    responses.post(400, "/v1/reviews/sign", json!({ "reviewer": "Ada" }));
    responses.get(200, "/v1/status");
    responses.get(200, "/v1/audit");

    let agent = responses.host.agents_file("second", "name =");
    responses.post(422, "/v1/agents/reload", json!({}));
    responses.get(200, "/v1/status");
    fs::remove_file(agent).unwrap();
    fs::remove_file(responses.host.path("etc/agents.d/root.toml")).unwrap();
    responses.post(200, "/v1/agents/reload", json!({ "allow_empty": ["agents"] }));
    responses.get(401, "/v1/whoami");
    responses.get(200, "/v1/audit");

    assert_eq!(validate(&python, &responses.received), "");
    let mut changed = responses.received;
    changed[0]["body"].as_object_mut().unwrap().remove("agents");
    changed[2]["body"]["posture"] = "calm".into();
    let faults = validate(&python, &changed);
    assert!(faults.contains("GET /v1/whoami 200: $: 'agents' is a required property"), "{faults}");
    assert!(faults.contains("GET /v1/health 200: $.posture: 'calm' is not valid"), "{faults}");
}

/// What a host responded so far.
struct Responses {
    host: Host,
    received: Vec<Value>,
}

impl Responses {
    #[track_caller]
    fn get(&mut self, status: u16, path: &str) -> Value {
        self.request(status, "GET", path, &json!({}))
    }

    #[track_caller]
    fn post(&mut self, status: u16, path: &str, body: Value) -> Value {
        self.request(status, "POST", path, &body)
    }

    /// Sends a request to the socket that the path belongs to, and expects this status.
    #[track_caller]
    fn request(&mut self, status: u16, method: &str, path: &str, body: &Value) -> Value {
        let admin_paths = ["status", "agents", "audit", "keys", "posture", "processes", "enroll", "reviews"];
        let is_admin_path = path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next());
        let mut connection = match is_admin_path.is_some_and(|first| admin_paths.contains(&first)) {
            true => self.host.admin(),
            false => self.host.connect(),
        };
        let response = match method {
            "GET" => connection.get(path),
            _ => connection.post(path, body),
        };
        assert_eq!(response.status, status, "{method} {path}: {}", response.text());
        let body = response.json();
        let documented = if path.starts_with("/v1/processes/") { "/v1/processes/{pid}" } else { path };
        self.received.push(json!({ "method": method, "path": documented, "status": status, "body": body }));
        body
    }
}

/// What is wrong with the responses; empty if nothing is.
fn validate(python: &Path, responses: &[Value]) -> String {
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command.arg(repository.join("tests/clients/openapi.py")).arg(repository.join("docs/openapi.yaml"));
    let mut judge = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    judge.stdin.take().unwrap().write_all(json!(responses).to_string().as_bytes()).unwrap();
    let output = judge.wait_with_output().unwrap();
    let faults = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), faults.is_empty(), "{faults}");
    faults
}

//! Tenants: what an agent of one tenant may do, an agent of another may not.

use std::fs;

use crate::common::callers::{Credentials, NOBODY};
use crate::common::http::{Response, claims};
use crate::common::{API, Host, until_true};
use serde_json::{Value, json};

/// One agent: its name, tenant and uid.
struct Member {
    name: &'static str,
    tenant: Option<&'static str>,
    uid: u32,
}

/// Two tenants, and an agent without one.
const MEMBERS: [Member; 3] = [
    Member { name: "alpha", tenant: Some("acme"), uid: 0 },
    Member { name: "beta", tenant: Some("globex"), uid: NOBODY },
    Member { name: "gamma", tenant: None, uid: NOBODY - 1 },
];

impl Member {
    fn register(&self, host: &Host) {
        let tenant = self.tenant.map_or(String::new(), |tenant| format!("tenant = \"{tenant}\"\n"));
        host.agents_file(
            self.name,
            &format!(
                "name = \"{}\"\n{tenant}[match]\nuser = {}\n[[grant]]\naudience = \"{API}\"\n\
                 scopes = [\"docs.read\"]\nttl = \"5m\"\n[[credential]]\nname = \"key\"\nuse = \"release\"\n\
                 [[credential]]\nname = \"{}-only\"\nuse = \"release\"\n\
                 [[credential]]\nname = \"alpha-only-by-name\"\nuse = \"release\"\n",
                self.name, self.uid, self.name
            ),
        );
    }

    fn post(&self, host: &Host, target: &str, body: &Value) -> Response {
        let body = body.to_string();
        Credentials::user(self.uid).curl(host, target, &["-H", "Content-Type: application/json", "-d", &body])
    }

    fn token(&self, host: &Host) -> String {
        let response = self.post(host, "/v1/token", &json!({ "audience": API }));
        assert_eq!(response.status, 200, "{}: {}", self.name, response.text());
        response.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A JWT-SVID from the workload socket.
    fn jwt_svid(&self, host: &Host) -> String {
        let reply = self.call_workload_api(host, "FetchJWTSVID", &text_field(1, API));
        let start = reply.windows(3).position(|window| window == b"eyJ").expect("a JWT");
        let is_jwt = |byte: &&u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        String::from_utf8(reply[start..].iter().take_while(is_jwt).copied().collect()).unwrap()
    }

    /// Whether ValidateJWTSVID accepts a JWT-SVID.
    fn accepts_svid(&self, host: &Host, svid: &str) -> bool {
        let message = [text_field(1, API), text_field(2, svid)].concat();
        let reply = self.call_workload_api(host, "ValidateJWTSVID", &message);
        reply.windows(9).any(|window| window == b"spiffe://")
    }

    /// Calls a method of the Workload API, and returns the body of the reply.
    fn call_workload_api(&self, host: &Host, method: &str, message: &[u8]) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend((message.len() as u32).to_be_bytes());
        frame.extend(message);
        let file = host.path(&format!("request-{}", self.name));
        fs::write(&file, frame).unwrap();
        let mut command = std::process::Command::new("curl");
        command.args(["--silent", "--http2-prior-knowledge", "--max-time", "30", "--unix-socket"]);
        command.arg(host.workload_socket()).args(["-H", "content-type: application/grpc"]);
        command.args(["-H", "te: trailers", "-H", "workload.spiffe.io: true"]);
        command.arg("--data-binary").arg(format!("@{}", file.display()));
        command.arg(format!("http://localhost/SpiffeWorkloadAPI/{method}"));
        Credentials::user(self.uid).apply_to(&mut command);
        let output = command.output().expect("curl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// A string field of a protobuf message.
fn text_field(number: u8, text: &str) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = text.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(text.as_bytes());
    field
}

fn host_with(toml: &str) -> Host {
    let mut host = Host::new();
    host.configure(toml);
    MEMBERS.iter().for_each(|member| member.register(&host));
    host.start();
    host
}

#[track_caller]
fn put(host: &Host, tenant: Option<&str>, name: &str, value: &str) {
    let response =
        host.admin().post("/v1/credentials/put", &json!({ "name": name, "tenant": tenant, "value": value }));
    assert_eq!(response.status, 200, "{}", response.text());
}

/// The lines that `audit tail` prints with these options.
fn audited(host: &Host, options: &[&str]) -> Vec<Value> {
    let words = [&["audit", "tail", "--json", "-n", "1000"], options].concat();
    let output = host.hostbadge(&words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each verb of the agent socket, and those of the workload socket that name another's identity or token, by
/// each caller for each tenant.
#[test]
fn each_verb_gives_an_agent_its_own_tenant_and_nothing_of_another() {
    let host = host_with("");
    for member in &MEMBERS {
        put(&host, member.tenant, "key", &format!("value of {}", member.name));
        put(&host, member.tenant, &format!("{}-only", member.name), "x");
    }
    put(&host, Some("acme"), "alpha-only-by-name", "x");
    let tokens: Vec<String> = MEMBERS.iter().map(|member| member.token(&host)).collect();
    let svids: Vec<String> = MEMBERS.iter().map(|member| member.jwt_svid(&host)).collect();
    for caller in &MEMBERS {
        for (index, owner) in MEMBERS.iter().enumerate() {
            let is_own = caller.name == owner.name;
            let case = format!("{} for {}", caller.name, owner.name);
            let expected = if is_own { 200 } else { 401 };

            let body = json!({ "audience": API, "agent": owner.name });
            assert_eq!(caller.post(&host, "/v1/token", &body).status, expected, "token: {case}");
            let body = json!({ "agent": owner.name });
            assert_eq!(caller.post(&host, "/v1/certificate", &body).status, expected, "certificate: {case}");
            let body = json!({ "name": "key", "agent": owner.name });
            assert_eq!(caller.post(&host, "/v1/credential", &body).status, expected, "credential: {case}");

            let answer = caller.post(&host, "/v1/introspect", &json!({ "token": tokens[index] })).json();
            assert_eq!(answer["active"], is_own, "introspect: {case}");
            assert_eq!(answer.as_object().unwrap().len() > 1, is_own, "introspect: {case}");
            assert_eq!(caller.accepts_svid(&host, &svids[index]), is_own, "ValidateJWTSVID: {case}");
        }
        // The same name is a credential of each tenant.
        let released = caller.post(&host, "/v1/credential", &json!({ "name": "key" }));
        assert_eq!(released.json()["value"], format!("value of {}", caller.name));
        // Naming a credential of another tenant in an agent's file gives nothing: nothing crosses tenants.
        let released = caller.post(&host, "/v1/credential", &json!({ "name": "alpha-only-by-name" }));
        let expected = if caller.name == "alpha" { 200 } else { 400 };
        assert_eq!(released.status, expected, "{}", released.text());

        let whoami = Credentials::user(caller.uid).curl(&host, "/v1/whoami", &[]).json().to_string();
        let why = Credentials::user(caller.uid).curl(&host, "/v1/whoami/why", &[]).json().to_string();
        for other in MEMBERS.iter().filter(|other| other.name != caller.name) {
            assert!(!whoami.contains(other.name) && !why.contains(other.name), "{}", caller.name);
        }
    }
}

#[test]
fn a_process_that_is_agents_of_two_tenants_can_introspect_tokens_of_both() {
    let mut host = Host::new();
    MEMBERS.iter().for_each(|member| member.register(&host));
    Member { name: "omega", tenant: Some("globex"), uid: 0 }.register(&host);
    host.start();
    let token = MEMBERS[1].token(&host);
    assert_eq!(host.introspect(&token)["active"], true);
    assert_eq!(host.introspect(&MEMBERS[2].token(&host))["active"], false);
}

#[test]
fn the_audit_view_of_a_tenant_has_its_records_and_no_others() {
    let host = host_with("");
    for member in &MEMBERS {
        let token = member.token(&host);
        put(&host, member.tenant, "key", "x");
        member.post(&host, "/v1/credential", &json!({ "name": "key" }));
        // A refusal, an introspection and a certificate.
        member.post(&host, "/v1/token", &json!({ "audience": "https://other.example" }));
        member.post(&host, "/v1/introspect", &json!({ "token": token }));
        member.post(&host, "/v1/certificate", &json!({}));
    }
    let events = |lines: &[Value]| {
        let mut events: Vec<String> =
            lines.iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
        events.sort();
        events.dedup();
        events
    };
    for member in &MEMBERS {
        let Some(tenant) = member.tenant else { continue };
        let lines = audited(&host, &["--tenant", tenant]);
        assert!(lines.iter().all(|line| line["tenant"] == tenant), "{lines:?}");
        let agents = lines.iter().filter_map(|line| line["agent"].as_str());
        assert!(agents.clone().count() >= 5 && agents.clone().all(|agent| agent == member.name));
        for event in [
            "certificate-issued",
            "credential-released",
            "credential-stored",
            "introspected",
            "request-refused",
            "token-issued",
        ] {
            assert!(events(&lines).iter().any(|found| found == event), "{event}: {:?}", events(&lines));
        }
        let refused = audited(&host, &["--tenant", tenant, "--event", "request-refused"]);
        assert_eq!(refused.len(), 1);
    }
    assert!(audited(&host, &["--tenant", "unknown"]).is_empty());
}

#[test]
fn the_quotas_of_a_tenant_bound_all_its_agents_together_and_no_others() {
    let host = host_with(
        "[tenant.acme]\nlive_tokens = 3\ncredentials = 1\ncertificates = 2\n[tenant.globex]\nrate = 1\nburst = 4\n",
    );
    let [alpha, beta, gamma] = &MEMBERS;
    Member { name: "alpha2", tenant: Some("acme"), uid: 1234 }.register(&host);
    host.reload();
    let alpha2 = Member { name: "alpha2", tenant: Some("acme"), uid: 1234 };

    alpha.token(&host);
    alpha2.token(&host);
    alpha.jwt_svid(&host);
    for member in [alpha, &alpha2] {
        let refused = member.post(&host, "/v1/token", &json!({ "audience": API }));
        assert_eq!((refused.status, refused.error().as_str()), (429, "slow_down"));
        assert!(refused.text().contains("3 tokens, which is its quota"), "{}", refused.text());
        assert!(refused.header("retry-after").is_some());
    }
    gamma.token(&host);

    alpha.post(&host, "/v1/certificate", &json!({}));
    assert_eq!(alpha2.post(&host, "/v1/certificate", &json!({})).status, 200);
    let refused = alpha.post(&host, "/v1/certificate", &json!({}));
    assert_eq!((refused.status, refused.error().as_str()), (429, "slow_down"), "{}", refused.text());
    assert_eq!(gamma.post(&host, "/v1/certificate", &json!({})).status, 200);

    put(&host, Some("acme"), "key", "x");
    let body = json!({ "name": "other", "tenant": "acme", "value": "x" });
    let refused = host.admin().post("/v1/credentials/put", &body);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("this tenant has 1 credentials, which is its quota"));
    put(&host, Some("globex"), "key", "x");
    put(&host, Some("globex"), "other", "x");

    until_true("the rate of the tenant is reached", || {
        let answer = beta.post(&host, "/v1/token", &json!({ "audience": API }));
        assert!(answer.status == 200 || answer.error() == "slow_down", "{}", answer.text());
        answer.status == 429
    });
    gamma.token(&host);
}

#[test]
fn a_token_names_its_tenant() {
    let host = host_with("");
    let own = claims(&MEMBERS[0].token(&host));
    assert_eq!(own["hostbadge"]["tenant"], "acme");
    assert!(own["sub"].as_str().unwrap().ends_with("/tenant/acme/agent/alpha"));
    assert!(claims(&MEMBERS[2].token(&host))["hostbadge"].get("tenant").is_none());
}

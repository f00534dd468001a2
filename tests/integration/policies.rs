//! Policies in Cedar: what they decide, on every socket, and how they are loaded.

use std::fs;

use serde_json::{Value, json};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::grpc::{Empty, Grpc, MESSAGE_TIMEOUT, PERMISSION_DENIED, X509Response};
use crate::common::http::claims;
use crate::common::{API, Host, until, until_true};

const PERMIT: &str = "permit (principal, action, resource);\n";

fn policy(host: &Host, name: &str, text: &str) {
    let dir = host.path("etc/policies");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), text).unwrap();
}

fn reload(host: &Host, words: &[&str]) -> (bool, String) {
    let output = host.hostbadge(&[&["agent", "reload"], words].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn refusal(host: &Host, path: &str, body: Value) -> String {
    let response = host.post(path, body);
    let json = response.json();
    assert_eq!((response.status, &json["error"]), (403, &json!("access_denied")), "{}", response.text());
    json["error_description"].as_str().unwrap().to_owned()
}

/// A host on which root is the agent `root` with a grant and a credential.
fn host() -> Host {
    let host = Host::new();
    host.agents_file(
        "root",
        &format!(
            "name = \"root\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\nscopes = [\"docs.read\", \
             \"docs.write\"]\n[[credential]]\nname = \"github\"\nuse = \"release\"\n"
        ),
    );
    host
}

#[test]
fn without_policy_files_nothing_is_said_of_policies() {
    let mut host = host();
    fs::create_dir_all(host.path("etc/policies")).unwrap();
    host.start();
    let token = host.token();
    assert_eq!(claims(&token)["hostbadge"].get("policy"), None);
    let policies = &host.status()["policies"];
    assert_eq!((&policies["loaded"], &policies["set"]), (&json!(true), &Value::Null));
    assert!(host.audit().iter().all(|line| line.get("policy").is_none()));
}

#[test]
fn a_forbid_refuses_each_action_and_records_name_the_set() {
    let mut host = host();
    for action in ["token", "certificate", "attest", "credential"] {
        let rule =
            format!("@id(\"no-{action}\")\nforbid (principal, action == Action::\"{action}\", resource);\n");
        policy(&host, &format!("{action}.cedar"), &rule);
    }
    host.start();
    let nonce = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for (path, body) in [
        ("/v1/token", json!({ "audience": API })),
        ("/v1/certificate", json!({})),
        ("/v1/attest", json!({ "nonce": nonce })),
        ("/v1/credential", json!({ "name": "github" })),
    ] {
        let action = path.rsplit('/').next().unwrap();
        let expected = format!("forbidden by policy \"no-{action}\" ({action}.cedar:1)");
        assert_eq!(refusal(&host, path, body), expected);
    }
    let set = host.status()["policies"]["set"].clone();
    assert_eq!(set["version"], 1);
    let audit = host.audit();
    let refused: Vec<&Value> = audit.iter().filter(|line| line["event"] == "request-refused").collect();
    assert_eq!(refused.len(), 4);
    assert!(
        refused.iter().all(|line| line["policy"] == set && line["reason"] == "access_denied"),
        "{refused:?}"
    );
    let entry = "refused: access_denied: forbidden by policy \"no-token\" (token.cedar:1)";
    until_true("the journal has the refusal", || host.log().contains(entry));

    let jwt = Grpc::connect(&host.workload_socket());
    assert_eq!(jwt.jwt(&[API], "").unwrap_err().code, PERMISSION_DENIED);
    let mut stream = jwt.stream("FetchX509SVID", &Empty {}).unwrap();
    let first = jwt.next::<X509Response>(&mut stream, MESSAGE_TIMEOUT).unwrap();
    assert_eq!(first.unwrap_err().code, PERMISSION_DENIED);
}

#[test]
fn what_is_issued_states_the_set_that_was_in_force() {
    let mut host = host();
    policy(&host, "a.cedar", "forbid (principal, action, resource) unless { context.peer.uid == 0 };\n");
    host.start();
    let sha256 = host.status()["policies"]["set"]["sha256"].clone();
    assert_eq!(claims(&host.token())["hostbadge"]["policy"], sha256);
    assert_eq!(host.post("/v1/certificate", json!({})).status, 200);
    let jwt = Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap();
    assert_eq!(claims(&jwt[0].svid)["hostbadge"]["policy"], sha256);
    for event in ["token-issued", "certificate-issued", "svid-issued"] {
        let line = host.audit().into_iter().find(|line| line["event"] == event).unwrap();
        assert_eq!(line["policy"], json!({ "version": 1, "sha256": sha256 }), "{event}");
    }
    assert!(host.introspect(&host.token())["active"].as_bool().unwrap());
    // What the policies do not decide: a start, an introspection, a caller that is no agent, a request without a grant.
    let unknown = Credentials::user(NOBODY).curl_at(&host.agent_socket(), "/v1/token", &["-d", "audience=x"]);
    assert_eq!(unknown.status, 401, "{}", unknown.text());
    assert_eq!(host.post("/v1/token", json!({ "audience": "https://none" })).status, 400);
    policy(
        &host,
        "b.cedar",
        "forbid (principal == Agent::\"root\", action == Action::\"attest\", resource);\n",
    );
    assert!(reload(&host, &[]).0);
    let second = host.status()["policies"]["set"].clone();
    let lines = host.audit();
    let of = |event: &str| {
        let found = lines.iter().filter(|line| line["event"] == event);
        found.map(|line| &line["policy"]).collect::<Vec<_>>()
    };
    let first = json!({ "version": 1, "sha256": sha256 });
    for event in ["daemon-started", "introspected", "request-refused", "token-issued"] {
        let sets = of(event);
        assert!(!sets.is_empty() && sets.iter().all(|set| **set == first), "{event}: {sets:?}");
    }
    assert_eq!(of("policies-reloaded"), [&second]);
    assert!(lines.iter().all(|line| line["policy"]["sha256"].is_string()), "{lines:?}");
}

#[test]
fn only_the_requests_that_a_policy_means_are_refused() {
    let mut host = host();
    let rule = "forbid (principal == Agent::\"root\", action == Action::\"token\", resource)\n\
                when { context.scopes.contains(\"docs.write\") && context.ttl > 60 };\n";
    policy(&host, "a.cedar", rule);
    host.start();
    let ask = |body: Value| host.post("/v1/token", body).status;
    assert_eq!(ask(json!({ "audience": API })), 403, "all scopes, 300 s");
    assert_eq!(ask(json!({ "audience": API, "scope": "docs.read" })), 200);
    assert_eq!(ask(json!({ "audience": API, "ttl": 60 })), 200);
    // The grants come first: what they refuse keeps its reason.
    assert_eq!(host.post("/v1/token", json!({ "audience": "https://other" })).error(), "invalid_target");
    let caller = crate::common::callers::Credentials::user(NOBODY).token(&host);
    assert_eq!(caller.error(), "invalid_client");
}

#[test]
fn a_jwt_svid_is_decided_with_the_lifetime_that_it_has() {
    const OTHER: &str = "https://other.example.com";
    let mut host = Host::new();
    let grant =
        |audience: &str, ttl: &str| format!("[[grant]]\naudience = \"{audience}\"\nttl = \"{ttl}\"\n");
    let grants = grant(API, "10m") + &grant(OTHER, "1m");
    host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{grants}"));
    let rule = "forbid (principal, action == Action::\"token\", resource) when { context.ttl > 60 };\n";
    policy(&host, "a.cedar", rule);
    host.start();
    let client = Grpc::connect(&host.workload_socket());
    assert_eq!(client.jwt(&[API], "").unwrap_err().code, PERMISSION_DENIED);
    for audiences in [&[OTHER][..], &[API, OTHER], &[OTHER, API]] {
        let svids = client.jwt(audiences, "").unwrap();
        let claims = claims(&svids[0].svid);
        let times = [&claims["nbf"], &claims["exp"]].map(|time| time.as_u64().unwrap());
        // `nbf` is 10 s before the issue.
        assert_eq!(times[1] - times[0], 70, "{audiences:?}");
    }
}

#[test]
fn a_policy_that_cannot_be_evaluated_refuses_and_is_named() {
    let mut host = host();
    let overflow = "permit (principal, action == Action::\"token\", resource)\n\
                    when { context.ttl + 9223372036854775807 > 0 };\n";
    policy(&host, "a.cedar", &format!("{PERMIT}{overflow}"));
    host.start();
    let reason = refusal(&host, "/v1/token", json!({ "audience": API }));
    assert!(
        reason.starts_with("policy a.cedar:2 cannot be evaluated, so the request is refused: "),
        "{reason}"
    );
    let entry = "policy a.cedar:2 cannot be evaluated";
    until_true("the journal has the policy", || host.log().contains(entry));
    assert_eq!(host.post("/v1/certificate", json!({})).status, 200, "the policy is for tokens");
}

#[test]
fn require_permit_refuses_what_no_policy_permits() {
    let mut host = host();
    host.configure("[policy]\nrequire_permit = true\n");
    host.start();
    let expected = "no policy permits this request, and this host requires that one does";
    assert_eq!(refusal(&host, "/v1/token", json!({ "audience": API })), expected);
    policy(&host, "a.cedar", "permit (principal, action == Action::\"token\", resource);\n");
    assert!(reload(&host, &[]).0);
    host.token();
    assert_eq!(refusal(&host, "/v1/certificate", json!({})), expected);
    assert_eq!(host.status()["policies"]["require_permit"], true);
}

#[test]
fn agents_and_policies_become_active_together_or_not_at_all() {
    let mut host = host();
    policy(&host, "a.cedar", PERMIT);
    host.start();
    let set = || host.status()["policies"]["set"].clone();
    let before = set();

    // A fault of a policy keeps the new agent out.
    host.agent("second", "user = 4242");
    policy(&host, "a.cedar", "permit (principal, action, resource)\nwhen { context.hour > 3 };\n");
    let (is_done, text) = reload(&host, &[]);
    assert!(!is_done && text.contains("policies/a.cedar:2: "), "{text}");
    assert_eq!((host.status()["agents"]["agents"].as_u64(), set()), (Some(1), before.clone()));
    let audit = host.audit();
    assert!(audit.iter().any(|line| line["event"] == "policies-rejected"));
    assert!(!audit.iter().any(|line| line["event"] == "agents-rejected"));

    // A fault of an agent keeps the new policy out.
    policy(&host, "a.cedar", "forbid (principal, action, resource);\n");
    let broken = host.agents_file("third", "name = 3\n");
    assert!(!reload(&host, &[]).0);
    assert_eq!(set(), before);
    host.token();

    fs::remove_file(broken).unwrap();
    assert!(reload(&host, &[]).0);
    assert_eq!((host.status()["agents"]["agents"].as_u64(), &set()["version"]), (Some(2), &json!(2)));
    refusal(&host, "/v1/token", json!({ "audience": API }));
    let reloaded = host.audit().into_iter().find(|line| line["event"] == "policies-reloaded").unwrap();
    assert!(reloaded["detail"].as_str().unwrap().contains("version 2, 1 policy, SHA-256 "), "{reloaded}");
}

#[test]
fn policies_that_vanish_stay_in_force_unless_that_is_meant() {
    let mut host = host();
    policy(&host, "a.cedar", "forbid (principal, action, resource);\n");
    host.start();
    fs::remove_dir_all(host.path("etc/policies")).unwrap();
    let (is_done, text) = reload(&host, &[]);
    assert!(!is_done && text.contains("the daemon keeps the 1 policy in force"), "{text}");
    refusal(&host, "/v1/token", json!({ "audience": API }));
    assert!(reload(&host, &["--allow-empty=policies"]).0);
    host.token();
    assert_eq!(host.status()["policies"]["set"], Value::Null);
}

#[test]
fn with_faults_at_the_start_nothing_is_permitted_until_a_reload_succeeds() {
    let mut host = host();
    policy(&host, "a.cedar", "permit (principal, action, resource\n");
    host.start();
    let response = host.post("/v1/token", json!({ "audience": API }));
    assert_eq!((response.status, response.error().as_str()), (503, "temporarily_unavailable"));
    assert_eq!(host.status()["policies"]["loaded"], false);
    assert!(host.log().contains("policies/a.cedar:"), "{}", host.log());
    policy(&host, "a.cedar", PERMIT);
    assert!(reload(&host, &[]).0);
    host.token();
}

#[test]
fn a_stream_loses_its_certificate_when_a_policy_forbids_it() {
    let mut host = host();
    host.start();
    let client = Grpc::connect(&host.workload_socket());
    let mut stream = client.stream("FetchX509SVID", &Empty {}).unwrap();
    let first = client.next::<X509Response>(&mut stream, MESSAGE_TIMEOUT).unwrap().unwrap();
    assert_eq!(first.svids.len(), 1);
    policy(&host, "a.cedar", "forbid (principal, action == Action::\"certificate\", resource);\n");
    assert!(reload(&host, &[]).0);
    let end = until("the stream ends", || client.next::<X509Response>(&mut stream, MESSAGE_TIMEOUT)?.err());
    assert_eq!(end.code, PERMISSION_DENIED);
}

#[test]
fn a_time_zone_that_does_not_exist_is_a_fault_of_the_configuration() {
    let host = Host::new();
    host.configure("[policy]\ntimezone = \"Europe/Atlantis\"\n");
    assert_eq!(host.command().status().unwrap().code(), Some(2));
    assert!(host.log().contains("\"Europe/Atlantis\" is no time zone of this host"), "{}", host.log());
}

#[test]
fn five_thousand_policies_in_one_file_load() {
    let mut host = host();
    let rules: String = (0..5_000)
        .map(|n| format!("forbid (principal == Agent::\"agent-{n}\", action, resource);\n"))
        .collect();
    policy(&host, "all.cedar", &rules);
    host.start();
    assert_eq!(host.status()["policies"]["policies"], 5_000);
    host.token();
    policy(&host, "all.cedar", &format!("{rules}forbid (principal in Agent::\"root\", action, resource);\n"));
    assert!(reload(&host, &[]).0);
    assert_eq!(refusal(&host, "/v1/token", json!({ "audience": API })), "forbidden by policy all.cedar:5001");
}

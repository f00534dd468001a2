//! What a reload changes in the policies: which of it widens rights, and waits for a second administrator.

use std::fs;

use serde_json::{Value, json};

use crate::change_control::{agent, approve_as, approve_as_root, ask, grant, host_for_two, lifetime, start};
use crate::common::grpc::{Grpc, PERMISSION_DENIED};
use crate::common::{API, Host};

const FORBID: &str =
    "@id(\"short\")\nforbid (principal, action == Action::\"token\", resource)\nwhen { context.ttl > 60 };\n";

fn policies(host: &Host, files: &[(&str, &str)]) {
    let dir = host.path("etc/policies");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
}

/// Whether the agent gets a token of 10 minutes.
fn gets_long_token(host: &Host) -> bool {
    host.post("/v1/token", json!({ "audience": API, "ttl": "10m" })).status == 200
}

fn policy_status(host: &Host) -> Value {
    host.status()["policies"].clone()
}

/// The detail of the last record of an event.
fn detail(host: &Host, event: &str) -> String {
    let lines = host.audit();
    lines.iter().rfind(|line| line["event"] == event).unwrap()["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_reload_names_the_policies_that_changed_and_those_that_widen() {
    let mut host = Host::new();
    agent(&host, "", &grant("ttl = \"10m\""));
    policies(&host, &[("a.cedar", FORBID)]);
    host.start();
    let more = "forbid (principal == Agent::\"root\", action == Action::\"attest\", resource);\n";
    policies(&host, &[("a.cedar", &FORBID.replace("60", "600")), ("b.cedar", more)]);
    let answer = host.admin().post("/v1/agents/reload", &json!({}));
    let expected = json!({
        "added": ["b.cedar:1"], "changed": ["\"short\" (a.cedar:1)"], "removed": [], "count": 2, "widening": 1
    });
    assert_eq!(answer.json()["policies"], expected, "{}", answer.text());
    let said = detail(&host, "policies-reloaded");
    let who =
        format!("uid 0, pid {} reloaded the policies: version 2, 2 policies, SHA-256 ", std::process::id());
    let what = "; 2 changes of rights, 1 of them wider: [policy \"short\" (a.cedar:1): forbid changed (wider), policy \
                b.cedar:1: new forbid]";
    assert!(said.starts_with(&who) && said.ends_with(what), "{said}");

    // Another layout is another set, and no other rights.
    policies(&host, &[("c.cedar", &format!("// both\n{more}{}", FORBID.replace("60", "600")))]);
    let printed = host.hostbadge(&["agent", "reload"]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(!printed.contains("policies"), "{printed}");
    assert!(detail(&host, "policies-reloaded").contains("version 3, 2 policies"));

    let many: String = (0..12).map(|n| FORBID.replace("short", &format!("p{n}"))).collect();
    policies(&host, &[("c.cedar", &many)]);
    let printed = String::from_utf8(host.hostbadge(&["agent", "reload"]).stdout).unwrap();
    assert!(
        printed.contains("policies  new \"p0\" (c.cedar:1), ") && printed.contains("; 2 more; "),
        "{printed}"
    );
    assert!(printed.trim_end().ends_with("rights become wider by 2 of them"), "{printed}");
    fs::remove_dir_all(host.path("etc/policies")).unwrap();
    assert!(host.hostbadge(&["agent", "reload", "--allow-empty=policies"]).status.success());
    let said = detail(&host, "policies-reloaded");
    assert!(said.contains("there are none any more; 12 changes of rights, 12 of them wider: ["), "{said}");
    assert!(said.ends_with(" and 7 more]"), "{said}");
}

#[test]
fn wider_policies_alone_wait_for_another_administrator() {
    let (host, member) = host_for_two();
    agent(&host, "", &grant("ttl = \"10m\""));
    let pending = ask(&host);
    assert_eq!(approve_as(&host, &member, &pending["digest"]).status, 200);
    assert!(gets_long_token(&host));

    // A new forbid narrows.
    policies(&host, &[("a.cedar", FORBID)]);
    assert_eq!(ask(&host), Value::Null);
    assert!(!gets_long_token(&host));
    let before = policy_status(&host);
    assert_eq!(before["set"]["version"], 1);

    // A changed one may not.
    policies(&host, &[("a.cedar", &FORBID.replace("60", "600"))]);
    let pending = ask(&host);
    let change = json!(["policy \"short\" (a.cedar:1): forbid changed (wider)"]);
    assert_eq!((&pending["widening"], &pending["changes"]), (&json!(1), &change));
    assert!(!gets_long_token(&host));
    assert_eq!(policy_status(&host), before);
    let digest = &pending["digest"];
    assert_eq!(host.status()["agents"]["pending"]["digest"], *digest);
    let shown = String::from_utf8(host.hostbadge(&["status"]).stdout).unwrap();
    assert!(shown.contains("forbid changed (wider)") && shown.contains("agent approve"), "{shown}");
    assert!(
        detail(&host, "change-pending").contains("[policy \"short\" (a.cedar:1): forbid changed (wider)]")
    );

    let (status, text) = approve_as_root(&host, digest);
    assert!(status == 409 && text.contains("the same administrator"), "{text}");
    // A file that was edited after the request, by one comment.
    policies(&host, &[("a.cedar", &format!("{}// more\n", FORBID.replace("60", "600")))]);
    let edited = approve_as(&host, &member, digest);
    assert!(edited.status == 409 && edited.text().contains("have changed"), "{}", edited.text());
    assert!(!gets_long_token(&host));
    let again = ask(&host);
    assert_ne!(again["digest"], *digest);
    let approved = approve_as(&host, &member, &again["digest"]);
    assert_eq!(approved.status, 200, "{}", approved.text());
    assert_eq!(approved.json()["policies"]["changed"], json!(["\"short\" (a.cedar:1)"]));
    assert!(gets_long_token(&host));
    let after = policy_status(&host);
    assert_eq!(after["set"]["version"], 2);
    assert!(detail(&host, "policies-reloaded").contains("which uid 0, pid "));

    // A removed one does widen.
    fs::remove_dir_all(host.path("etc/policies")).unwrap();
    let answer = host.admin().post("/v1/agents/reload", &json!({ "allow_empty": ["policies"] }));
    let pending = answer.json()["pending"].clone();
    assert_eq!(pending["changes"], json!(["policy \"short\" (a.cedar:1): forbid removed (wider)"]));
    assert_eq!(policy_status(&host), after);
}

#[test]
fn agents_and_policies_wait_together() {
    let (host, member) = host_for_two();
    agent(&host, "", &grant("ttl = \"10m\""));
    policies(&host, &[("a.cedar", FORBID)]);
    let pending = ask(&host);
    let changes = pending["changes"].as_array().unwrap();
    assert_eq!((changes.len(), &pending["widening"]), (2, &json!(1)), "{pending}");
    assert_eq!(changes[1], "policy \"short\" (a.cedar:1): new forbid");
    // Not even the narrower policy is in force.
    assert_eq!((lifetime(&host), policy_status(&host)["set"].clone()), (60, Value::Null));
    let approved = approve_as(&host, &member, &pending["digest"]);
    assert_eq!(approved.json()["changed"], json!(["root"]), "{}", approved.text());
    let refused = host.post("/v1/token", json!({ "audience": API, "ttl": "10m" }));
    assert!(refused.text().contains("forbidden by policy"), "{}", refused.text());
    assert_eq!(host.post("/v1/token", json!({ "audience": API, "ttl": "1m" })).status, 200);
}

#[test]
fn an_agent_that_loses_what_a_forbid_refuses_it_for_waits() {
    let (host, member) = host_for_two();
    fs::create_dir_all(host.path("etc/roles.d")).unwrap();
    fs::write(host.path("etc/roles.d/intern.toml"), "name = \"intern\"\n").unwrap();
    agent(&host, "roles = [\"intern\"]", &grant("ttl = \"1m\""));
    let pending = ask(&host);
    assert_eq!(approve_as(&host, &member, &pending["digest"]).status, 200);
    policies(&host, &[("a.cedar", "forbid (principal in Role::\"intern\", action, resource);\n")]);
    assert_eq!(ask(&host), Value::Null);
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 403);
    agent(&host, "", &grant("ttl = \"1m\""));
    let pending = ask(&host);
    assert_eq!(pending["changes"], json!(["agent root: role intern removed (wider)"]));
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 403);
}

#[test]
fn a_grant_that_loses_what_a_forbid_refuses_a_jwt_svid_for_waits() {
    let (host, member) = host_for_two();
    let scopes = |scopes: &str| agent(&host, "", &grant(&format!("ttl = \"1m\"\nscopes = [{scopes}]")));
    scopes("\"read\", \"admin\"");
    let pending = ask(&host);
    assert_eq!(approve_as(&host, &member, &pending["digest"]).status, 200);
    let rule = "forbid (principal, action == Action::\"token\", resource)\n\
                when { context.scopes.contains(\"admin\") };\n";
    policies(&host, &[("a.cedar", rule)]);
    assert_eq!(ask(&host), Value::Null);
    // The request for a JWT-SVID cannot leave the scope out, that for a token can.
    let jwt = || Grpc::connect(&host.workload_socket()).jwt(&[API], "");
    assert_eq!(jwt().unwrap_err().code, PERMISSION_DENIED);
    assert_eq!(host.post("/v1/token", json!({ "audience": API, "scope": "read" })).status, 200);
    scopes("\"read\"");
    let pending = ask(&host);
    let change = format!("agent root: grant for {API}: scopes -admin (wider)");
    assert_eq!(pending["changes"], json!([change]));
    assert_eq!(jwt().unwrap_err().code, PERMISSION_DENIED);
    assert_eq!(approve_as(&host, &member, &pending["digest"]).status, 200);
    assert_eq!(jwt().unwrap().len(), 1);
}

#[test]
fn where_requests_need_a_permit_a_new_one_waits() {
    let (mut host, member) = host_for_two();
    host.stop();
    host.configure(
        "[change]\nrequire = \"two\"\n[admin]\ngroup = \"daemon\"\n[policy]\nrequire_permit = true\n",
    );
    start(&mut host);
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 403);
    policies(&host, &[("a.cedar", "permit (principal, action, resource);\n")]);
    let pending = ask(&host);
    assert_eq!(pending["changes"], json!(["policy a.cedar:1: new permit (wider)"]));
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 403);
    assert_eq!(approve_as(&host, &member, &pending["digest"]).status, 200);
    assert_eq!(lifetime(&host), 60);
    // With a further condition it narrows.
    policies(&host, &[("a.cedar", "permit (principal, action, resource)\nwhen { principal has owner };\n")]);
    assert_eq!(ask(&host), Value::Null);
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 403);
}

#[test]
fn a_start_activates_only_policies_that_were_approved() {
    let (mut host, member) = host_for_two();
    policies(&host, &[("a.cedar", FORBID)]);
    assert_eq!(ask(&host), Value::Null);
    let in_force = policy_status(&host)["set"]["sha256"].clone();
    host.stop();
    start(&mut host);
    assert_eq!(
        (lifetime(&host), &policy_status(&host)["set"]["sha256"]),
        (60, &in_force),
        "the files are the same"
    );
    for change in ["removed", "with a fault", "widened"] {
        host.stop();
        match change {
            "removed" => fs::remove_dir_all(host.path("etc/policies")).unwrap(),
            "with a fault" => policies(&host, &[("a.cedar", "forbid (principal")]),
            _ => policies(&host, &[("a.cedar", &FORBID.replace("60", "600"))]),
        }
        start(&mut host);
        let status = host.status();
        assert_eq!(
            (&status["agents"]["loaded"], &status["policies"]["loaded"]),
            (&json!(false), &json!(false)),
            "{change}: {status}"
        );
        assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 503, "{change}");
    }
    let pending = ask(&host);
    let digest = &pending["digest"];
    assert_eq!(*digest, host.status()["agents"]["pending"]["digest"]);
    assert_eq!(approve_as(&host, &member, digest).status, 200);
    assert_eq!(lifetime(&host), 60);
    assert_eq!(policy_status(&host)["policies"], 1);
}

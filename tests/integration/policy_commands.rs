//! `hostbadge policy check|show|why|schema`.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::common::{API, Host};

const RULES: &str = "@id(\"short-writes\")\nforbid (principal == Agent::\"root\", action == Action::\"token\", resource)\n\
                     when { context.scopes.contains(\"docs.write\") && context.ttl > 60 };\n\
                     forbid (principal, action == Action::\"certificate\", resource)\n\
                     when { context.time.weekday == \"Sun\" };\n\
                     permit (principal in Tenant::\"acme\", action, resource);\n";

fn write(host: &Host, text: &str) {
    let dir = host.path("etc/policies");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.cedar"), text).unwrap();
}

/// A running host on which root is the agent `root`, with [`RULES`].
fn host() -> Host {
    let mut host = Host::new();
    host.agents_file(
        "root",
        &format!(
            "name = \"root\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\nscopes = [\"docs.read\", \
             \"docs.write\"]\n[[credential]]\nname = \"github\"\nuse = \"release\"\n[[credential]]\nname = \"stripe\"\n"
        ),
    );
    host.agents_file("unit", "name = \"unit\"\n[match]\nuser = 4242\nunit = \"unit.service\"\n");
    write(&host, RULES);
    host.start();
    host
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn why(host: &Host, words: &[&str]) -> Value {
    serde_json::from_str(&text(&host.hostbadge(&[&["policy", "why", "--json"], words].concat()))).unwrap()
}

/// The verdicts of identity, least privilege and context.
fn verdicts(why: &Value) -> [&str; 3] {
    [0, 1, 2].map(|at| why["layers"][at]["verdict"].as_str().unwrap())
}

#[test]
fn check_prints_faults_warnings_and_the_number_of_policies_without_a_daemon() {
    let host = Host::new();
    write(&host, RULES);
    let dir = host.path("etc/policies");
    let check =
        |words: &[&str]| host.hostbadge(&[&["policy", "check", dir.to_str().unwrap()], words].concat());
    assert_eq!(text(&check(&[])), format!("{}: 3 policies, no faults\n", dir.display()));
    let summary: Value = serde_json::from_str(&text(&check(&["--json"]))).unwrap();
    assert_eq!((&summary["policies"], &summary["faults"]), (&json!(3), &json!([])));
    assert_eq!(summary["sha256"].as_str().unwrap().len(), 64);

    write(&host, &format!("{RULES}permit (principal, action, resource) when {{ false }};\n"));
    let output = check(&[]);
    let warning = format!("{}/a.cedar:7: warning: policy is impossible", dir.display());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&warning), "{output:?}");
    assert!(text(&output).contains("4 policies"));

    write(&host, &format!("{RULES}permit (principal, action, resource) when {{ context.hour }};\n"));
    let output = check(&[]);
    assert_eq!(output.status.code(), Some(1));
    let fault = format!("{}/a.cedar:7: attribute `hour` in context not found", dir.display());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&fault), "{output:?}");
}

#[test]
fn show_lists_the_policies_in_force_and_those_of_an_agent() {
    let host = host();
    let all = text(&host.hostbadge(&["policy", "show"]));
    for line in ["a.cedar:1  short-writes  forbid  agent root", "a.cedar:4  -", "permit  tenant acme"] {
        assert!(all.contains(line), "{line}\nis not in\n{all}");
    }
    let of_unit: Value =
        serde_json::from_str(&text(&host.hostbadge(&["policy", "show", "--agent", "unit", "--json"])))
            .unwrap();
    let ids: Vec<&str> =
        of_unit["policies"].as_array().unwrap().iter().map(|policy| policy["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a.cedar:4"]);
    assert_eq!(host.hostbadge(&["policy", "show", "--agent", "nobody"]).status.code(), Some(1));
    let schema = text(&host.hostbadge(&["policy", "schema"]));
    assert!(schema.contains("entity Agent in [Tenant, Role]"));
}

#[test]
fn why_names_the_layer_the_rule_and_what_would_have_to_change() {
    let host = host();
    let allowed = why(&host, &["root", "--audience", API, "--scope", "docs.read"]);
    assert_eq!((verdicts(&allowed), &allowed["allowed"]), (["allows"; 3], &json!(true)));

    let forbidden = why(&host, &["root", "--audience", API]);
    assert_eq!(verdicts(&forbidden), ["allows", "allows", "refuses"]);
    let rule = &forbidden["layers"][2]["rules"][0];
    assert_eq!(rule["rule"], "\"short-writes\" (a.cedar:1)");
    assert!(rule["text"].as_str().unwrap().contains("context.ttl > 60"));
    assert!(forbidden["layers"][2]["change"].as_str().unwrap().contains("policies"));
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 403, "as the daemon decides");

    let no_grant = why(&host, &["root", "--audience", "https://other"]);
    assert_eq!(verdicts(&no_grant), ["allows", "refuses", "not-asked"]);
    assert_eq!(
        no_grant["layers"][1]["change"],
        "the agent would need a [[grant]] with audience = \"https://other\""
    );
    let no_scope = why(&host, &["root", "--audience", API, "--scope", "admin"]);
    assert!(no_scope["layers"][1]["reason"].as_str().unwrap().contains("no scope \"admin\""));

    let unknown = why(&host, &["nobody", "--attest"]);
    assert_eq!(verdicts(&unknown), ["refuses", "not-asked", "not-asked"]);
    let conditions = why(&host, &["unit", "--attest"])["layers"][0]["rules"].clone();
    assert_eq!(
        conditions,
        json!([{ "rule": "[match] user = 4242" }, { "rule": "[match] unit = \"unit.service\"" }])
    );
    let elsewhere = why(&host, &["unit", "--attest", "--unit", "other.service", "--uid", "4242"]);
    assert_eq!(verdicts(&elsewhere), ["refuses", "not-asked", "not-asked"]);
    assert_eq!(
        elsewhere["layers"][0]["change"],
        "the process would need unit unit.service and not other.service"
    );

    // Sunday 2026-11-29, and the Saturday before.
    let on = |day: &str| why(&host, &["root", "--certificate", "--at", &format!("2026-11-{day}T10:00:00Z")]);
    assert_eq!((verdicts(&on("29"))[2], verdicts(&on("28"))[2]), ("refuses", "allows"));
    assert_eq!(on("29")["layers"][2]["rules"][0]["rule"], "a.cedar:4");

    let credential = |name: &str| why(&host, &["root", "--credential", name]);
    assert_eq!(
        (verdicts(&credential("github"))[1], verdicts(&credential("stripe"))[1]),
        ("allows", "refuses")
    );
    assert_eq!(
        credential("stripe")["layers"][1]["change"],
        "the [[credential]] would need use = \"release\""
    );

    let printed = text(&host.hostbadge(&["policy", "why", "root", "--audience", API]));
    for line in ["decision  refused", "context    refuses", "short-writes", "to change"] {
        assert!(printed.contains(line), "{line}\nis not in\n{printed}");
    }
}

#[test]
fn why_explains_a_record_of_the_audit_log() {
    let host = host();
    host.post("/v1/token", json!({ "audience": API, "scope": "docs.read" }));
    host.post("/v1/token", json!({ "audience": API }));
    let audit = host.audit();
    let seq = |event: &str| {
        audit.iter().find(|line| line["event"] == event).unwrap()["seq"].as_u64().unwrap().to_string()
    };
    let issued = why(&host, &["--record", &seq("token-issued")]);
    assert_eq!((verdicts(&issued), &issued["agent"]), (["allows"; 3], &json!("root")));
    assert!(
        issued["layers"][1]["reason"].as_str().unwrap().contains("scope docs.read for 300 s"),
        "{issued}"
    );
    let refused = why(&host, &["--record", &seq("request-refused")]);
    assert_eq!(verdicts(&refused), ["allows", "allows", "refuses"]);
    assert_eq!(refused.get("recorded_policy"), None);

    write(&host, "permit (principal, action, resource);\n");
    assert!(host.hostbadge(&["agent", "reload"]).status.success());
    let now = why(&host, &["--record", &seq("request-refused")]);
    assert_eq!((verdicts(&now)[2], &now["recorded_policy"]["version"]), ("allows", &json!(1)));
    let missing = host.hostbadge(&["policy", "why", "--record", "999999"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no record of a decision with this number"));
}

#[test]
fn why_needs_to_know_what_is_asked() {
    let host = host();
    let output = host.hostbadge(&["policy", "why", "root"]);
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("--audience, --certificate, --attest, --credential or --prove")
    );
    for query in ["action=token", "action=fly&agent=root", "uid=x", "time=now", "record=-1", "colour=blue"] {
        let response = host.admin().get(&format!("/v1/policies/why?{query}"));
        assert_eq!(response.status, 400, "{query}: {}", response.text());
    }
}

#[test]
fn why_asks_the_policies_with_the_lifetime_that_the_end_of_the_grant_leaves() {
    let mut host = Host::new();
    let now = hostbadge::clock::Clock::System.now().as_secs();
    let end = hostbadge::clock::Timestamp::from_secs(now + 1_200).to_rfc3339_seconds();
    host.agents_file(
        "root",
        &format!(
            "name = \"root\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\nttl = \"1h\"\nexpires = {end}\n"
        ),
    );
    write(&host, "forbid (principal, action == Action::\"token\", resource) when { context.ttl > 1200 };\n");
    host.start();
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 200);
    assert_eq!(verdicts(&why(&host, &["root", "--audience", API]))[1..], ["allows", "allows"]);
}

/// Policies do not change what `why` says of a host without any.
#[test]
fn why_works_without_policies() {
    let host = Host::started();
    let explained = why(&host, &["root", "--audience", API]);
    assert_eq!((verdicts(&explained), &explained["policy"]), (["allows"; 3], &Value::Null));
    assert_eq!(explained["layers"][2]["reason"], "no policy applies, so the grant suffices");
    let rule = json!([{ "rule": "implicit permit ([policy] require_permit = false)" }]);
    assert_eq!(explained["layers"][2]["rules"], rule);
}

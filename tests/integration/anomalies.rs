//! Rules that compare an agent with what it did before: canary credentials, alerts, suspensions and the way back.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use crate::certificates::{P256, csr};
use crate::common::callers::{Credentials, Unit};
use crate::common::{API, Host, require_root, until, until_true};
use serde_json::{Value, json};

/// A host on which every process of uid 0 is the agent `a`, with this in its file.
fn host_with(more: &str) -> Host {
    let mut host = Host::new();
    let grant = format!("[[grant]]\naudience = \"{API}\"\nscopes = []\n");
    host.agents_file("a", &format!("name = \"a\"\n[match]\nuser = 0\n{grant}{more}"));
    host.start();
    host
}

/// Stores a canary as an administrator does.
fn put_canary(host: &Host, name: &str) {
    let output = host.hostbadge_with(&["credential", "put", name, "--canary"], "sk-nobody-uses-this");
    assert!(output.status.success());
}

fn ask_for(host: &Host, credential: &str) -> u16 {
    host.post("/v1/credential", json!({ "name": credential })).status
}

fn token_status(host: &Host) -> u16 {
    host.post("/v1/token", json!({ "audience": API })).status
}

fn anomalies(host: &Host) -> Value {
    host.admin().get("/v1/anomalies").json()
}

fn records(host: &Host, event: &str) -> Vec<Value> {
    host.audit().into_iter().filter(|record| record["event"] == event).collect()
}

#[track_caller]
fn said(host: &Host, words: &[&str]) -> String {
    let output = host.hostbadge(words);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {text}");
    text
}

#[test]
fn an_agent_that_asks_for_a_canary_is_suspended_at_once_and_resumed_by_root() {
    let host = host_with("[[credential]]\nname = \"root-key\"\nuse = \"release\"\n");
    put_canary(&host, "root-key");
    let shown = said(&host, &["credential", "show", "root-key"]);
    assert!(shown.contains("canary"), "{shown}");
    let listener = UnixListener::bind(host.path("run/alert.sock")).unwrap();
    let before = host.token();
    assert_eq!(ask_for(&host, "root-key"), 200, "the canary is released");
    let asked = Instant::now();
    until_true("the agent is suspended", || token_status(&host) == 403);
    println!("suspended {:?} after the answer", asked.elapsed());
    assert_eq!(host.status()["agents"]["loaded"], true, "the host goes on");

    // The program of the administrator gets one line of JSON.
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut line = String::new();
    stream.read_to_string(&mut line).unwrap();
    let event: Value = serde_json::from_str(line.trim_end()).unwrap();
    let is = |member: &str, value: &str| assert_eq!(event[member], value, "{event}");
    is("event", "anomaly-detected");
    is("rule", "canary");
    is("agent", "a");
    is("resume", "hostbadge anomaly resume a");

    until_true("the alert is recorded", || !records(&host, "agent-suspended").is_empty());
    let found = records(&host, "anomaly-detected");
    assert_eq!((&found[0]["rule"], &found[0]["agent"]), (&json!("canary"), &json!("a")), "{found:?}");
    let suspended = records(&host, "agent-suspended");
    let detail = suspended[0]["detail"].as_str().unwrap();
    assert!(detail.contains("hostbadge anomaly resume a"), "{detail}");
    let listed = until("the alert is listed", || {
        let listed = anomalies(&host);
        (listed["alerts"].as_array()?.len() == 1).then_some(listed)
    });
    assert_eq!(listed["suspended"][0]["agent"], "a", "{listed}");
    assert!(said(&host, &["anomaly", "list"]).contains("it got the canary credential root-key"));
    assert!(said(&host, &["anomaly", "show", "a"]).contains("suspended by the rule canary"));
    assert!(said(&host, &["agent", "show", "a"]).contains("suspended by the rule canary"));
    assert_eq!(host.status()["anomalies"], json!({ "alerts": 1, "suspended": 1 }));
    let warnings = host.status()["warnings"].to_string();
    assert!(warnings.contains("suspended: a by the rule canary"), "{warnings}");

    assert!(said(&host, &["anomaly", "resume", "a"]).contains("resumed a"));
    assert_eq!(token_status(&host), 200);
    assert_eq!(records(&host, "agent-resumed").len(), 1);
    let lifted = host.introspect(&before);
    assert_eq!(lifted["active"], false, "what was issued before stays revoked");
    let again = host.hostbadge(&["anomaly", "resume", "a"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not suspended"));
    // Right after it, the next touch counts again.
    assert_eq!(ask_for(&host, "root-key"), 200);
    until_true("the agent is suspended again", || token_status(&host) == 403);
}

#[test]
fn a_canary_counts_without_a_grant_and_the_agents_file_decides_what_follows() {
    let host = host_with("[anomaly]\ncanary = \"alert\"\nrefusals = \"off\"\n");
    put_canary(&host, "root-key");
    for _ in 0..100 {
        // Some are beyond the agent's rate.
        assert!(matches!(ask_for(&host, "root-key"), 400 | 403 | 429));
    }
    let listed = until("the alert", || {
        let listed = anomalies(&host);
        (!listed["alerts"].as_array()?.is_empty()).then_some(listed)
    });
    let alerts = listed["alerts"].as_array().unwrap();
    assert_eq!(alerts.len(), 1, "one alert for all of them, and none of the rule that is off: {alerts:?}");
    assert_eq!(alerts[0]["detail"], "it asked for the canary credential root-key");
    assert_eq!(alerts[0]["suspended"], false);
    let status = host.admin().get("/v1/anomalies/a").json();
    let actions = status["rules"].as_array().unwrap();
    let action = |name: &str| actions.iter().find(|rule| rule["name"] == name).unwrap()["action"].clone();
    assert_eq!(
        (action("canary"), action("refusals"), action("hours")),
        (json!("alert"), json!("off"), json!("alert"))
    );
    let refused = host.admin().post("/v1/anomalies/resume", &json!({ "agent": "a" }));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(host.admin().get("/v1/anomalies/nobody").status, 404);
}

#[test]
fn an_administrators_revocation_is_not_resumed() {
    let host = host_with("");
    assert_eq!(host.admin().post("/v1/revocations/revoke", &json!({ "agent": "a" })).status, 200);
    let refused = host.admin().post("/v1/anomalies/resume", &json!({ "agent": "a" }));
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("hostbadge revoke lift agent"), "{}", refused.text());
    assert_eq!(token_status(&host), 403);
}

#[test]
fn a_rule_that_suspends_from_a_reload_on_does_so_at_its_next_finding() {
    let host = host_with("[anomaly]\ncanary = \"alert\"\n");
    put_canary(&host, "root-key");
    assert!(matches!(ask_for(&host, "root-key"), 400 | 403));
    until_true("the alert", || !records(&host, "anomaly-detected").is_empty());
    assert_eq!(token_status(&host), 200);
    let file = host.path("etc/agents.d/a.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("canary = \"alert\"", "canary = \"suspend\"")).unwrap();
    host.reload();
    until_true("the agent is suspended", || {
        ask_for(&host, "root-key");
        token_status(&host) == 403
    });
    assert_eq!(anomalies(&host)["suspended"][0]["rule"], "canary");
}

#[test]
fn what_a_person_revokes_or_offboards_after_a_rule_is_not_resumed() {
    let host = host_with("[[credential]]\nname = \"root-key\"\nuse = \"release\"\n");
    put_canary(&host, "root-key");
    let suspend = || {
        assert_eq!(ask_for(&host, "root-key"), 200);
        until_true("the agent is suspended", || token_status(&host) == 403);
    };
    let is_not_resumed = || {
        let refused = host.admin().post("/v1/anomalies/resume", &json!({ "agent": "a" }));
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.text().contains("hostbadge revoke lift agent"), "{}", refused.text());
        assert_eq!(token_status(&host), 403);
        assert_eq!(anomalies(&host)["suspended"], json!([]));
    };
    suspend();
    let revoked = host.admin().post("/v1/revocations/revoke", &json!({ "agent": "a", "reason": "leaked" }));
    assert_eq!((revoked.status, &revoked.json()["outcome"]), (200, &json!("revoked")));
    is_not_resumed();
    said(&host, &["revoke", "lift", "agent", "a"]);
    assert_eq!(token_status(&host), 200);
    suspend();
    said(&host, &["agent", "offboard", "a", "--reason", "left"]);
    is_not_resumed();
}

#[test]
fn a_burst_of_refusals_is_found_and_profiles_survive_a_restart_and_damage() {
    let mut host = host_with("");
    for _ in 0..40 {
        host.post("/v1/token", json!({ "audience": "https://nothing.example" }));
    }
    host.token();
    let alert = until("the alert", || anomalies(&host)["alerts"].as_array()?.first().cloned());
    assert_eq!(alert["rule"], "refusals", "{alert}");
    assert_eq!(token_status(&host), 200, "an alert alone suspends nobody");
    host.stop();
    let file = host.path("state/anomaly.json");
    assert!(fs::read_to_string(&file).unwrap().contains("\"a\""));
    host.start();
    let since = until("the profiles are read", || {
        let now = anomalies(&host);
        Some(now["known_since"].as_str()?.to_owned())
    });
    assert_eq!(anomalies(&host)["alerts"][0]["rule"], "refusals", "alerts survive too");
    let shown = said(&host, &["anomaly", "show", "a"]);
    assert!(shown.contains("learning") && shown.contains("days are left"), "{shown}");

    host.stop();
    fs::write(&file, "{\"version\": 1, \"agents\": ").unwrap();
    host.start();
    let later = until("the profiles are replaced", || {
        let now = anomalies(&host);
        Some(now["known_since"].as_str()?.to_owned())
    });
    assert_ne!(since, later);
    assert!(host.log().contains("observed from now on as if they were new"), "{}", host.log());
    assert_eq!(token_status(&host), 200);
}

#[test]
fn refusals_because_an_agent_is_drained_or_the_host_frozen_suspend_nobody() {
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1000\nburst = 1000\n");
    let table = "[anomaly]\nrefusals = \"suspend\"\n";
    let rest = format!("[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\n{table}");
    let file = |line: &str| format!("name = \"a\"\n{line}\n{rest}");
    host.agents_file("a", &file(""));
    host.start();
    put_canary(&host, "root-key");
    assert_eq!(host.admin().post("/v1/freeze", &json!({})).status, 200);
    for _ in 0..30 {
        assert_eq!(token_status(&host), 403);
    }
    until_true("the host is thawed", || host.admin().post("/v1/thaw", &json!({})).status == 200);
    host.agents_file("a", &file("drain = true"));
    host.reload();
    for _ in 0..30 {
        assert_eq!(token_status(&host), 403);
    }
    // What is found later comes after what was found before.
    assert!(matches!(ask_for(&host, "root-key"), 400 | 403));
    let listed = until("the alert of the canary", || {
        let listed = anomalies(&host);
        (!listed["alerts"].as_array()?.is_empty()).then_some(listed)
    });
    let rules: Vec<&Value> = listed["alerts"].as_array().unwrap().iter().map(|one| &one["rule"]).collect();
    assert_eq!(rules, ["canary"], "{listed}");
    assert_eq!(listed["suspended"][0]["rule"], "canary", "{listed}");
}

#[test]
fn a_key_that_is_used_in_two_invocations_is_an_alert() {
    require_root();
    let mut unit = Unit::new("keyed");
    let mut host = Host::new();
    host.agents_file("keyed", &format!("name = \"keyed\"\n[match]\nunit = {:?}\n", unit.name));
    host.start();
    let dir = tempfile::tempdir().unwrap();
    let request = |name: &str| {
        let csr = csr(dir.path(), &P256, &[]);
        let file = dir.path().join(name);
        fs::write(&file, json!({ "csr": csr }).to_string()).unwrap();
        format!("@{}", file.display())
    };
    let (kept, other) = (request("kept"), request("other"));
    let certify = |unit: &Unit, body: &str| {
        let words = ["-H", "Content-Type: application/json", "-d", body];
        let answer = Credentials::root().in_unit(unit).curl(&host, "/v1/certificate", &words);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    certify(&unit, &kept);
    certify(&unit, &kept);
    unit.set_invocation_id("0123456789abcdef0123456789abcde1");
    certify(&unit, &other);
    assert_eq!(anomalies(&host)["alerts"], json!([]));
    certify(&unit, &kept);
    until_true("the alert is recorded", || !records(&host, "anomaly-detected").is_empty());
    let found = &records(&host, "anomaly-detected")[0];
    assert_eq!((&found["rule"], &found["agent"]), (&json!("shared_key"), &json!("keyed")));
    assert!(
        found["detail"].as_str().unwrap().contains("a key that it used in another invocation"),
        "{found}"
    );
}

//! What agents did and have: last seen, live tokens, used grants and units in `agent list` and `status`, and what
//! `audit lifecycle` names.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use crate::common::callers::{Credentials, NOBODY, Unit};
use crate::common::grpc::Grpc;
use crate::common::processes::Running;
use crate::common::{API, Host, until, until_true};
use hostbadge::clock::Clock;
use serde_json::{Value, json};

const OTHER: &str = "https://other.example.com";
const INVOCATION: &str = "fedcba9876543210fedcba9876543210";

/// Writes an agent with an owner and two grants.
fn agent(host: &Host, name: &str, lines: &str, conditions: &str) {
    let grants = format!(
        "[[grant]]\naudience = \"{API}\"\nttl = \"5m\"\n[[grant]]\naudience = \"{OTHER}\"\nttl = \"1m\"\n"
    );
    let text = format!("name = \"{name}\"\n{lines}\n[match]\n{conditions}\n{grants}");
    host.agents_file(name, &text);
}

fn owned(host: &Host, name: &str, conditions: &str) {
    agent(host, name, "owner = \"team\"", conditions);
}

/// What `GET /v1/agents` says an agent did.
#[track_caller]
fn activity(host: &Host, name: &str) -> Value {
    let agents = host.admin().get("/v1/agents").json();
    let found = agents.as_array().unwrap().iter().find(|agent| agent["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {agents}"))["activity"].clone()
}

#[track_caller]
fn live_tokens(host: &Host, name: &str) -> u64 {
    activity(host, name)["live_tokens"].as_u64().unwrap()
}

#[track_caller]
fn token(host: &Host, who: &Credentials, audience: &str) -> String {
    let body = json!({ "audience": audience }).to_string();
    let answer = who.curl(host, "/v1/token", &["-H", "Content-Type: application/json", "-d", &body]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn lifecycle(host: &Host, query: &str) -> Value {
    let answer = host.admin().get(&format!("/v1/lifecycle{query}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The findings, as kind and what it is about.
fn findings(host: &Host, query: &str) -> Vec<(String, String)> {
    let found = lifecycle(host, query);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of =
        |one: &Value| ["agent", "role", "unit"].iter().find_map(|of| one[of].as_str()).unwrap().to_owned();
    found["findings"].as_array().unwrap().iter().map(|one| (text(&one["kind"]), of(one))).collect()
}

/// Waits until the daemon has read the log of earlier processes.
#[track_caller]
fn until_known(host: &Host) {
    until_true("the audit log is known", || lifecycle(host, "")["known_since"].is_string());
}

#[test]
fn what_agents_did_is_listed_and_survives_a_restart() {
    let mut host = Host::new();
    owned(&host, "root", "user = 0");
    owned(&host, "idle", &format!("user = {}", NOBODY - 1));
    host.start();
    until_known(&host);
    assert_eq!(
        activity(&host, "idle"),
        json!({ "state": "active", "live_tokens": 0, "grants": 2, "grants_used": 0 })
    );
    host.token();
    host.token();
    let svids = Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap();
    assert_eq!(svids.len(), 1);
    let before = activity(&host, "root");
    assert_eq!((&before["live_tokens"], &before["grants_used"]), (&json!(3), &json!(1)), "{before}");
    let seen = before["last_seen"].as_str().unwrap().to_owned();
    let recorded = |line: &&Value| line["agent"] == "root";
    assert_eq!(host.audit().iter().rfind(recorded).unwrap()["time"], seen.as_str());

    let listed = String::from_utf8(host.hostbadge(&["agent", "list"]).stdout).unwrap();
    let header = listed.lines().next().unwrap().split("  ").filter(|cell| !cell.is_empty());
    let header: Vec<&str> = header.map(str::trim).collect();
    assert_eq!(header, ["NAME", "OWNER", "UNIT", "LAST SEEN", "LIVE TOKENS", "GRANTS USED", "STATE"]);
    let cells = |name: &str| -> Vec<String> {
        let line = listed.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(cells("idle"), ["idle", "team", "-", "never", "0", "0/2", "active"]);
    assert_eq!(cells("root")[4..], ["3", "1/2", "active"]);
    assert!(cells("root")[3].starts_with(&seen[..19]), "{listed}");
    let shown = String::from_utf8(host.hostbadge(&["agent", "show", "root"]).stdout).unwrap();
    assert!(
        shown.contains("active, seen last ") && shown.contains("3 live tokens, 1 of 2 grants used"),
        "{shown}"
    );
    let status = String::from_utf8(host.hostbadge(&["status"]).stdout).unwrap();
    assert!(status.contains("3 live tokens, 1 agent not seen since "), "{status}");
    let json: Value = serde_json::from_slice(&host.hostbadge(&["agent", "list", "--json"]).stdout).unwrap();
    assert_eq!(json[1]["activity"], before);

    host.crash();
    host.start();
    until_known(&host);
    assert_eq!(activity(&host, "root"), before);
    assert!(activity(&host, "idle").get("last_seen").is_none());
    // What is issued from now on is added, and nothing is counted twice.
    host.token();
    assert_eq!(live_tokens(&host, "root"), 4);
    assert!(host.stop().success());
    host.start();
    until_known(&host);
    assert_eq!(live_tokens(&host, "root"), 4);
}

#[test]
fn revoked_tokens_do_not_live() {
    let mut host = Host::new();
    owned(&host, "root", "user = 0");
    let mut unit = Unit::new("subject");
    unit.set_invocation_id(INVOCATION);
    let mut command = std::process::Command::new("sleep");
    command.arg("600").stdin(Stdio::null());
    let process = Running::start(command);
    unit.add_process(&process.pid().to_string());
    owned(&host, "subject", &format!("user = {NOBODY}\nunit = \"{}\"", unit.name));
    host.start();
    let subject = Credentials::user(NOBODY).in_unit(&unit);
    let tokens = [token(&host, &subject, API), token(&host, &subject, API), token(&host, &subject, OTHER)];
    host.token();
    assert_eq!(live_tokens(&host, "subject"), 3);
    assert_eq!(activity(&host, "subject")["grants_used"], 2);
    assert_eq!(activity(&host, "subject")["unit"], "absent", "a cgroup without a file");
    assert!(activity(&host, "root").get("unit").is_none());

    let body = json!({ "token": tokens[0] }).to_string();
    let own = ["-H", "Content-Type: application/json", "-d", &body];
    for _ in 0..2 {
        assert_eq!(subject.curl(&host, "/v1/revoke", &own).status, 200);
        assert_eq!(live_tokens(&host, "subject"), 2, "once");
    }
    let revoke = |body: Value| {
        let answer = host.admin().post("/v1/revocations/revoke", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    revoke(json!({ "token": tokens[1] }));
    revoke(json!({ "token": tokens[1] }));
    assert_eq!(live_tokens(&host, "subject"), 1);
    revoke(json!({ "invocation": INVOCATION }));
    assert_eq!((live_tokens(&host, "subject"), live_tokens(&host, "root")), (0, 1));

    revoke(json!({ "agent": "root" }));
    let of_root = activity(&host, "root");
    assert_eq!((&of_root["state"], &of_root["live_tokens"]), (&json!("revoked"), &json!(0)));
    assert_eq!(host.admin().post("/v1/revocations/lift", &json!({ "agent": "root" })).status, 200);
    assert_eq!(live_tokens(&host, "root"), 0, "what was issued before stays revoked");
    // After a restart, records are compared with times in whole seconds.
    let second = Clock::System.now().as_secs();
    until_true("another second begins", || Clock::System.now().as_secs() > second);
    host.token();
    let of_root = activity(&host, "root");
    assert_eq!((&of_root["state"], &of_root["live_tokens"]), (&json!("active"), &json!(1)));

    // The same after a restart, which reads it from the log.
    let mut host = host;
    host.crash();
    host.start();
    until_known(&host);
    assert_eq!((live_tokens(&host, "subject"), live_tokens(&host, "root")), (0, 1));
}

#[test]
fn agents_and_units_that_may_have_to_end_are_named() {
    let mut host = Host::new();
    owned(&host, "root", "user = 0");
    owned(&host, "unused", &format!("user = {}", NOBODY - 1));
    let grant = format!("[[grant]]\naudience = \"{OTHER}\"\nexpires = 2020-01-01\n");
    let text = format!("name = \"expired\"\nowner = \"team\"\n[match]\nuser = {}\n{grant}", NOBODY - 2);
    host.agents_file("expired", &text);
    agent(&host, "drained", "owner = \"team\"\ndrain = true", &format!("user = {}", NOBODY - 3));
    agent(&host, "ownerless", "", &format!("user = {}", NOBODY - 4));
    owned(&host, "unitless", &format!("user = {}\nunit = \"no-such-unit.service\"", NOBODY - 5));
    let unit = Unit::new("stranger");
    host.start();
    until_known(&host);
    host.token();
    let stranger = Credentials::user(NOBODY).in_unit(&unit);
    for _ in 0..3 {
        assert_eq!(stranger.curl(&host, "/v1/whoami", &[]).error(), "invalid_client");
    }
    // A login session is no unit that an agent could be given.
    let session = Unit::at("user.slice/user-65534.slice", "session-4711.scope".to_owned());
    let in_session = Credentials::user(NOBODY).in_unit(&session);
    assert_eq!(in_session.curl(&host, "/v1/whoami", &[]).error(), "invalid_client");
    assert_eq!(host.admin().post("/v1/revocations/revoke", &json!({ "agent": "ownerless" })).status, 200);

    let expected = [
        ("unknown-unit", "unitless"),
        ("unregistered-unit", &unit.name),
        ("no-owner", "ownerless"),
        ("drained", "drained"),
        ("revoked", "ownerless"),
        ("expired-grant", "expired"),
    ];
    let expected = expected.map(|(kind, of)| (kind.to_owned(), of.to_owned()));
    assert_eq!(findings(&host, ""), expected);
    assert_eq!(lifecycle(&host, "")["left_out"], 5, "not known for a day");
    // All but those that were seen just now.
    let unseen: Vec<String> = findings(&host, "?unseen_for=0")
        .into_iter()
        .filter_map(|(kind, of)| (kind == "unused-agent").then_some(of))
        .collect();
    assert_eq!(unseen, ["drained", "expired", "ownerless", "root", "unitless", "unused"]);
    let activity = host.status()["agents"]["activity"].clone();
    assert_eq!((&activity["absent_units"], &activity["unregistered_units"]), (&json!(1), &json!(1)));

    let output = host.hostbadge(&["audit", "lifecycle"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("agent unitless: this host has no file of a unit no-such-unit.service"), "{said}");
    assert!(said.contains(&format!("unit {} (", unit.name)) && said.contains("asked as uid 65534"), "{said}");
    assert!(
        said.contains("6 agents, 6 findings: drained 1, expired-grant 1, no-owner 1, revoked 1"),
        "{said}"
    );
    let noted = String::from_utf8(output.stderr).unwrap();
    assert!(
        noted.contains("the audit log is known since ") && noted.contains("left out 5 agents"),
        "{noted}"
    );
    let json = host.hostbadge(&["audit", "lifecycle", "--json", "--unseen-for", "1h"]);
    assert_eq!(json.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["count"], &json["agents"]), (&json!(6), &json!(6)));

    // The units that asked are known after a restart too, until an agent names them.
    host.crash();
    host.start();
    until_known(&host);
    assert_eq!(findings(&host, ""), expected);
    owned(&host, "stranger", &format!("user = {NOBODY}\nunit = \"{}\"", unit.name));
    host.reload();
    assert!(!findings(&host, "").iter().any(|(kind, _)| kind == "unregistered-unit"));
    for query in ["?unseen_for=x", "?unseen_for=1&unseen_for=2", "?age=1"] {
        assert_eq!(host.admin().get(&format!("/v1/lifecycle{query}")).status, 400, "{query}");
    }
}

#[test]
fn an_agent_that_was_never_seen_is_named_once_it_is_known_for_a_day() {
    let mut host = Host::new();
    owned(&host, "root", "user = 0");
    owned(&host, "unused", &format!("user = {NOBODY}"));
    owned(&host, "young", &format!("user = {}", NOBODY - 1));
    // The log begins two days ago.
    let clock = crate::common::fake_clock::FakeClock::of(&mut host, "-2d");
    host.start();
    host.token();
    assert!(host.stop().success());
    drop(clock);
    host.start.env.clear();
    let age = |name: &str, hours: u64| {
        let file =
            File::options().append(true).open(host.path(&format!("etc/agents.d/{name}.toml"))).unwrap();
        let changed = Clock::System.now().as_secs() - hours * 3600;
        file.set_modified(UNIX_EPOCH + Duration::from_secs(changed)).unwrap();
    };
    age("unused", 30);
    age("young", 20);
    host.start();
    until_known(&host);
    let pair = |kind: &str, of: &str| (kind.to_owned(), of.to_owned());
    assert_eq!(findings(&host, ""), [pair("unused-agent", "unused")]);
    assert_eq!(findings(&host, "?unseen_for=200000"), []);
    let both = [pair("unused-agent", "root"), pair("unused-agent", "unused")];
    assert_eq!(findings(&host, "?unseen_for=86400"), both);
    host.token();
    assert_eq!(findings(&host, "?unseen_for=86400"), [pair("unused-agent", "unused")]);
}

#[test]
fn nothing_to_end_is_exit_status_0() {
    let mut host = Host::new();
    owned(&host, "root", "user = 0");
    host.start();
    until_known(&host);
    host.token();
    let output = host.hostbadge(&["audit", "lifecycle"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1 agent, 0 findings\n");
}

#[test]
fn an_agent_whose_change_waits_for_a_second_administrator_is_pending() {
    let mut host = Host::new();
    host.configure("[change]\nrequire = \"two\"\n");
    owned(&host, "root", "user = 0");
    owned(&host, "root-2", &format!("user = {NOBODY}"));
    host.start();
    let approve = || {
        let reload = host.admin().post("/v1/agents/reload", &json!({})).json();
        reload["pending"]["digest"].as_str().map(str::to_owned)
    };
    assert_eq!(approve(), None, "the first set is in force");
    let text = fs::read_to_string(host.path("etc/agents.d/root.toml")).unwrap();
    fs::write(host.path("etc/agents.d/root.toml"), text.replace("1m", "2m")).unwrap();
    approve().expect("it waits");
    assert_eq!(activity(&host, "root")["state"], "pending");
    assert_eq!(activity(&host, "root-2")["state"], "active");
}

/// More agents than fit one response that the command accepts.
#[test]
fn ten_thousand_agents_are_listed_page_by_page() {
    const AGENTS: usize = 10_000;
    let mut host = Host::new();
    host.start();
    let audience = format!("https://{}.example.com/", "long".repeat(90));
    for n in 0..AGENTS {
        let name = format!("a{n:05}");
        let text = format!(
            "name = \"{name}\"\nowner = \"team\"\n[match]\nuser = {}\n[[grant]]\naudience = \"{audience}\"\n",
            700_000 + n
        );
        host.agents_file(&name, &text);
    }
    let output = host.hostbadge(&["agent", "reload"]);
    assert!(output.status.success(), "{output:?}");
    let noted = String::from_utf8(output.stderr).unwrap();
    assert!(!noted.contains("were not looked for"), "{noted}");
    let whole = host.admin().get("/v1/agents");
    assert!(whole.body.len() > 4 << 20, "{}", whole.body.len());
    assert_eq!(whole.json().as_array().unwrap().len(), AGENTS);

    let output = host.hostbadge(&["agent", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed, whole.json());
    let output = host.hostbadge(&["agent", "list"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), AGENTS + 1);

    let page = |query: &str| {
        let answer = host.admin().get(&format!("/v1/agents?{query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.body.len() <= 2_200_000, "{}", answer.body.len());
        let names = answer.json().as_array().unwrap().clone();
        names.into_iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<String>>()
    };
    assert_eq!(page("limit=2"), ["a00000", "a00001"]);
    assert_eq!(page("after=a00001&limit=2"), ["a00002", "a00003"]);
    assert_eq!(page("limit=2&after=a000015"), ["a00002", "a00003"], "of no agent's name");
    assert_eq!(page("after=a09998"), ["a09999"]);
    assert_eq!(page("after=a09999"), [""; 0]);
    assert_eq!(page("after=zzz&limit=1000"), [""; 0]);
    assert!(page("after=").len() > 1000, "as many as fit");
    for query in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "after=a&after=b", "name=a"] {
        assert_eq!(host.admin().get(&format!("/v1/agents?{query}")).status, 400, "{query}");
    }
    let found = until("the log is known", || {
        let found = lifecycle(&host, "?unseen_for=0");
        found["known_since"].is_string().then_some(found)
    });
    assert_eq!((found["count"].as_u64(), found["findings"].as_array().unwrap().len()), (Some(10_000), 1000));
}

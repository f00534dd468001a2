//! Thousands of registered agents: who is found, what a reload reports, and what it does to requests.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::callers::{Credentials, NOBODY, Unit};
use crate::common::http::claims;
use crate::common::{API, Host, without_lints};
use serde_json::{Value, json};

const AGENTS: u32 = 3000;
const FIRST_UID: u32 = 700_000;

/// Registers `a0` and so on, each with a user of its own.
fn register(host: &Host, range: std::ops::Range<u32>) {
    for n in range {
        host.agent(&format!("a{n:05}"), &format!("user = {}", FIRST_UID + n));
    }
}

fn reload(host: &Host) -> Value {
    let answer = host.admin().post("/v1/agents/reload", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The agent that gets a token as `who`.
fn agent_of(host: &Host, who: &Credentials) -> String {
    let answer = who.token(host);
    assert_eq!(answer.status, 200, "{}", answer.text());
    claims(answer.json()["access_token"].as_str().unwrap())["client_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_reload_of_thousands_refuses_no_request_and_reports_counts_with_the_first_names() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    host.start();
    register(&host, 0..AGENTS);
    let is_done = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut asked = 0;
            while !is_done.load(Ordering::Relaxed) || asked < 20 {
                // A connection of its own each time, so that each is compared with the agents.
                let answer = host.connect().post("/v1/token", &json!({ "audience": API }));
                assert_eq!(answer.status, 200, "{}", answer.text());
                asked += 1;
            }
        });
        let answer = reload(&host);
        is_done.store(true, Ordering::Relaxed);
        asker.join().unwrap();
        answer
    });
    let first: Vec<String> = (0..10).map(|n| format!("a{n:05}")).collect();
    assert_eq!((&answer["added"], &answer["truncated"]), (&json!(first), &json!(true)));
    assert_eq!(answer["counts"], json!({ "added": AGENTS, "changed": 0, "removed": 0, "warnings": 1 }));
    let lines = host.audit();
    let recorded: Vec<&Value> = lines.iter().filter(|line| line["event"] == "agents-reloaded").collect();
    assert_eq!(recorded.len(), 1, "one line");
    let detail = recorded[0]["detail"].as_str().unwrap();
    assert!(detail.contains("(3000 added, 0 changed, 0 removed): added [a00000, a00001, "), "{detail}");
    assert!(
        detail.contains("a00009 and 2990 more], changed [], removed []") && detail.len() < 500,
        "{detail}"
    );
    assert_eq!(host.status()["agents"]["agents"], AGENTS + 1);

    for n in [0, 1, AGENTS / 2, AGENTS - 1] {
        assert_eq!(agent_of(&host, &Credentials::user(FIRST_UID + n)), format!("a{n:05}"));
    }
    assert_eq!(Credentials::user(FIRST_UID + AGENTS).token(&host).error(), "invalid_client");

    for n in 0..100 {
        fs::remove_file(host.path(&format!("etc/agents.d/a{n:05}.toml"))).unwrap();
        host.agent(&format!("a{:05}", 100 + n), &format!("user = {}\nexe = \"/bin/x\"", FIRST_UID + n));
    }
    let output = host.hostbadge(&["agent", "reload"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let said = words(&said);
    assert!(said.starts_with("added none changed 100: a00100, a00101, "), "{said}");
    assert!(said.contains("a00109 and 90 more removed 100: a00000, "), "{said}");
    assert!(said.ends_with("a00009 and 90 more") && said.len() < 500, "{said}");
    assert!(output.stderr.len() < 6000, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Credentials::user(FIRST_UID + 5).token(&host).error(), "invalid_client");
    assert_eq!(agent_of(&host, &Credentials::user(FIRST_UID + 250)), "a00250");
}

#[test]
fn a_process_is_found_by_each_condition_among_many() {
    let unit = Unit::new("many");
    let mut host = Host::new();
    register(&host, 0..300);
    for n in 0..100 {
        host.agent(&format!("g{n}"), &format!("group = {}", 800_000 + n));
        host.agent(&format!("same{n}"), &format!("user = {NOBODY}\nexe = \"/bin/e{n}\""));
    }
    host.agent("unit", &format!("user = {NOBODY}\nunit = \"{}\"", unit.name));
    host.start();
    assert_eq!(agent_of(&host, &Credentials::user(FIRST_UID + 299)), "a00299");
    assert_eq!(agent_of(&host, &Credentials::user(NOBODY).group(800_042)), "g42");
    assert_eq!(agent_of(&host, &Credentials::user(NOBODY).in_unit(&unit)), "unit");
    assert_eq!(Credentials::user(NOBODY).token(&host).error(), "invalid_client");
    // The process sees those that have its user, and no others.
    let why = Credentials::user(NOBODY).curl(&host, "/v1/whoami/why", &[]).json();
    assert_eq!(why["omitted"], json!(100 + 1 - 16), "{why}");
}

#[test]
fn many_agents_of_the_same_conditions_are_one_warning() {
    let host = Host::started();
    for n in 0..500 {
        host.agent(&format!("twin{n:03}"), "user = 4711");
    }
    let warnings = without_lints(reload(&host))["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    let what = warnings[0]["what"].as_str().unwrap();
    assert!(what.contains("\"twin004\" and 495 more have the same conditions") && what.len() < 400, "{what}");
}

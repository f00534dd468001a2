//! What a reload changes in the rights of agents: who asked, and what of it widens them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::common::callers::{Credentials, NOBODY};
use crate::common::http::Response;
use crate::common::{API, Host};
use serde_json::{Value, json};

pub fn grant(lines: &str) -> String {
    format!("[[grant]]\naudience = \"{API}\"\n{lines}\n")
}

pub fn agent(host: &Host, top: &str, tables: &str) {
    host.agents_file("root", &format!("name = \"root\"\n{top}\n[match]\nuser = 0\n{tables}"));
}

/// Reloads over the admin socket, and returns the record of it.
#[track_caller]
fn reload(host: &Host) -> String {
    let answer = host.admin().post("/v1/agents/reload", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let lines = host.audit();
    let record: &Value = lines.iter().rfind(|line| line["event"] == "agents-reloaded").unwrap();
    record["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_reload_records_who_asked_and_which_rights_became_wider() {
    let mut host = Host::new();
    agent(&host, "", &grant("scopes = [\"read\"]\nttl = \"1m\""));
    host.start();
    agent(&host, "", &grant("scopes = [\"read\", \"write\"]\nttl = \"10m\""));
    let detail = reload(&host);
    let who = format!("uid 0, pid {} reloaded the agents: ", std::process::id());
    assert!(detail.starts_with(&who), "{detail}");
    let expected = format!(
        "changed [root], removed []; 1 change of rights, 1 of them wider: [agent root: grant for {API}: scopes \
         +write ttl 60 s to 600 s (wider)]"
    );
    assert!(detail.ends_with(&expected), "{detail}");

    // Narrower, and a change that concerns no rights.
    agent(&host, "owner = \"team@example.com\"", &grant("scopes = [\"read\"]\nttl = \"10m\""));
    let detail = reload(&host);
    assert!(
        detail.contains("2 changes of rights, 0 of them wider: [agent root: another owner, "),
        "{detail}"
    );
    assert!(detail.ends_with(": scopes -write]"), "{detail}");
    let detail = reload(&host);
    assert!(detail.ends_with("removed []"), "nothing changed: {detail}");

    let credential = "[[credential]]\nname = \"key\"\n";
    agent(&host, "owner = \"team@example.com\"", credential);
    let detail = reload(&host);
    assert!(
        detail.contains("2 changes of rights, 1 of them wider: [agent root: new credential key (wider)"),
        "{detail}"
    );
    assert!(detail.contains(&format!("agent root: grant for {API} removed]")), "{detail}");
    agent(&host, "owner = \"team@example.com\"", &format!("{credential}use = \"release\"\n"));
    assert!(reload(&host).ends_with("[agent root: credential key: use (wider)]"));
}

#[test]
fn changes_of_roles_and_of_conditions_are_recorded_too() {
    let mut host = Host::new();
    fs::create_dir_all(host.path("etc/roles.d")).unwrap();
    let role = |host: &Host, ttl: &str| {
        let text = format!("name = \"reader\"\n{}", grant(&format!("ttl = \"{ttl}\"")));
        fs::write(host.path("etc/roles.d/reader.toml"), text).unwrap();
    };
    role(&host, "1m");
    agent(&host, "roles = [\"reader\"]", "");
    host.agents_file("other", "name = \"other\"\nroles = [\"reader\"]\n[match]\nuser = 4711\ngroup = 4711\n");
    host.start();
    role(&host, "1h");
    let detail = reload(&host);
    let expected = format!(
        "changed [other, root], removed []; 1 change of rights, 1 of them wider: [role reader: grant for {API}: ttl \
         60 s to 3600 s (wider)]"
    );
    assert!(detail.ends_with(&expected), "{detail}");
    host.agents_file("other", "name = \"other\"\n[match]\nuser = 4711\n");
    let detail = reload(&host);
    assert!(
        detail.contains("agent other: weaker or other conditions in [match] (wider)")
            && detail.contains("agent other: role reader removed"),
        "{detail}"
    );
}

/// A host on which wider rights need two administrators: root, and a member of the admin group.
pub fn host_for_two() -> (Host, Credentials) {
    let mut host = Host::new();
    host.configure("[change]\nrequire = \"two\"\n[admin]\ngroup = \"daemon\"\n");
    agent(&host, "", &grant("ttl = \"1m\""));
    start(&mut host);
    (host, Credentials::user(NOBODY).group(1))
}

pub fn start(host: &mut Host) {
    host.start();
    fs::set_permissions(host.admin_socket(), Permissions::from_mode(0o666)).unwrap();
}

/// Asks as root for a reload, and returns the change that waits.
#[track_caller]
pub fn ask(host: &Host) -> Value {
    let answer = host.admin().post("/v1/agents/reload", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["pending"].clone()
}

pub fn approve_as(host: &Host, caller: &Credentials, digest: &Value) -> Response {
    let body = json!({ "digest": digest }).to_string();
    let arguments = ["-H", "Content-Type: application/json", "-d", &body];
    caller.curl_at(&host.admin_socket(), "/v1/agents/approve", &arguments)
}

pub fn approve_as_root(host: &Host, digest: &Value) -> (u16, String) {
    let answer = host.admin().post("/v1/agents/approve", &json!({ "digest": digest }));
    (answer.status, answer.text())
}

/// The longest lifetime of a token now.
pub fn lifetime(host: &Host) -> u64 {
    host.post("/v1/token", json!({ "audience": API })).json()["expires_in"].as_u64().unwrap_or_default()
}

#[test]
fn wider_rights_wait_for_another_administrator() {
    let (host, member) = host_for_two();
    agent(&host, "", &grant("ttl = \"10m\""));
    let pending = ask(&host);
    assert_eq!((&pending["count"], &pending["widening"]), (&json!(1), &json!(1)), "{pending}");
    let change = pending["changes"][0].as_str().unwrap();
    assert!(change.contains("ttl 60 s to 600 s (wider)"), "{change}");
    assert_eq!(lifetime(&host), 60);
    assert_eq!(host.status()["agents"]["pending"]["digest"], pending["digest"]);
    let shown = String::from_utf8(host.hostbadge(&["status"]).stdout).unwrap();
    assert!(
        shown.contains(&format!("hostbadge agent approve {}", pending["digest"].as_str().unwrap())),
        "{shown}"
    );
    let lines = host.audit();
    let record = lines.iter().rfind(|line| line["event"] == "change-pending").unwrap();
    let who = format!("uid 0, pid {} asked for a reload", std::process::id());
    assert!(record["detail"].as_str().unwrap().starts_with(&who), "{record}");

    let digest = &pending["digest"];
    let (status, text) = approve_as_root(&host, digest);
    assert!(status == 409 && text.contains("the same administrator"), "{text}");
    let other = approve_as(&host, &member, &json!("00"));
    assert!(other.status == 409 && other.text().contains(digest.as_str().unwrap()), "{}", other.text());
    assert_eq!(lifetime(&host), 60);
    // The files are not those that were examined.
    agent(&host, "", &grant("ttl = \"1h\""));
    let changed = approve_as(&host, &member, digest);
    assert!(changed.status == 409 && changed.text().contains("have changed"), "{}", changed.text());
    agent(&host, "", &grant("ttl = \"10m\""));
    let approved = approve_as(&host, &member, digest);
    assert_eq!(approved.status, 200, "{}", approved.text());
    assert_eq!(approved.json()["changed"], json!(["root"]));
    assert_eq!(lifetime(&host), 600);
    let lines = host.audit();
    let detail = lines.iter().rfind(|line| line["event"] == "agents-reloaded").unwrap()["detail"].to_string();
    assert!(
        detail.contains(&format!("uid {NOBODY}, pid ")) && detail.contains("which uid 0, pid "),
        "{detail}"
    );
    // The second of two who approve at once.
    let late = approve_as(&host, &member, digest);
    assert!(
        late.status == 409 && late.text().contains("another administrator may have approved"),
        "{}",
        late.text()
    );
    assert!(host.status()["agents"]["pending"].is_null());
}

#[test]
fn of_two_who_approve_at_the_same_moment_one_makes_the_change() {
    let (host, first) = host_for_two();
    let second = Credentials::user(NOBODY - 1).group(1);
    for round in 2..8 {
        agent(&host, "", &grant(&format!("ttl = \"{round}m\"")));
        let digest = &ask(&host)["digest"];
        let start = std::sync::Barrier::new(2);
        let approve = |who: &Credentials| {
            start.wait();
            approve_as(&host, who, digest).status
        };
        let mut answers = std::thread::scope(|scope| {
            let threads = [&first, &second].map(|who| scope.spawn(|| approve(who)));
            threads.map(|thread| thread.join().unwrap())
        });
        answers.sort_unstable();
        assert_eq!(answers, [200, 409], "round {round}");
        assert_eq!(lifetime(&host), round * 60);
        let lines = host.audit();
        let approved = lines.iter().filter(|line| {
            line["event"] == "agents-reloaded" && line["detail"].as_str().unwrap().contains("approved")
        });
        assert_eq!(approved.count() as u64, round - 1);
    }
}

#[test]
fn narrower_rights_become_active_at_once() {
    let (host, _) = host_for_two();
    agent(&host, "", &grant("ttl = \"30s\""));
    assert_eq!(ask(&host), Value::Null);
    assert_eq!(lifetime(&host), 30);
    // A change that waited is given up with its files.
    agent(&host, "", &grant("ttl = \"10m\""));
    assert!(ask(&host).is_object());
    agent(&host, "", &grant("ttl = \"20s\""));
    assert_eq!(ask(&host), Value::Null);
    assert_eq!(lifetime(&host), 20);
    assert!(host.status()["agents"]["pending"].is_null());
    fs::remove_file(host.path("etc/agents.d/root.toml")).unwrap();
    let output = host.hostbadge(&["agent", "reload", "--allow-empty"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(host.status()["agents"]["agents"], 0);
}

#[test]
fn a_start_activates_only_files_that_were_approved() {
    let (mut host, member) = host_for_two();
    host.stop();
    start(&mut host);
    assert_eq!(lifetime(&host), 60, "the files are the same");
    host.stop();
    agent(&host, "", &grant("ttl = \"10m\""));
    start(&mut host);
    let status = host.status();
    assert_eq!(
        (&status["status"], &status["agents"]["loaded"]),
        (&json!("degraded"), &json!(false)),
        "{status}"
    );
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 503);
    let digest = status["agents"]["pending"]["digest"].clone();
    let early = approve_as(&host, &member, &digest);
    assert!(early.status == 409 && early.text().contains("no administrator has asked"), "{}", early.text());
    assert_eq!(ask(&host)["digest"], digest);
    let approved = approve_as(&host, &member, &digest);
    assert_eq!(approved.status, 200, "{}", approved.text());
    assert_eq!(lifetime(&host), 600);
    host.crash();
    start(&mut host);
    assert_eq!(lifetime(&host), 600);
}

//! What a reload changes in the rights of agents: who asked, and what of it widens them.

use std::fs;

use crate::common::{API, Host};
use serde_json::{Value, json};

fn grant(lines: &str) -> String {
    format!("[[grant]]\naudience = \"{API}\"\n{lines}\n")
}

fn agent(host: &Host, top: &str, tables: &str) {
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

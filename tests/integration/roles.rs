//! Roles: grants that agents share, their reload together with the agents, and what commands show of them.

use std::fs;
use std::process::Stdio;

use crate::common::{API, Host};
use serde_json::{Value, json};

const DOCS: &str = "https://docs.example.com";

/// Writes `text` to `roles.d/NAME.toml`, after the name.
fn role(host: &Host, name: &str, text: &str) {
    fs::create_dir_all(host.path("etc/roles.d")).unwrap();
    fs::write(role_path(host, name), format!("name = \"{name}\"\n{text}")).unwrap();
}

fn role_path(host: &Host, name: &str) -> std::path::PathBuf {
    host.path(&format!("etc/roles.d/{name}.toml"))
}

fn docs_grant(ttl: &str) -> String {
    format!("[[grant]]\naudience = \"{DOCS}\"\nscopes = [\"read\"]\nttl = \"{ttl}\"\n")
}

/// A running host whose agent `root` has the role `reader`, which refers to `base`.
fn host_with_roles() -> Host {
    let mut host = Host::new();
    role(&host, "base", &docs_grant("1m"));
    role(&host, "reader", "roles = [\"base\"]\n");
    agent_with_roles(&host, "[\"reader\"]");
    host.start();
    host
}

fn agent_with_roles(host: &Host, roles: &str) {
    let grant = format!("[[grant]]\naudience = \"{API}\"\n");
    host.agents_file("root", &format!("name = \"root\"\nroles = {roles}\n[match]\nuser = 0\n{grant}"));
}

fn reload(host: &Host, allow_empty: &[&str]) -> (u16, Value) {
    let answer = host.admin().post("/v1/agents/reload", &json!({ "allow_empty": allow_empty }));
    (answer.status, answer.json())
}

/// The lifetime of a token for this audience, or the error code.
fn lifetime(host: &Host, audience: &str) -> Result<u64, String> {
    let answer = host.post("/v1/token", json!({ "audience": audience }));
    match answer.status {
        200 => Ok(answer.json()["expires_in"].as_u64().unwrap()),
        _ => Err(answer.error()),
    }
}

#[test]
fn an_agent_gets_tokens_for_the_grants_of_its_roles() {
    let host = host_with_roles();
    assert_eq!(lifetime(&host, DOCS), Ok(60));
    assert_eq!(lifetime(&host, API), Ok(300), "its own grant");
    let token = host.post("/v1/token", json!({ "audience": DOCS })).json();
    assert_eq!(token["scope"], "read");
    let token = token["access_token"].as_str().unwrap();
    assert_eq!(host.introspect(token)["active"], true);

    // A role's own grant replaces that of the role that it refers to, and the agent's own replaces both.
    role(&host, "reader", &format!("roles = [\"base\"]\n{}", docs_grant("2m")));
    assert_eq!(reload(&host, &[]).1["changed"], json!(["root"]), "a role changes its agents");
    assert_eq!(lifetime(&host, DOCS), Ok(120));

    agent_with_roles(&host, "[]");
    assert_eq!(reload(&host, &[]).0, 200);
    assert_eq!(lifetime(&host, DOCS), Err("invalid_target".into()));
    assert_eq!(host.introspect(token)["active"], false, "the agent has the grant no more");
}

#[test]
fn commands_show_roles_and_where_a_grant_comes_from() {
    let host = host_with_roles();
    let agent = host.admin().get("/v1/agents/root").json();
    assert_eq!(agent["roles"], json!(["reader"]));
    let grants: Vec<(&Value, &Value)> = agent["grants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|grant| (&grant["audience"], &grant["role"]))
        .collect();
    assert_eq!(grants, [(&json!(API), &Value::Null), (&json!(DOCS), &json!("base"))]);
    let run = |words: &[&str]| {
        let output = host.hostbadge(words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = run(&["agent", "show", "root"]);
    assert!(shown.contains(&format!("{DOCS}, at most 60 s, by role base: read")), "{shown}");
    let listed: Value = serde_json::from_str(&run(&["agent", "list", "--json"])).unwrap();
    assert_eq!(listed[0]["roles"], json!(["reader"]));
    let why = run(&["agent", "why", &std::process::id().to_string()]);
    assert!(why.contains("root: reader"), "{why}");
    assert!(run(&["status"]).contains("1, 2 roles, read"), "{}", run(&["status"]));
    let checked = run(&["agent", "check", host.path("etc/agents.d").to_str().unwrap()]);
    assert!(checked.contains("1 agent, 2 roles, no faults"), "{checked}");
    let check = host.command().arg("--check").stdout(Stdio::piped()).output().unwrap();
    assert!(String::from_utf8_lossy(&check.stdout).contains("1 agent, 2 roles, no faults"), "{check:?}");
}

#[test]
fn a_fault_of_a_role_leaves_agents_and_roles_as_they_were() {
    let host = host_with_roles();
    host.agent("second", "user = 4711");
    let good = fs::read_to_string(role_path(&host, "base")).unwrap();
    for (text, expected) in [
        ("roles = [\"reader\"]\n", "in a circle: base -> reader -> base"),
        ("roles = [\"none\"]\n", "there is no role \"none\""),
        ("[[grant]]\naudeince = \"x\"\n", "unknown key `audeince`"),
    ] {
        role(&host, "base", text);
        let (status, body) = reload(&host, &[]);
        assert_eq!(status, 422, "{body}");
        let fault = &body["faults"][0];
        assert!(fault["what"].as_str().unwrap().contains(expected), "{expected}: {body}");
        assert!(fault["file"].as_str().unwrap().contains("roles.d") && fault["line"].is_u64(), "{body}");
        assert_eq!(lifetime(&host, DOCS), Ok(60));
        assert_eq!(host.admin().get("/v1/agents").json().as_array().unwrap().len(), 1, "all or nothing");
        let check = host.command().arg("--check").stderr(Stdio::piped()).output().unwrap();
        assert_eq!(check.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&check.stderr).contains(expected), "{check:?}");
    }
    fs::write(role_path(&host, "base"), good).unwrap();
    assert_eq!(reload(&host, &[]).1["added"], json!(["second"]));
}

#[test]
fn roles_stay_in_force_while_their_directory_is_missing_or_empty() {
    let host = host_with_roles();
    let (dir, elsewhere) = (host.path("etc/roles.d"), host.path("etc/elsewhere"));
    let assert_refused = || {
        let (status, body) = reload(&host, &["agents"]);
        assert_eq!(status, 422, "{body}");
        let fault = &body["faults"][0];
        assert_eq!(fault["file"], json!(dir), "{body}");
        assert!(fault["what"].as_str().unwrap().contains("the daemon keeps its 2 roles"), "{body}");
        assert_eq!(lifetime(&host, DOCS), Ok(60));
    };
    fs::rename(&dir, &elsewhere).unwrap();
    assert_refused();
    fs::create_dir(&dir).unwrap();
    assert_refused();
    // Also where no agent refers to a role any more.
    agent_with_roles(&host, "[]");
    assert_refused();
    fs::remove_dir(&dir).unwrap();
    assert_refused();
    let reloaded = host.hostbadge(&["agent", "reload", "--allow-empty=roles"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    assert_eq!(lifetime(&host, DOCS), Err("invalid_target".into()));
    assert_eq!(host.status()["agents"]["roles"], 0);
    assert_eq!(reload(&host, &[]).0, 200, "there are none already");
}

#[test]
fn an_agent_whose_role_is_missing_at_the_start_is_a_fault() {
    let mut host = Host::new();
    agent_with_roles(&host, "[\"reader\"]");
    host.start();
    let status = host.status();
    assert_eq!(status["status"], "degraded", "{status}");
    let fault = &status["agents"]["faults"][0];
    assert_eq!(fault["line"], 2, "{fault}");
    assert!(fault["what"].as_str().unwrap().contains("roles.d does not exist"), "{fault}");
    role(&host, "reader", &docs_grant("1m"));
    assert_eq!(reload(&host, &[]).0, 200);
    assert_eq!(lifetime(&host, DOCS), Ok(60));
}

#[test]
fn an_installed_daemon_reads_roles_beside_its_agents_or_where_the_configuration_says() {
    for (setting, dir) in [(None, "etc/roles.d"), (Some("shared"), "shared")] {
        let mut host = Host::new();
        host.install("[tpm]\ntcti = \"device:/dev/null\"\n[log]\nto = \"stderr\"\n");
        let dir = host.path(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("reader.toml"), format!("name = \"reader\"\n{}", docs_grant("1m"))).unwrap();
        agent_with_roles(&host, "[\"reader\"]");
        if setting.is_some() {
            let file = host.start.config.clone().unwrap();
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, text.replace("[paths]\n", &format!("[paths]\nroles = {dir:?}\n"))).unwrap();
        }
        let check = host.command().arg("--check").stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let check = check.unwrap();
        assert!(String::from_utf8_lossy(&check.stdout).contains("1 agent, 1 role"), "{check:?}");
    }
}

#[test]
fn agent_new_refers_to_roles() {
    let host = host_with_roles();
    let dir = host.path("etc/agents.d");
    let new = |role: &str| {
        host.hostbadge(&[
            "agent",
            "new",
            "fresh",
            "--user",
            "1",
            "--role",
            role,
            "--dir",
            dir.to_str().unwrap(),
        ])
    };
    let unknown = new("writer");
    assert!(
        !unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("no role"),
        "{unknown:?}"
    );
    let written = new("reader");
    assert!(written.status.success(), "{written:?}");
    assert_eq!(reload(&host, &[]).1["added"], json!(["fresh"]));
    assert_eq!(host.admin().get("/v1/agents/fresh").json()["roles"], json!(["reader"]));
}

//! Agents that are units of a user's own service manager, login sessions and containers.
//!
//! The cgroups are made here, as systemd, logind and the engines name them.

use crate::common::callers::{Credentials, Unit};
use crate::common::http::claims;
use crate::common::{Host, require_root};
use serde_json::{Value, json};

/// Users of this file's tests alone, because their slices are removed with the last test.
const USER: u32 = 741_001;
const OTHER: u32 = 741_002;

/// A cgroup in the service manager of a user.
fn in_manager(uid: u32, below: &str, name: &str) -> Unit {
    let parent = format!("user.slice/user-{uid}.slice/user@{uid}.service/{below}");
    Unit::at(&parent, name.to_owned())
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn user(uid: u32, cgroup: &Unit) -> Credentials {
    Credentials::user(uid).in_unit(cgroup)
}

/// The agent that gets a token as `who`, or the error.
fn agent_of(host: &Host, who: &Credentials) -> String {
    let answer = who.token(host);
    match answer.status {
        200 => {
            claims(answer.json()["access_token"].as_str().unwrap())["client_id"].as_str().unwrap().to_owned()
        }
        _ => answer.error(),
    }
}

fn whoami(host: &Host, who: &Credentials) -> Value {
    let answer = who.curl(host, "/v1/whoami", &[]);
    let body = answer.json();
    body["peer"].clone()
}

#[test]
fn a_unit_of_a_users_manager_is_an_agent_of_that_user_only() {
    require_root();
    let own = in_manager(USER, "app.slice", "agent.service");
    let another = in_manager(USER, "app.slice", "another.service");
    let of_other = in_manager(OTHER, "app.slice", "agent.service");
    let system = Unit::at("system.slice", format!("decoy-{}.service", std::process::id()));
    let nested = Unit::at(
        &format!("system.slice/{}/user.slice/user-{USER}.slice/user@{USER}.service", system.name),
        "agent.service".into(),
    );
    let mut host = Host::new();
    host.agent("unit", &format!("user = {USER}\nuser_unit = \"agent.service\""));
    host.start();
    assert_eq!(agent_of(&host, &user(USER, &own)), "unit");
    let peer = whoami(&host, &user(USER, &own));
    assert_eq!(
        (&peer["user_unit"], &peer["unit"]),
        (&json!("agent.service"), &json!(format!("user@{USER}.service")))
    );
    for (who, why) in [
        (user(USER, &another), "another unit"),
        (user(OTHER, &of_other), "another user"),
        // Another user's manager may name its units as it likes.
        (user(USER, &of_other), "the manager of another user"),
        (user(OTHER, &own), "another user in the manager"),
        (user(USER, &nested), "a delegated cgroup that imitates the path"),
        (Credentials::user(USER), "no unit"),
    ] {
        assert_eq!(agent_of(&host, &who), "invalid_client", "{why}");
    }
    let peer = whoami(&host, &user(USER, &of_other));
    assert!(peer.get("user_unit").is_none(), "{peer}");
    drop(nested);
}

#[test]
fn a_login_session_is_an_agent_of_the_user_who_logged_in() {
    require_root();
    let (uid, other) = (741_003, 741_004);
    let scope =
        |uid: u32| Unit::at(&format!("user.slice/user-{uid}.slice"), format!("session-{}.scope", uid % 7));
    let (own, of_other) = (scope(uid), scope(other));
    let service = in_manager(uid, "app.slice", "session-1.scope");
    let mut host = Host::new();
    host.agent("login", &format!("user = {uid}\nsession = true"));
    host.start();
    assert_eq!(agent_of(&host, &user(uid, &own)), "login");
    assert_eq!(whoami(&host, &user(uid, &own))["session"], json!((uid % 7).to_string()));
    for (who, why) in [
        (user(uid, &of_other), "a session of another user, as after su"),
        (user(other, &of_other), "another user"),
        (user(uid, &service), "a unit of the user's manager that is named so"),
        (Credentials::user(uid), "no session"),
    ] {
        assert_eq!(agent_of(&host, &who), "invalid_client", "{why}");
    }
}

#[test]
fn a_container_is_an_agent_by_its_id() {
    require_root();
    let uid = 741_005;
    let (docker, podman) = (id('a'), id('b'));
    let by_docker = Unit::at("system.slice", format!("docker-{docker}.scope"));
    let by_podman = Unit::at(&format!("machine.slice/libpod-{podman}.scope"), "container".into());
    let own = in_manager(uid, "user.slice", &format!("libpod-{}.scope", id('c')));
    let forged = in_manager(uid, "user.slice", &format!("docker-{docker}.scope"));
    let mut host = Host::new();
    host.agent("docker", &format!("container = \"{docker}\""));
    host.agent("podman", &format!("container = \"{podman}\""));
    host.agent("own", &format!("user = {uid}\ncontainer = \"{}\"", id('c')));
    host.agent("own-by-id", &format!("container = \"{}\"", id('c')));
    host.start();
    assert_eq!(agent_of(&host, &user(uid, &by_docker)), "docker");
    assert_eq!(agent_of(&host, &Credentials::root().in_unit(&by_docker)), "docker", "of every user");
    assert_eq!(agent_of(&host, &user(uid, &by_podman)), "podman", "in a cgroup below the scope");
    assert_eq!(whoami(&host, &user(uid, &by_podman))["container"], json!(podman));
    // A user's own container counts for an agent of that user only.
    assert_eq!(agent_of(&host, &user(uid, &own)), "own");
    assert_eq!(agent_of(&host, &user(741_006, &own)), "invalid_client");
    // The user gave its own cgroup the id of a container that root runs.
    assert_eq!(agent_of(&host, &user(uid, &forged)), "invalid_client");
}

#[test]
fn an_administrator_is_shown_how_strong_each_condition_is() {
    require_root();
    let uid = 741_007;
    let own = in_manager(uid, "user.slice", &format!("libpod-{}.scope", id('d')));
    let mut host = Host::new();
    host.agent("unit", &format!("user = {uid}\nuser_unit = \"agent.service\""));
    host.agent("session", &format!("user = {uid}\nsession = true"));
    host.agent("container", &format!("container = \"{}\"", id('d')));
    host.start();
    let mut client = std::process::Command::new("sleep");
    client.arg("600");
    user(uid, &own).apply_to(&mut client);
    let mut client = client.spawn().unwrap();
    let why = host.admin().get(&format!("/v1/processes/{}", client.id())).json();
    client.kill().unwrap();
    client.wait().unwrap();
    let condition = |agent: &str, name: &str| {
        let agents = why["compared"].as_array().unwrap();
        let agent = agents.iter().find(|one| one["agent"] == agent).unwrap();
        let conditions = agent["conditions"].as_array().unwrap();
        conditions.iter().find(|one| one["condition"] == name).unwrap().clone()
    };
    let text = |condition: &Value, member: &str| condition[member].as_str().unwrap().to_owned();
    let unit = condition("unit", "user_unit");
    assert_eq!(unit["outcome"], "fails");
    assert_eq!(text(&unit, "expected"), "agent.service (no stronger than user)");
    assert_eq!(text(&unit, "seen"), format!("libpod-{}.scope in the service manager of uid {uid}", id('d')));
    assert_eq!(text(&condition("session", "session"), "seen"), "no login session");
    let container = condition("container", "container");
    assert_eq!(
        (&container["outcome"], text(&container, "expected")),
        (&json!("fails"), format!("{}, created by root", id('d')))
    );
    assert!(text(&container, "seen").ends_with("who can give it any id"), "{container}");

    let check = host.hostbadge(&["agent", "check", host.path("etc/agents.d").to_str().unwrap()]);
    let said = String::from_utf8(check.stderr).unwrap();
    for expected in [
        "unit.toml:2: warning: user_unit is no stronger than user",
        "session.toml:2: warning: session is no stronger than user",
        "container.toml:2: warning: container alone admits the processes of every user",
    ] {
        assert!(said.contains(expected), "{expected}\nnot in\n{said}");
    }
}

#[test]
fn conditions_that_would_admit_every_user_or_no_container_are_faults() {
    let host = Host::started();
    for (conditions, expected) in [
        ("user_unit = \"agent.service\"", "user_unit needs user beside it"),
        ("group = 1\nsession = true", "session needs user beside it"),
        ("user = 1\nuser_unit = \"agent\"", "user_unit must be a complete user_unit name"),
        ("container = \"web\"", "container must be the container's whole id"),
        ("container = \"4f5e6d7c8b9a\"", "container must be the container's whole id"),
    ] {
        host.agent("one", conditions);
        let answer = host.admin().post("/v1/agents/reload", &json!({}));
        assert_eq!(answer.status, 422, "{conditions}");
        let text = answer.text();
        assert!(text.contains(expected), "{expected}\nnot in\n{text}");
    }
}

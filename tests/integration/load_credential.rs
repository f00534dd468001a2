//! `LoadCredential=NAME:…/credentials.sock`: the service manager gets the credentials of a unit's agent.

use serde_json::{Value, json};

use crate::common::Host;
use crate::common::callers::{Credentials, NOBODY, Unit};
use crate::common::service_manager::{MAX_CREDENTIAL_LEN, Systemd};

const VALUE: &str = "sk-load-correct-horse-battery";
const RELEASE: &str = "[[credential]]\nname = \"github\"\nuse = \"release\"\n";

/// A running host with the credential `github` and these agents: name, conditions, tables `[[credential]]`.
fn host(agents: &[(&str, &str, &str)]) -> Host {
    let mut host = Host::new();
    for (name, conditions, credentials) in agents {
        host.agents_file(name, &format!("name = \"{name}\"\n[match]\n{conditions}\n{credentials}"));
    }
    host.start.env.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), "unix:path=/nonexistent/bus".into()));
    host.start();
    put(&host, "github", VALUE);
    host
}

#[track_caller]
fn put(host: &Host, name: &str, value: &str) {
    let response = host.admin().post("/v1/credentials/put", &json!({ "name": name, "value": value }));
    assert_eq!(response.status, 200, "{}", response.text());
}

fn of_unit(unit: &Unit) -> String {
    format!("unit = \"{}\"", unit.name)
}

/// The last record of the audit log.
fn last_record(host: &Host) -> Value {
    host.audit().pop().unwrap()
}

#[track_caller]
fn assert_fails_unit(host: &Host, answer: &[u8], reason: &str, detail: &str) {
    assert!(answer.len() > MAX_CREDENTIAL_LEN && answer.iter().all(|b| *b == 0), "{} bytes", answer.len());
    assert_refused(host, reason, detail);
}

#[track_caller]
fn assert_gets_nothing(host: &Host, answer: &[u8], reason: &str, detail: &str) {
    assert_eq!(answer, b"", "{}", String::from_utf8_lossy(answer));
    assert_refused(host, reason, detail);
}

#[track_caller]
fn assert_refused(host: &Host, reason: &str, detail: &str) {
    let record = last_record(host);
    assert_eq!(
        (&record["event"], &record["reason"]),
        (&json!("request-refused"), &json!(reason)),
        "{record}"
    );
    assert!(record["detail"].as_str().unwrap().contains(detail), "{record}");
}

#[test]
fn the_manager_of_a_unit_gets_the_latest_value_of_the_units_agent() {
    let unit = Unit::new("loader");
    let host = host(&[("researcher", &of_unit(&unit), RELEASE)]);
    let manager = Credentials::root().in_unit(&unit);
    assert_eq!(host.load(&manager, &unit.name, "github"), VALUE.as_bytes());
    let record = last_record(&host);
    assert_eq!(
        (&record["event"], &record["agent"], &record["credential"], &record["credential_version"]),
        (&json!("credential-released"), &json!("researcher"), &json!("github"), &json!(1))
    );
    assert_eq!(record["detail"], "loaded by the service manager for the unit");
    assert_eq!(record["peer"]["unit"], json!(unit.name));
    assert!(!host.audit_text().contains(VALUE));

    let longest = "x".repeat(64 * 1024 - 200);
    let rotated = host.admin().post("/v1/credentials/rotate", &json!({ "name": "github", "value": longest }));
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    assert_eq!(host.load(&manager, &unit.name, "github"), longest.as_bytes());
    assert_eq!(last_record(&host)["credential_version"], 2);
}

#[test]
fn an_address_is_believed_only_of_root_in_the_unit_that_it_names() {
    let (unit, other) = (Unit::new("loader"), Unit::new("other"));
    let host = host(&[("researcher", &of_unit(&unit), RELEASE)]);
    let foreign = "and the process is not root in it";
    for (what, process, named) in [
        ("another user", Credentials::user(NOBODY), &unit.name),
        ("another user in the unit", Credentials::user(NOBODY).in_unit(&unit), &unit.name),
        ("root in another unit", Credentials::root().in_unit(&other), &unit.name),
        ("root in the unit, for another one", Credentials::root().in_unit(&unit), &other.name),
        ("root in no unit", Credentials::root(), &unit.name),
        ("root in no unit, which is named like none", Credentials::root(), &"-".to_owned()),
    ] {
        let answer = host.load(&process, named, "github");
        eprintln!("{what}");
        assert_gets_nothing(&host, &answer, "invalid_client", foreign);
    }
}

#[test]
fn what_is_not_granted_fails_the_unit_and_the_journal_says_why() {
    let (unit, none, other) = (Unit::new("loader"), Unit::new("none"), Unit::new("two"));
    let inject = "[[credential]]\nname = \"stripe\"\n[[credential]]\nname = \"absent\"\nuse = \"release\"\n";
    let credentials = format!("{RELEASE}{inject}");
    let host = host(&[
        ("researcher", &of_unit(&unit), &credentials),
        ("first", &of_unit(&other), RELEASE),
        ("second", &of_unit(&other), RELEASE),
        ("third", &of_unit(&other), inject),
    ]);
    put(&host, "stripe", "sk-stripe");
    let load = |unit: &Unit, name: &str| host.load(&Credentials::root().in_unit(unit), &unit.name, name);
    for (credential, reason, detail) in [
        ("other", "invalid_target", "agent \"researcher\" has no [[credential]] of this name"),
        ("stripe", "access_denied", "only through the egress proxy"),
        ("absent", "invalid_target", "no credential"),
        ("UPPER", "invalid_request", "\"UPPER\" is not a credential's name"),
    ] {
        assert_fails_unit(&host, &load(&unit, credential), reason, detail);
    }
    assert_fails_unit(&host, &load(&none, "github"), "invalid_client", "no registered agent matches");
    assert_fails_unit(&host, &load(&other, "github"), "invalid_request", "cannot name one: first, second");
    // The one agent that has it is meant.
    assert_fails_unit(&host, &load(&other, "stripe"), "access_denied", "agent \"third\"");
    assert_eq!(load(&unit, "github"), VALUE.as_bytes());
}

#[test]
fn conditions_on_the_program_cannot_hold_before_it_runs() {
    let (unit, beside) = (Unit::new("loader"), Unit::new("beside"));
    let exe = |unit: &Unit, more: &str| format!("{}\n{more}", of_unit(unit));
    let digest = format!("exe_sha256 = \"{}\"", "00".repeat(32));
    let host = host(&[
        ("program", &exe(&unit, "exe = \"/usr/bin/python3\""), RELEASE),
        ("digest", &exe(&beside, &digest), RELEASE),
        ("anyone", "user = 0", RELEASE),
    ]);
    for unit in [&unit, &beside] {
        let answer = host.load(&Credentials::root().in_unit(unit), &unit.name, "github");
        assert_fails_unit(&host, &answer, "invalid_client", "has conditions on its program");
    }
    // An agent by its user alone is no agent of the unit, whose user may be another one.
    let none = Unit::new("none");
    let answer = host.load(&Credentials::root().in_unit(&none), &none.name, "github");
    assert_fails_unit(&host, &answer, "invalid_client", "no registered agent has unit");
}

#[test]
fn a_user_beside_the_unit_is_asked_of_the_service_manager() {
    let (unit, plain) = (Unit::new("loader"), Unit::new("plain"));
    let host = host(&[
        ("researcher", &format!("{}\nuser = 0", of_unit(&unit)), RELEASE),
        ("plain", &of_unit(&plain), RELEASE),
    ]);
    // This machine has no service manager that could say it. The manager's own child is root.
    let answer = host.load(&Credentials::root().in_unit(&unit), &unit.name, "github");
    assert_fails_unit(&host, &answer, "temporarily_unavailable", "/nonexistent/bus");
    assert_eq!(host.load(&Credentials::root().in_unit(&plain), &plain.name, "github"), VALUE.as_bytes());
}

#[test]
fn a_users_manager_gets_what_the_user_may_have_whatever_its_address_says() {
    let manager_unit = Unit::named(&format!("user@{NOBODY}.service"));
    let unit = Unit::new("loader");
    let host = host(&[
        ("of-unit", &of_unit(&unit), RELEASE),
        ("person", &format!("user = {NOBODY}"), "[[credential]]\nname = \"mine\"\nuse = \"release\"\n"),
    ]);
    put(&host, "mine", "of the user");
    let manager = Credentials::user(NOBODY).in_unit(&manager_unit);
    assert_eq!(host.load(&manager, "anything.service", "mine"), b"of the user");
    assert_eq!(last_record(&host)["agent"], "person");
    let answer = host.load(&manager, &unit.name, "github");
    assert_fails_unit(&host, &answer, "invalid_target", "agent \"person\" has no [[credential]]");
    // Another user, and root, are not in this manager.
    let answer = host.load(&Credentials::user(1).in_unit(&manager_unit), "anything.service", "mine");
    assert_gets_nothing(&host, &answer, "invalid_client", "and the process is not root in it");
}

#[test]
fn addresses_of_any_form_get_nothing_and_harm_no_one() {
    let unit = Unit::new("loader");
    let host = host(&[("researcher", &of_unit(&unit), RELEASE)]);
    let manager = Credentials::root().in_unit(&unit);
    let name = unit.name.as_bytes();
    let with = |parts: &[&[u8]]| parts.concat();
    let longest = [b"\0".as_slice(), &[b'a'; 107]].concat();
    for address in [
        Vec::new(),
        b"\0".to_vec(),
        b"\0x".to_vec(),
        longest,
        with(&[b"\0/unit/", name, b"/github"]),
        with(&[b"\0zz/unit/", name, b"/github"]),
        with(&[b"\x001/user/", name, b"/github"]),
        with(&[b"\x001/unit/", name]),
        with(&[b"\x001/unit/", name, b"/"]),
        with(&[b"\x001/unit/", name, b"/a/github"]),
        with(&[b"\x001/unit/", name, b"\0/github"]),
        with(&[b"\x001/unit/", name, b"/github\0"]),
        with(&[b"\x001/unit/", name, b"/git\xffhub"]),
        with(&[b"\x001/unit/../", name, b"/github"]),
        with(&[b"\0", &[0; 40]]),
    ] {
        let answer = host.load_from(&manager, &address);
        assert_gets_nothing(&host, &answer, "invalid_request", "@RANDOM/unit/UNIT/CREDENTIAL");
    }
    let path = host.path("run/1/unit/x");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let answer = host.load_from(&manager, path.as_os_str().as_encoded_bytes());
    assert_gets_nothing(&host, &answer, "invalid_request", "has no abstract address");
    for credential in ["..", ".", "-", "a b"] {
        let answer = host.load(&manager, &unit.name, credential);
        assert!(answer.is_empty() || answer.len() > MAX_CREDENTIAL_LEN, "{credential}");
        assert_refused(&host, "invalid_request", "");
    }
    assert_eq!(host.load(&manager, &unit.name, "github"), VALUE.as_bytes());
}

#[test]
fn a_released_and_a_refused_value_reach_units_of_a_real_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let Some(systemd) = Systemd::in_dir(dir.path()) else { return };
    let unit = format!("hostbadge-load-{}.service", std::process::id());
    let host = host(&[("researcher", &format!("unit = \"{unit}\""), RELEASE)]);
    let load = |name: &str| {
        let socket = host.credentials_socket();
        let service = format!(
            "LoadCredential={name}:{}\nExecStart=/bin/sh -c 'cat $CREDENTIALS_DIRECTORY/{name}'",
            socket.display()
        );
        systemd.run(&unit, &service)
    };
    assert_eq!(load("github"), ("success exited 0".to_owned(), VALUE.to_owned()));
    assert_eq!(last_record(&host)["agent"], "researcher");
    // 243 is EXIT_CREDENTIALS of systemd.exec(5): the program does not start without the credential.
    assert_eq!(load("other"), ("exit-code exited 243".to_owned(), String::new()));
    assert_refused(&host, "invalid_target", "has no [[credential]] of this name");
}

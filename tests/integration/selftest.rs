//! `hostbadge selftest`: on a host as it is there is no hole, and each hole that a test makes is found.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use hostbadge::verify::Jwk;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::{Host, program, require_root};

const AUDIENCE: &str = "urn:hostbadge:selftest";

/// A running host on which root is an agent with the grant that a self-test uses.
fn host_with_agent() -> Host {
    let mut host = Host::new();
    host.agents_file(
        "selftest",
        &format!("name = \"selftest\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{AUDIENCE}\"\n"),
    );
    host.start();
    host
}

fn command(host: &Host, socket: &Path, words: &[&str]) -> Command {
    let temporary = host.path("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let mut command = Command::new(program("hostbadge"));
    command.env("TMPDIR", temporary);
    command.arg("selftest").arg("--state").arg(host.path("state")).arg("--audit").arg(host.path("audit"));
    command.args(words).env("HOSTBADGE_SOCKET", socket).env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
    command
}

/// The exit status and the report of a self-test.
fn run_at(host: &Host, socket: &Path, words: &[&str]) -> (i32, Value) {
    let output = command(host, socket, words).arg("--json").output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), report.unwrap_or_else(|e| panic!("{e}: {}", text(&output))))
}

fn run(host: &Host, words: &[&str]) -> (i32, Value) {
    run_at(host, &host.agent_socket(), words)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The attempts with this result, as `ATTACK: ATTEMPT`.
fn with_result(report: &Value, result: &str) -> Vec<String> {
    let all = report["attempts"].as_array().unwrap().iter().filter(|one| one["result"] == result);
    all.map(|one| format!("{}: {}", one["attack"].as_str().unwrap(), one["attempt"].as_str().unwrap()))
        .collect()
}

fn attacks(attempts: &[String]) -> Vec<&str> {
    let mut attacks: Vec<&str> = attempts.iter().map(|one| one.split(':').next().unwrap()).collect();
    attacks.dedup();
    attacks
}

/// The files below a directory with their contents.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn a_host_without_agents_has_no_hole_and_is_not_changed() {
    require_root();
    let mut host = Host::new();
    host.start();
    // The manifest lists the digests of all other state but what is written from time to time.
    let state = || fs::read(host.path("state/ledger.json")).unwrap();
    let before = (state(), files(&host.path("etc")));
    let (status, report) = run(&host, &[]);
    assert_eq!(with_result(&report, "hole"), Vec::<String>::new(), "{report}");
    assert_eq!((status, &report["holes"], &report["agent"]), (0, &json!(0), &json!(null)));
    assert!((state(), files(&host.path("etc"))) == before, "the host was changed");
    let skipped = with_result(&report, "skipped");
    // Nothing that takes an agent or a stored credential counts as held.
    for attempt in [
        "stranger: credential over the agent socket",
        "stranger: credential over the credentials socket",
        "replay: a nonce",
        "replay: a token",
        "foreign-token: introspection",
        "altered-evidence: ",
    ] {
        assert!(skipped.iter().any(|one| one.starts_with(attempt)), "{attempt}: {skipped:?}");
    }
    let held = with_result(&report, "held");
    let attacks = attacks(&held);
    for attack in [
        "stranger",
        "stale-pid",
        "exec-race",
        "fd-passing",
        "foreign-token",
        "state-copy",
        "smuggled-headers",
    ] {
        assert!(attacks.contains(&attack), "{attack}: {held:?}");
    }
    assert_eq!(files(&host.path("tmp")), BTreeMap::new(), "copies are removed");
    assert_eq!(fs::read_dir(host.path("tmp")).unwrap().count(), 0);
}

#[test]
fn as_an_agent_it_tries_everything_but_what_needs_the_daemons_keys_or_another_daemon() {
    require_root();
    let mut host = Host::new();
    let grant = format!("[[grant]]\naudience = \"{AUDIENCE}\"\n");
    host.agents_file("selftest", &format!("name = \"selftest\"\n[match]\nuser = 0\n{grant}"));
    let credential = "[[credential]]\nname = \"stored\"\nuse = \"release\"\n";
    let conditions = "[match]\nunit = \"hostbadge-selftest-loader.service\"\n";
    host.agents_file("loader", &format!("name = \"loader\"\n{conditions}{credential}"));
    host.start();
    let stored =
        host.admin().post("/v1/credentials/put", &json!({ "name": "stored", "value": "sk-selftest" }));
    assert_eq!(stored.status, 200, "{}", stored.text());
    let remembered = host.path("remembered.json");
    let words = ["--remember", remembered.to_str().unwrap()];
    assert_eq!(run(&host, &words).0, 0);
    let (status, report) = run(&host, &words);
    assert_eq!((status, &report["agent"]), (0, &json!("selftest")), "{report}");
    assert_eq!(
        with_result(&report, "skipped"),
        [
            "state-copy: the databases of the state, and the HMAC of the state manifest",
            "state-copy: an older copy of the whole state, at a start of the daemon",
        ],
        "{report}"
    );
    let held = with_result(&report, "held");
    assert_eq!(attacks(&held).len(), 10, "{held:?}");
    // The table has a row for each attempt, and a summary.
    let table =
        command(&host, &host.agent_socket(), &["--only", "replay", "--only", "audit-copy"]).output().unwrap();
    let table = text(&table);
    assert!(table.starts_with("ATTACK") && table.contains("\n0 holes: 7 held, 0 skipped\n"), "{table}");
}

#[test]
fn a_daemon_that_confuses_callers_is_a_hole() {
    require_root();
    let host = host_with_agent();
    // For the daemon, all callers are the process of this test, an agent of root.
    let relay = host.path("relay.sock");
    let (listener, target) = (UnixListener::bind(&relay).unwrap(), host.agent_socket());
    fs::set_permissions(&relay, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (caller, daemon) = (stream.unwrap(), UnixStream::connect(&target).unwrap());
            for (mut from, mut to) in [
                (caller.try_clone().unwrap(), daemon.try_clone().unwrap()),
                (daemon.try_clone().unwrap(), caller.try_clone().unwrap()),
            ] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    let words = ["--only", "stranger", "--only", "stale-pid", "--only", "exec-race", "--only", "fd-passing"];
    let (status, report) = run_at(&host, &relay, &words);
    assert_eq!(status, 1, "{report}");
    let holes = with_result(&report, "hole");
    for hole in [
        "stranger: token over the agent socket",
        "stranger: certificate over the agent socket",
        "stranger: evidence over the agent socket",
        "stale-pid: whoami after its opener has exited",
        "stale-pid: token after its opener has exited",
        "exec-race: another user between two requests",
        "exec-race: another program between two requests",
        "exec-race: another program in the middle of a request",
        "fd-passing: a stranger's connection, used by this process",
        "fd-passing: this process's connection, used by a stranger",
    ] {
        assert!(holes.iter().any(|one| one == hole), "{hole}: {holes:?}");
    }
    assert!(!report.to_string().contains("eyJ"), "no token is shown");
}

#[test]
fn a_daemon_that_accepts_everything_is_a_hole() {
    require_root();
    let host = Host::new();
    fs::create_dir_all(host.path("run")).unwrap();
    let socket = host.path("run/agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let random = ring::rand::SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let body = json!({
        "agent": "fake", "posture": "ok", "access_token": "a.b.c", "nonce": "n", "active": true, "valid": true,
        "keys": [Jwk::from_point(pair.public_key().as_ref().try_into().unwrap())],
    })
    .to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || {
                let (mut piece, mut text) = ([0; 4096], String::new());
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    text += &String::from_utf8_lossy(&piece[..count]);
                    // Each line that looks like that of a request is one.
                    while let Some(at) = text.find(" HTTP/1.1\r\n") {
                        text.drain(..at + 11);
                        let _ = stream.write_all(answer.as_bytes());
                    }
                }
            });
        }
    });
    let words = ["--only", "replay", "--only", "foreign-token", "--only", "smuggled-headers"];
    let (status, report) = run_at(&host, &socket, &words);
    assert_eq!(status, 1, "{report}");
    let holes = with_result(&report, "hole");
    assert_eq!(attacks(&holes), ["replay", "foreign-token", "smuggled-headers"], "{report}");
    assert_eq!(holes.len(), 2 + 1 + 14, "{holes:?}");
}

#[test]
fn an_older_file_and_an_altered_log_are_holes() {
    require_root();
    let mut host = host_with_agent();
    let remembered = host.path("remembered.json");
    let words = ["--remember", remembered.to_str().unwrap(), "--only", "state-copy", "--only", "audit-copy"];
    let older = fs::read(host.path("state/issuing.json")).unwrap();
    let older_manifest = fs::read(host.path("state/ledger.json")).unwrap();
    assert!(host.hostbadge(&["key", "rotate"]).status.success());
    for _ in 0..3 {
        assert_eq!(host.post("/v1/token", json!({ "audience": AUDIENCE })).status, 200);
    }
    assert_eq!(run(&host, &words).0, 0);
    host.stop();

    // The command asks whether a daemon is there, so another host's answers.
    let other = host_with_agent();
    let newer = fs::read(host.path("state/issuing.json")).unwrap();
    assert_ne!(newer, older);
    fs::write(host.path("state/issuing.json"), &older).unwrap();
    let (status, report) = run_at(&host, &other.agent_socket(), &words);
    assert_eq!(
        (status, with_result(&report, "hole")),
        (1, vec!["state-copy: the state files, against the state manifest".to_owned()])
    );
    // With the older manifest, the directory agrees with itself.
    fs::write(host.path("state/ledger.json"), older_manifest).unwrap();
    let (status, report) = run_at(&host, &other.agent_socket(), &words);
    let hole = "state-copy: the state manifest, against that of an earlier self-test";
    assert_eq!(status, 1);
    assert!(with_result(&report, "hole").contains(&hole.to_owned()), "{report}");

    let log = fs::read_dir(host.path("audit")).unwrap().map(|entry| entry.unwrap().path());
    let log =
        log.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).max().unwrap();
    let altered = fs::read_to_string(&log).unwrap().replacen(AUDIENCE, "urn:hostbadge:altered!", 1);
    fs::write(&log, altered).unwrap();
    let (status, report) = run_at(&host, &other.agent_socket(), &["--only", "audit-copy"]);
    assert_eq!(
        (status, with_result(&report, "hole")),
        (1, vec!["audit-copy: the end of the audit log as it is".to_owned()])
    );
}

#[test]
fn exit_statuses_name_who_may_run_it_and_that_no_daemon_answers() {
    require_root();
    let mut host = Host::new();
    host.start();
    let mut by_nobody = command(&host, &host.agent_socket(), &[]);
    Credentials::user(NOBODY).apply_to(&mut by_nobody);
    let output = by_nobody.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("run it as root"), "{}", text(&output));
    let output = command(&host, &host.path("run/none.sock"), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let output = command(&host, &host.agent_socket(), &["--only", "everything"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

//! Tokens that are used once, and nonces that this host made: valid for the first use alone, whatever happens.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::fake_clock::FakeClock;
use crate::common::http::{Response, jti};
use crate::common::{API, Host, audit_log, until_true};
use serde_json::{Value, json};

const YEAR: &str = "+365d";

/// A running host without rate limits, on which root is the agent `root` and `nobody` the agent `other`.
fn host() -> Host {
    let mut host = stopped_host();
    host.start();
    host
}

fn stopped_host() -> Host {
    let host = Host::new();
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    host.agent("root", "user = 0");
    host.agent("other", &format!("user = {NOBODY}"));
    host
}

fn ask_once(host: &Host, token: &str) -> Response {
    host.post("/v1/introspect", json!({ "token": token, "once": true }))
}

#[track_caller]
fn once(host: &Host, token: &str) -> bool {
    let answer = ask_once(host, token);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["active"].as_bool().unwrap()
}

fn nonce(host: &Host) -> String {
    let answer = host.post("/v1/nonce", json!({}));
    assert_eq!((answer.status, &answer.json()["expires_in"]), (200, &json!(300)), "{}", answer.text());
    answer.json()["nonce"].as_str().unwrap().to_owned()
}

#[track_caller]
fn use_nonce(host: &Host, nonce: &str) -> bool {
    let answer = host.post("/v1/nonce/use", json!({ "nonce": nonce }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["valid"].as_bool().unwrap()
}

/// The reasons of the records of an event that say no.
fn reasons(host: &Host, event: &str) -> Vec<String> {
    let lines = host.audit();
    let refused = audit_log::with_event(&lines, event).into_iter().filter(|line| line["active"] == false);
    refused.map(|line| line["detail"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_token_is_used_once_and_stays_valid_for_other_requests() {
    let host = host();
    let token = host.token();
    assert_eq!(host.introspect(&token)["active"], true, "does not count");
    let first = ask_once(&host, &token).json();
    assert_eq!((&first["active"], &first["jti"]), (&json!(true), &json!(jti(&token))));
    let lines = host.audit();
    let details: Vec<&Value> =
        audit_log::with_event(&lines, "introspected").iter().map(|one| &one["detail"]).collect();
    assert_eq!(details, [&Value::Null, &json!("and used it up")]);
    let second = ask_once(&host, &token);
    assert_eq!(second.text(), "{\"active\":false}", "without the reason");
    assert_eq!(reasons(&host, "introspected"), ["used once already"]);
    let lines = host.audit();
    let last = audit_log::with_event(&lines, "introspected").pop().unwrap();
    assert_eq!(last["jti"], jti(&token));
    assert_eq!(host.introspect(&token)["active"], true);
    assert_eq!(host.admin().get("/v1/revocations").json()["used_tokens"], 1);

    // As a form, and for one audience.
    let token = host.token();
    let form = |text: &str| host.connect().form("/v1/introspect", &format!("token={token}&{text}"));
    assert_eq!(form("once=false").json()["active"], true);
    assert_eq!(form("once=true&audience=https%3A%2F%2Fwrong.example").json()["active"], false);
    assert_eq!(form("once=true").json()["active"], true, "the wrong audience used nothing up");
    assert_eq!(form("once=true").json()["active"], false);
    for text in ["once=1", "once=", "once=TRUE"] {
        let answer = form(text);
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{text}");
    }
}

#[test]
fn only_an_active_token_is_used_up() {
    let host = host();
    let token = host.token();
    let revoked = host.token();
    assert_eq!(host.post("/v1/revoke", json!({ "token": revoked })).status, 200);
    for text in [revoked.as_str(), "garbage", &token[..token.len() - 2]] {
        assert!(!once(&host, text));
    }
    assert_eq!(host.admin().get("/v1/revocations").json()["used_tokens"], 0);
    assert!(once(&host, &token));
    assert_eq!(host.post("/v1/revoke", json!({ "token": token })).status, 200);
    assert_eq!(host.introspect(&token)["active"], false);
}

/// Another agent of the host asks: one use for the host, whoever asks.
#[test]
fn relying_parties_share_the_one_use_of_a_token() {
    let host = host();
    let token = host.token();
    let body = json!({ "token": token, "once": true }).to_string();
    let arguments = ["-H", "Content-Type: application/json", "-d", &body];
    let other = Credentials::user(NOBODY);
    assert_eq!(other.curl(&host, "/v1/introspect", &arguments).json()["active"], true);
    assert!(!once(&host, &token));
    // A process that is no agent neither learns nor uses up anything.
    let token = host.token();
    let body = json!({ "token": token, "once": true }).to_string();
    let stranger = Credentials::user(NOBODY - 1);
    let arguments = ["-H", "Content-Type: application/json", "-d", &body];
    assert_eq!(stranger.curl(&host, "/v1/introspect", &arguments).error(), "invalid_client");
    assert!(once(&host, &token));
}

/// Asks from 50 connections, 20 times each, and returns how often the answer was yes.
fn a_thousand_at_once(host: &Host, target: &str, body: &Value, member: &str) -> usize {
    let yes = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut connection = host.connect();
                for _ in 0..20 {
                    let answer = connection.post(target, body);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    if answer.json()[member] == true {
                        yes.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    yes.into_inner()
}

#[test]
fn of_a_thousand_at_once_exactly_one_is_true() {
    let host = host();
    for _ in 0..3 {
        let body = json!({ "token": host.token(), "once": true });
        assert_eq!(a_thousand_at_once(&host, "/v1/introspect", &body, "active"), 1);
        let body = json!({ "nonce": nonce(&host) });
        assert_eq!(a_thousand_at_once(&host, "/v1/nonce/use", &body, "valid"), 1);
    }
}

#[test]
fn a_use_that_was_acknowledged_survives_a_crash_and_a_restart() {
    let mut host = host();
    let (used, unused) = (host.token(), host.token());
    let (used_nonce, unused_nonce) = (nonce(&host), nonce(&host));
    assert!(once(&host, &used) && use_nonce(&host, &used_nonce));
    host.crash();
    host.start();
    assert!(!once(&host, &used) && !use_nonce(&host, &used_nonce));
    assert!(once(&host, &unused) && use_nonce(&host, &unused_nonce), "their first use");
    assert!(host.stop().success());
    host.start();
    for token in [&used, &unused] {
        assert!(!once(&host, token));
        assert_eq!(host.introspect(token)["active"], true);
    }
    assert!(!use_nonce(&host, &used_nonce) && !use_nonce(&host, &unused_nonce));
}

/// Crashes while many tokens are used up: none is true twice.
#[test]
fn a_crash_in_the_middle_makes_no_use_true_twice() {
    let mut host = host();
    let tokens: Vec<String> = (0..200).map(|_| host.token()).collect();
    let socket = host.agent_socket();
    let pid = host.pid();
    let acknowledged: Vec<bool> = std::thread::scope(|scope| {
        let clients: Vec<_> = tokens
            .chunks(50)
            .map(|part| {
                let socket = &socket;
                scope.spawn(move || {
                    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
                    let mut connection = crate::common::http::Connection::new(stream);
                    let ask = |token: &String| {
                        let body = json!({ "token": token, "once": true }).to_string();
                        let kind = Some("application/json");
                        let ask =
                            crate::common::http::request("POST", "/v1/introspect", kind, body.as_bytes());
                        let answer = connection.send(&ask).ok().and_then(|()| connection.read_response());
                        answer.is_some_and(|answer| answer.status == 200 && answer.json()["active"] == true)
                    };
                    part.iter().map(ask).collect::<Vec<bool>>()
                })
            })
            .collect();
        let dir = host.path("audit");
        until_true("some are used up", || audit_log::text(&dir).matches("\"introspected\"").count() > 20);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    host.wait_for_exit();
    host.start();
    assert!(acknowledged.iter().any(|yes| *yes) && acknowledged.iter().any(|yes| !*yes), "in the middle");
    for (token, yes) in tokens.iter().zip(acknowledged) {
        let again = once(&host, token);
        assert!(!(again && yes), "true twice");
        assert!(!once(&host, token));
    }
}

#[test]
fn a_clock_that_is_set_makes_nothing_valid_again() {
    let mut host = stopped_host();
    let clock = FakeClock::of(&mut host, "+0");
    host.start();
    let (token, nonce_used, nonce_kept) = (host.token(), nonce(&host), nonce(&host));
    assert!(once(&host, &token) && use_nonce(&host, &nonce_used));
    clock.set(YEAR);
    until_true("the daemon sees the clock", || !host.introspect(&token)["active"].as_bool().unwrap());
    assert!(!once(&host, &token) && !use_nonce(&host, &nonce_used) && !use_nonce(&host, &nonce_kept));
    let later = nonce(&host);
    // Time for what is forgotten once in a second.
    host.crash();
    host.start();
    std::thread::park_timeout(std::time::Duration::from_secs(3));
    clock.set("+0");
    until_true("the daemon sees the clock", || host.introspect(&token)["active"].as_bool().unwrap());
    assert!(!once(&host, &token) && !use_nonce(&host, &nonce_used));
    assert!(!use_nonce(&host, &later), "it was made at a time that has not come");
    assert!(use_nonce(&host, &nonce_kept) && !use_nonce(&host, &nonce_kept));
    let said = reasons(&host, "nonce-used");
    assert!(said.iter().any(|text| text == "the nonce has expired"), "{said:?}");
    assert!(said.iter().any(|text| text == "the nonce was made before the clock was set back"), "{said:?}");
}

#[test]
fn a_nonce_is_valid_once_for_the_agent_that_asked_for_it() {
    let host = host();
    let made = nonce(&host);
    let body = json!({ "nonce": made }).to_string();
    let arguments = ["-H", "Content-Type: application/json", "-d", &body];
    let other = Credentials::user(NOBODY).curl(&host, "/v1/nonce/use", &arguments);
    assert_eq!((other.status, other.text().as_str()), (200, "{\"valid\":false}"));
    let answer = host.connect().form("/v1/nonce/use", &format!("nonce={made}"));
    assert_eq!(answer.json()["valid"], true, "another agent used nothing up");
    assert!(!use_nonce(&host, &made));
    let flipped = if made.starts_with('A') { "B" } else { "A" };
    let changed = format!("{flipped}{}", &made[1..]);
    let random = String::from_utf8(host.hostbadge(&["nonce"]).stdout).unwrap();
    for unknown in ["", "x", random.trim(), &changed, &format!("{made}="), &"A".repeat(50_000)] {
        assert!(!use_nonce(&host, unknown), "{unknown:.100}");
    }
    let said = reasons(&host, "nonce-used");
    assert_eq!(said.iter().filter(|text| *text == "used once already").count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|text| text.contains("did not make the nonce")).count(), 7, "{said:?}");
    assert_eq!(
        Credentials::user(NOBODY - 1).curl(&host, "/v1/nonce", &["-d", "{}"]).error(),
        "invalid_client"
    );
    for body in [json!({}), json!({ "nonce": 1 }), json!({ "nonce": "a", "once": true })] {
        assert_eq!(host.post("/v1/nonce/use", body).status, 400);
    }
    // A freeze ends nonces too.
    let made = nonce(&host);
    assert_eq!(host.admin().post("/v1/freeze", &json!({})).status, 200);
    assert!(!use_nonce(&host, &made));
    assert_eq!(host.admin().post("/v1/thaw", &json!({})).status, 200);
    assert!(!use_nonce(&host, &made));
    let made = nonce(&host);
    assert!(use_nonce(&host, &made));
}

/// Nonces of a host are as long as a challenge may be.
#[test]
fn a_nonce_of_this_host_is_a_challenge_for_evidence() {
    let host = host();
    let made = nonce(&host);
    assert_eq!(host.post("/v1/attest", json!({ "nonce": made })).status, 200);
    assert!(use_nonce(&host, &made));
}

#[test]
fn another_host_with_other_keys_does_not_know_the_nonce() {
    let one = host();
    let made = nonce(&one);
    let mut other = Host::other();
    other.agent("root", "user = 0");
    other.start();
    assert!(!use_nonce(&other, &made));
    assert!(use_nonce(&one, &made));
}

/// A use that cannot be stored is not acknowledged, and counts.
#[test]
fn on_a_full_disk_a_token_is_not_acknowledged_and_counts_as_used() {
    let mut host = stopped_host();
    let (state, saved) = (host.path("state"), host.path("saved"));
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program}");
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run("cp", &["-a", &text(&state), &text(&saved)]);
    run("mount", &["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", &text(&state)]);
    struct Mounted(String);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").args(["-l", &self.0]).status();
        }
    }
    let _mounted = Mounted(text(&state));
    run("cp", &["-a", &format!("{}/.", text(&saved)), &text(&state)]);
    host.start();
    let tokens = [host.token(), host.token(), host.token()];
    assert!(once(&host, &tokens[0]));
    let ballast = state.join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
    drop(file);
    // The database may have room for some rows.
    let refused = tokens.iter().skip(1).cloned().chain((0..2000).map(|_| host.token())).find(|token| {
        let answer = ask_once(&host, token);
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
        answer.status == 503
    });
    let refused = refused.expect("the disk is full");
    let answer = ask_once(&host, &refused);
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"active\":false}"), "counts as used");
    let lines = host.audit();
    let said: Vec<&Value> = audit_log::with_event(&lines, "request-refused");
    assert!(said[0]["detail"].as_str().unwrap().contains("the token counts as used"), "{}", said[0]);
    assert!(host.status()["warnings"].to_string().contains("would not survive a restart"));
    fs::remove_file(&ballast).unwrap();
    let is_stored = || host.status()["warnings"].to_string().contains("would not survive");
    until_true("the use is stored", || !is_stored());
    host.crash();
    host.start();
    assert!(!once(&host, &refused) && !once(&host, &tokens[0]));
    host.stop();
}

#[test]
fn the_command_says_by_its_exit_status_whether_a_token_or_nonce_is_valid() {
    let host = host();
    let token = host.token();
    let run = |words: &[&str], input: &str| {
        let output = host.hostbadge_with(words, input);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = run(&["introspect", "--audience", API], &format!("{token}\n"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("active    yes\n") && said.contains("agent     root\n"), "{said}");
    assert_eq!(run(&["introspect", "--once"], &token).0, 0);
    assert_eq!(
        run(&["introspect", "--once"], &token),
        (1, "not active; the audit log has the reason\n".into())
    );
    assert_eq!(run(&["introspect", "--once", "--json"], &token), (1, "{\"active\":false}\n".into()));
    assert_eq!(run(&["introspect"], &token).0, 0);
    assert_eq!(run(&["introspect"], "").0, 1);

    let (code, made) = run(&["nonce", "--from-daemon"], "");
    assert_eq!(code, 0);
    let made = made.trim();
    assert_eq!(run(&["nonce", "use", made], ""), (0, "valid, and used up now\n".into()));
    assert_eq!(run(&["nonce", "use", made], "").0, 1);
    assert_eq!(run(&["--json", "nonce", "use", made], ""), (1, "{\"valid\":false}\n".into()));
    assert_eq!(run(&["nonce", "use"], "").0, 2);
    assert_eq!(run(&["nonce", "--from-daemon", "use", made], "").0, 2);
    assert_eq!(run(&["nonce"], "").1.trim().len(), 43);
}

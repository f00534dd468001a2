//! Revocations across crashes, full disks, older and damaged databases, and clocks that are set; and requests that
//! revoke nothing.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::common::fake_clock::FakeClock;
use crate::common::http::{Response, claims, jti};
use crate::common::{API, Host, pause, until, until_true};
use crate::disk_failures::{mount, succeed};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

const DATABASE: &str = "state/revocations.db";

/// A host on which root is the agent `r` and, for introspection, the agent `reader`.
fn host() -> Host {
    let host = Host::new();
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    host.agent("r", "user = 0");
    host.agent("reader", "user = 0");
    host
}

fn started() -> Host {
    let mut host = host();
    host.start();
    host
}

fn token(host: &Host) -> String {
    let answer = host.post("/v1/token", json!({ "audience": API, "agent": "r" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn token_status(host: &Host) -> u64 {
    u64::from(host.post("/v1/token", json!({ "audience": API, "agent": "r" })).status)
}

fn is_active(host: &Host, token: &str) -> bool {
    host.introspect(token)["active"].as_bool().unwrap()
}

fn revoke(host: &Host, request: Value) -> Response {
    host.admin().post("/v1/revocations/revoke", &request)
}

#[track_caller]
fn done(host: &Host, path: &str, request: Value) {
    let answer = host.admin().post(path, &request);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
}

/// Why nothing is issued; empty where it is.
fn blocked(host: &Host) -> String {
    let status = host.status();
    let warnings = status["warnings"].as_array().unwrap();
    let of_revocations = warnings.iter().filter_map(Value::as_str).find(|text| text.contains("revocations"));
    of_revocations.unwrap_or_default().to_owned()
}

#[test]
fn what_was_acknowledged_survives_a_crash() {
    let mut host = started();
    let (first, second) = (token(&host), token(&host));
    done(&host, "/v1/revocations/revoke", json!({ "token": first }));
    host.crash();
    host.start();
    assert!(!is_active(&host, &first) && is_active(&host, &second));
    done(&host, "/v1/revocations/revoke", json!({ "agent": "r", "reason": "a crash follows" }));
    host.crash();
    host.start();
    assert_eq!(token_status(&host), 403);
    assert!(!is_active(&host, &second));
    done(&host, "/v1/revocations/lift", json!({ "agent": "r" }));
    host.crash();
    host.start();
    let third = token(&host);
    assert!(is_active(&host, &third) && !is_active(&host, &second));
    done(&host, "/v1/freeze", json!({}));
    host.crash();
    host.start();
    assert_eq!((token_status(&host), host.health()["status"].as_str()), (403, Some("degraded")));
    assert!(
        blocked(&host).is_empty()
            && host.status()["warnings"][0].as_str().unwrap().contains("hostbadge thaw")
    );
    done(&host, "/v1/thaw", json!({}));
    assert!(is_active(&host, &token(&host)) && !is_active(&host, &third));
    // A later revocation has a greater epoch than each token from before the crash.
    let epoch = |token: &str| claims(token)["hostbadge"]["epoch"].as_u64().unwrap();
    assert!(epoch(&third) < epoch(&token(&host)));
}

#[test]
fn an_older_or_damaged_database_stops_issuing_until_it_is_accepted() {
    let mut host = started();
    done(&host, "/v1/revocations/revoke", json!({ "agent": "reader" }));
    let held = token(&host);
    host.stop();
    let older = fs::read(host.path(DATABASE)).unwrap();
    host.start();
    done(&host, "/v1/revocations/revoke", json!({ "agent": "r" }));
    host.stop();
    let latest = fs::read(host.path(DATABASE)).unwrap();

    let half = older[..older.len() / 2].to_vec();
    for (what, content) in [("older", Some(&older)), ("torn", Some(&half)), ("missing", None)] {
        match content {
            Some(content) => fs::write(host.path(DATABASE), content).unwrap(),
            None => fs::remove_file(host.path(DATABASE)).unwrap(),
        }
        host.start();
        until_true("the database is refused", || !blocked(&host).is_empty());
        assert!(blocked(&host).contains("revocations.db"), "{what}: {}", blocked(&host));
        assert_eq!(token_status(&host), 503, "{what}");
        assert_eq!(host.post("/v1/introspect", json!({ "token": held })).status, 503, "{what}");
        assert_eq!(host.post("/v1/certificate", json!({ "agent": "r" })).status, 503, "{what}");
        assert_eq!(revoke(&host, json!({ "agent": "r" })).status, 503, "{what}");
        assert_eq!(host.health()["status"], "degraded", "{what}");
        // The latest copy is put back, and found without a restart.
        fs::write(host.path(DATABASE), &latest).unwrap();
        until_true("the latest database is open", || blocked(&host).is_empty());
        assert_eq!(token_status(&host), 403, "{what}");
        host.stop();
    }

    fs::write(host.path(DATABASE), &half).unwrap();
    host.start();
    until_true("the database is refused", || blocked(&host).contains("damaged"));
    let accepted = host.hostbadge(&["revoke", "accept"]);
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    assert!(String::from_utf8_lossy(&accepted.stdout).contains("frozen"));
    assert_eq!(token_status(&host), 403);
    let kept = fs::read_dir(host.path("state")).unwrap();
    let kept = kept.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"));
    assert_eq!(kept.count(), 1, "the damaged database is kept");
    done(&host, "/v1/thaw", json!({}));
    let new = token(&host);
    assert!(is_active(&host, &new) && !is_active(&host, &held), "what was issued before is revoked");
    host.stop();
    host.start();
    assert!(is_active(&host, &new) && !is_active(&host, &held));
    let nothing = host.admin().post("/v1/revocations/accept", &json!({}));
    assert_eq!(nothing.status, 409, "{}", nothing.text());
}

/// Whatever a full disk leaves of room: what is not on disk is not acknowledged, and is in effect all the same.
#[test]
fn a_revocation_on_a_full_disk_is_in_effect_and_not_acknowledged() {
    let mut host = host();
    let (state, saved) = (host.path("state"), host.path("saved"));
    succeed(Command::new("cp").arg("-a").arg(&state).arg(&saved));
    let disk = mount(&state, &["-t", "tmpfs", "-o", "size=768k,mode=700", "tmpfs"]);
    succeed(Command::new("cp").arg("-a").arg(saved.join(".")).arg(&state));
    host.start();
    let tokens = [token(&host), token(&host)];
    let ballast = disk.path().join("ballast");
    assert!(fs::write(&ballast, vec![0; 1 << 20]).is_err(), "the disk is full");
    for (index, request) in [json!({ "token": tokens[0] }), json!({ "agent": "r" })].into_iter().enumerate() {
        let answer = revoke(&host, request.clone());
        assert_eq!(answer.status, 503, "{}", answer.text());
        let said = answer.json()["error_description"].as_str().unwrap().to_owned();
        assert!(said.contains("in effect, but not stored"), "{said}");
        assert!(!is_active(&host, &tokens[index]));
        // Nor if it is asked again.
        assert_eq!(revoke(&host, request).status, 503);
    }
    assert_eq!(token_status(&host), 403);
    assert!(blocked(&host).contains("would not survive a restart"), "{}", blocked(&host));
    fs::remove_file(&ballast).unwrap();
    until_true("the revocations are stored", || blocked(&host).is_empty());
    host.crash();
    host.start();
    assert_eq!(token_status(&host), 403);
    assert!(!is_active(&host, &tokens[0]) && !is_active(&host, &tokens[1]));
    host.stop();
}

#[test]
fn garbage_foreign_and_expired_tokens_revoke_nothing_and_twice_is_once() {
    let host = started();
    let other = Host::other();
    let mut other = {
        other.agent("r", "user = 0");
        other
    };
    other.start();
    let foreign = other.token();
    let short = host.post("/v1/token", json!({ "audience": API, "agent": "r", "ttl": "1s" })).json();
    let short = short["access_token"].as_str().unwrap().to_owned();
    let before = host.status();
    for text in ["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", &foreign, &"x".repeat(60_000)] {
        let by_admin = revoke(&host, json!({ "token": text }));
        assert_eq!(by_admin.status, 400, "{text:.20}: {}", by_admin.text());
        assert!(!by_admin.text().contains(&foreign), "a token is not repeated");
        let own = host.post("/v1/revoke", json!({ "token": text, "token_type_hint": "access_token" }));
        assert_eq!((own.status, own.text().as_str()), (200, "{}"), "{text:.20}");
    }
    until_true("the token has expired", || !is_active(&host, &short));
    assert_eq!(revoke(&host, json!({ "token": short })).json()["outcome"], "expired");
    assert_eq!(host.post("/v1/revoke", json!({ "token": short })).status, 200);
    assert_eq!(before["warnings"], host.status()["warnings"]);
    let listed = host.admin().get("/v1/revocations").json();
    assert_eq!((&listed["count"], &listed["tokens"]), (&json!(0), &json!(0)), "{listed}");

    let held = token(&host);
    for outcome in ["revoked", "already-revoked"] {
        assert_eq!(revoke(&host, json!({ "token": held })).json()["outcome"], outcome);
    }
    for outcome in ["revoked", "already-revoked"] {
        assert_eq!(revoke(&host, json!({ "agent": "r" })).json()["outcome"], outcome);
    }
    for request in [
        json!({}),
        json!({ "agent": "r", "owner": "x" }),
        json!({ "agent": "none" }),
        json!({ "agent": "../r" }),
        json!({ "owner": "nobody" }),
        json!({ "tenant": "none" }),
        json!({ "invocation": "xyz" }),
        json!({ "key": "none" }),
        json!({ "jti": "" }),
        json!({ "agent": "r", "reason": "x".repeat(513) }),
        json!({ "agent": "r", "reason": "a\nb" }),
    ] {
        let answer = revoke(&host, request.clone());
        assert!([400, 404].contains(&answer.status), "{request}: {} {}", answer.status, answer.text());
    }
}

/// Another agent's token is not an agent's to revoke.
#[test]
fn an_agent_revokes_its_own_tokens_only() {
    use crate::common::callers::{Credentials, NOBODY};
    let mut host = host();
    host.agent("stranger", &format!("user = {NOBODY}"));
    host.start();
    let held = token(&host);
    let form = format!("token={held}");
    let denied = Credentials::user(NOBODY).curl(&host, "/v1/revoke", &["-d", &form]);
    assert_eq!((denied.status, denied.error().as_str()), (403, "access_denied"));
    assert!(is_active(&host, &held));
    let unknown = Credentials::user(NOBODY - 1).curl(&host, "/v1/revoke", &["-d", &form]);
    assert_eq!((unknown.status, unknown.error().as_str()), (401, "invalid_client"));
    assert_eq!(host.connect().form("/v1/revoke", &form).status, 200);
    assert!(!is_active(&host, &held));
    let events = host.audit();
    let revoked: Vec<_> = events.iter().filter(|line| line["event"] == "token-revoked").collect();
    assert_eq!(
        (revoked.len(), &revoked[0]["jti"], &revoked[0]["agent"]),
        (1, &json!(jti(&held)), &json!("r"))
    );
    assert!(!host.audit_text().contains(&held));
}

/// Ten thousand revocations at once, of which each is acknowledged once it is on disk.
#[test]
fn ten_thousand_tokens_are_revoked_at_once() {
    const THREADS: usize = 20;
    const EACH: usize = 500;
    let mut host = started();
    let held = token(&host);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let host = &host;
            scope.spawn(move || {
                let mut admin = host.admin();
                for n in 0..EACH {
                    let answer =
                        admin.post("/v1/revocations/revoke", &json!({ "jti": format!("{thread}-{n}") }));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
    });
    let listed = |host: &Host| host.admin().get("/v1/revocations").json()["tokens"].as_u64().unwrap();
    assert_eq!(listed(&host), (THREADS * EACH) as u64);
    host.crash();
    host.start();
    assert_eq!(listed(&host), (THREADS * EACH) as u64);
    assert!(is_active(&host, &held), "no other token is revoked");
}

/// A clock that is set makes nothing valid again, and what is revoked stays so when it is right again.
#[test]
fn a_clock_that_is_set_by_a_year_makes_nothing_valid_again() {
    let mut host = host();
    let clock = FakeClock::of(&mut host, "+0");
    host.start();
    let (single, of_agent) = (token(&host), token(&host));
    done(&host, "/v1/revocations/revoke", json!({ "token": single }));
    done(&host, "/v1/revocations/revoke", json!({ "agent": "r" }));
    done(&host, "/v1/revocations/lift", json!({ "agent": "r" }));
    for offset in ["+1y", "+0", "-1y", "+0"] {
        clock.set(offset);
        for held in [&single, &of_agent] {
            assert!(!is_active(&host, held), "{offset}");
        }
        pause(Duration::from_millis(2500));
    }
    host.stop();
    clock.set("+1y");
    host.start();
    pause(Duration::from_millis(2500));
    host.crash();
    clock.set("+0");
    host.start();
    for held in [&single, &of_agent] {
        assert!(!is_active(&host, held));
    }
    until("tokens are issued", || (token_status(&host) == 200).then_some(()));
}

/// A TPM that does not respond delays neither the effect of a revocation nor, for long, its acknowledgment.
#[test]
fn a_revocation_while_the_tpm_is_stalled_is_in_effect_and_survives_a_crash() {
    let mut host = started();
    let held = token(&host);
    // Later changes need the database, which the first one creates.
    done(&host, "/v1/revocations/revoke", json!({ "jti": "another" }));
    let tpm = host.swtpm();
    kill(tpm, Signal::SIGSTOP).unwrap();
    let answer = revoke(&host, json!({ "agent": "r" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((token_status(&host), is_active(&host, &held)), (403, false));
    kill(tpm, Signal::SIGCONT).unwrap();
    host.crash();
    host.start();
    assert_eq!((token_status(&host), is_active(&host, &held)), (403, false));
}

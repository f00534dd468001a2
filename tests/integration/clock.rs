//! A clock that is wrong at the first start, or while the daemon runs, and right later.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::fake_clock::FakeClock;
use crate::common::grpc::{Grpc, UNAVAILABLE};
use crate::common::http::part;
use crate::common::{API, Host, audit_log, until, until_true};
use data_encoding::BASE64;
use hostbadge::clock::{Clock, ClockSync};
use serde_json::{Value, json};

fn first_started(offset: &str) -> (Host, FakeClock) {
    let mut host = Host::never_started();
    host.agent("root", "user = 0");
    let clock = FakeClock::of(&mut host, offset);
    host.start();
    (host, clock)
}

/// Starts the daemon again with the right time.
fn restart_right(host: &mut Host) {
    assert!(host.stop().success());
    host.start.env.clear();
    host.start();
}

/// A certificate, and whether it is valid now below the roots of the bundle, as OpenSSL verifies it.
#[track_caller]
fn certificate(host: &Host) -> (Value, bool) {
    let answer = host.post("/v1/certificate", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let certificate = answer.json();
    let chain = certificate["certificate_chain"].as_str().unwrap();
    let file = |name: &str, text: &str| {
        let path = host.path(name);
        fs::write(&path, text).unwrap();
        path
    };
    let verified = Command::new("openssl")
        .args(["verify", "-CAfile"])
        .arg(file("roots.pem", &roots(host)))
        .arg("-untrusted")
        .args([file("chain.pem", chain), file("leaf.pem", chain)])
        .output()
        .unwrap();
    (certificate.clone(), verified.status.success())
}

fn bundle(host: &Host) -> Value {
    host.get("/v1/bundle").json()
}

/// The roots of the bundle in PEM.
fn roots(host: &Host) -> String {
    let bundle = bundle(host);
    let roots = bundle["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "x509-svid");
    let pem = |key: &Value| {
        let der = BASE64.decode(key["x5c"][0].as_str().unwrap().as_bytes()).unwrap();
        let text = BASE64.encode(&der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    roots.map(pem).collect()
}

fn issuing_keys(host: &Host) -> Vec<String> {
    let bundle = bundle(host);
    let keys = bundle["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "jwt-svid");
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a record of this event contains the text.
#[track_caller]
fn until_recorded(host: &Host, event: &str, text: &str) {
    until_true(&format!("{event} is recorded: {text}"), || {
        let lines = audit_log::text(&host.path("audit"));
        lines.lines().any(|line| line.contains(&format!("\"event\":\"{event}\"")) && line.contains(text))
    });
}

#[track_caller]
fn succeed(host: &Host, words: &[&str]) -> String {
    let output = host.hostbadge(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Only on a host without a time service does the daemon wait for this command.
fn accept_clock(host: &Host) {
    if Clock::System.sync() != ClockSync::Synchronized {
        succeed(host, &["clock", "accept"]);
        until_recorded(host, "clock-accepted", "says that the clock is right");
    }
}

#[test]
fn host_that_first_started_ten_years_ahead_is_right_once_its_clock_is() {
    let (mut host, _) = first_started("+10y");
    let future_token = host.token();
    let (_, is_valid) = certificate(&host);
    assert!(!is_valid, "it is of the future");
    let first_keys = issuing_keys(&host);
    let first_sequence = bundle(&host)["spiffe_sequence"].as_u64().unwrap();
    restart_right(&mut host);

    // The root and the issuing CA are made again.
    let (_, is_valid) = certificate(&host);
    assert!(is_valid);
    until_recorded(&host, "ca-certified", "of a clock that was ahead, is not valid before 203");
    assert!(bundle(&host)["spiffe_sequence"].as_u64().unwrap() > first_sequence);
    assert_eq!(host.introspect(&future_token)["active"], false);
    // The key that signed tokens of the future has a successor at once, and the status says why.
    until_true("the next key is published", || issuing_keys(&host).len() == 2);
    let clock = host.status()["clock"].clone();
    assert!(clock["future_keys"].as_u64().unwrap() >= 1, "{clock}");
    assert_eq!(host.status()["status"], "degraded");

    // The certificate of the future is revoked, once the clock is known to be right.
    accept_clock(&host);
    until_recorded(&host, "certificates-revoked", "issued while the clock was ahead");
    until_true("no certificate is of the future", || host.status()["clock"]["future_certificates"] == 0);
    let rotated = succeed(&host, &["key", "rotate", "--now"]);
    assert!(!rotated.contains(&format!("{} signs", first_keys[0])), "{rotated}");
    assert_ne!(issuing_keys(&host)[0], first_keys[0]);
    assert_eq!(host.status()["status"], "ok", "{}", host.status());
    let (_, is_valid) = certificate(&host);
    assert!(is_valid);
}

#[test]
fn host_that_first_started_in_1970_issues_certificates_once_its_clock_is_right() {
    let (host, clock) = first_started("-56y");
    assert!(!certificate(&host).1, "it has expired");
    clock.set("+0");
    // The first request after that.
    let (_, is_valid) = certificate(&host);
    assert!(is_valid);
    until_recorded(&host, "clock-changed", "the clock was set forward by ");
    until_recorded(&host, "ca-certified", "the previous one expires at 199");
    let status = host.status();
    assert_eq!(
        (&status["ca"]["blocked_reason"], &status["status"]),
        (&Value::Null, &json!("ok")),
        "{status}"
    );
}

#[test]
fn first_request_after_two_days_is_served() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let clock = FakeClock::of(&mut host, "+0");
    host.start();
    certificate(&host);
    for offset in ["+2d", "+4d", "+6d"] {
        clock.set(offset);
        let answer = host.post("/v1/certificate", json!({}));
        assert_eq!(answer.status, 200, "{offset}: {}", answer.text());
        host.token();
    }
}

#[test]
fn clock_that_is_ahead_for_a_while_leaves_nothing_behind() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let clock = FakeClock::of(&mut host, "+0");
    host.start();
    let (_, is_valid) = certificate(&host);
    assert!(is_valid);
    let first = issuing_keys(&host);
    let mut sequences = vec![bundle(&host)["spiffe_sequence"].as_u64().unwrap()];

    // Two years: longer than a key signs. Its successor is published by that clock.
    clock.set("+2y");
    certificate(&host);
    until_true("the next key is published", || issuing_keys(&host).len() == 2);
    sequences.push(bundle(&host)["spiffe_sequence"].as_u64().unwrap());
    // Relying parties have had no day to fetch it, whatever the clock says.
    clock.set("+3y");
    certificate(&host);
    until_true("the clock is known to be set again", || {
        audit_log::text(&host.path("audit")).matches("the clock was set forward by ").count() == 2
    });
    clock.set("+0");
    let (_, is_valid) = certificate(&host);
    assert!(is_valid, "the first request after the clock was set back");
    until_recorded(&host, "clock-changed", "the clock was set back by ");
    // It is published again, so that it does not wait for two years.
    until_true("the key is published at the right time", || {
        let keys = host.admin().get("/v1/keys").json();
        let next = keys["keys"].as_array().unwrap().iter().find(|key| key["state"] == "published").cloned();
        let since = next.and_then(|key| humantime::parse_rfc3339(key["since"].as_str()?).ok());
        let since = since.map(|time| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs());
        since.is_some_and(|since| since <= Clock::System.now().as_secs() + 60)
    });
    assert_eq!(issuing_keys(&host)[0], first[0]);
    until_true("the certificate is known to be of the future", || {
        host.status()["clock"]["future_certificates"] == 2 || Clock::System.sync() == ClockSync::Synchronized
    });
    accept_clock(&host);
    until_recorded(&host, "certificates-revoked", "issued while the clock was ahead");

    // Each change has a greater number, also several in a second and after the clock was set back.
    for _ in 0..3 {
        succeed(&host, &["key", "rotate", "--now"]);
        sequences.push(bundle(&host)["spiffe_sequence"].as_u64().unwrap());
    }
    restart_right(&mut host);
    succeed(&host, &["key", "rotate", "--now"]);
    sequences.push(bundle(&host)["spiffe_sequence"].as_u64().unwrap());
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
}

/// It is younger than a key is when it is replaced, but may have signed tokens that become valid tomorrow.
#[test]
fn key_that_signed_while_the_clock_was_ahead_gets_a_successor() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let clock = FakeClock::of(&mut host, "+0");
    host.start();
    clock.set("+1d");
    host.token();
    until_recorded(&host, "clock-changed", "the clock was set forward by ");
    assert_eq!(issuing_keys(&host).len(), 1);
    clock.set("+0");
    until_true("a successor is published", || issuing_keys(&host).len() == 2);
}

#[test]
fn tokens_records_and_status_say_whether_the_clock_is_synchronized() {
    let host = Host::started();
    let sync = Clock::System.sync();
    let claims = part(&host.token(), 1);
    assert_eq!(claims["hostbadge"]["clock"], sync.as_str());
    let record = audit_log::with_event(&host.audit(), "token-issued")[0].clone();
    let expected = if sync == ClockSync::Synchronized { Value::Null } else { json!(sync.as_str()) };
    assert_eq!(record["clock"], expected);
    assert_eq!(host.status()["clock"]["sync"], sync.as_str());
    let shown = succeed(&host, &["clock", "show"]);
    assert_eq!(shown.contains("not synchronized"), sync == ClockSync::Unsynchronized, "{shown}");
    assert_eq!(host.status()["status"], "ok");
}

#[test]
fn host_that_requires_a_synchronized_clock_issues_nothing_without_one() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[clock]\nrequire_synchronized = true\n");
    host.start();
    let token = host.post("/v1/token", json!({ "audience": API }));
    let certificate = host.post("/v1/certificate", json!({}));
    let svid = Grpc::connect(&host.workload_socket()).jwt(&[API], "");
    if Clock::System.sync() == ClockSync::Synchronized {
        assert_eq!((token.status, certificate.status, svid.is_ok()), (200, 200, true));
        return;
    }
    for answer in [token, certificate] {
        assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
        assert!(answer.text().contains("clock"), "{}", answer.text());
    }
    assert_eq!(svid.unwrap_err().code, UNAVAILABLE);
    let status = host.status();
    assert_eq!((&status["status"], &status["clock"]["required"]), (&json!("degraded"), &json!(true)));
    assert_eq!(host.hostbadge(&["status"]).status.code(), Some(4));
}

/// The rest of the entry is intact: what the damaged part recorded cannot be revoked.
#[test]
fn damaged_records_of_certificates_are_reported_and_kept() {
    let mut host = Host::started();
    certificate(&host);
    certificate(&host);
    assert!(host.stop().success());
    let path = host.path("state/leaves.json");
    let whole = fs::read_to_string(&path).unwrap();
    let mut file: Value = serde_json::from_str(&whole).unwrap();
    let (id, entry) = file["leaves"].as_object_mut().unwrap().iter_mut().next().unwrap();
    let id = id.clone();
    *entry = json!(&entry.as_str().unwrap()[..60]);
    let damaged = file.to_string();
    fs::write(&path, &damaged).unwrap();
    host.start();
    until_recorded(&host, "certificate-records-lost", &id);
    let status = host.status();
    let reason = status["ca"]["lost_records"].as_str().unwrap();
    assert!(reason.contains(&id) && reason.contains("leaves.json.damaged-1"), "{reason}");
    assert_eq!(status["status"], "degraded");
    certificate(&host);
    assert!(host.stop().success());
    assert_eq!(fs::read_to_string(host.path("state/leaves.json.damaged-1")).unwrap(), damaged);
    assert_ne!(fs::read_to_string(&path).unwrap(), damaged);
    host.start();
    let reason = until("it is reported after a restart", || {
        host.status()["ca"]["lost_records"].as_str().map(str::to_owned)
    });
    assert!(
        Path::new(&host.path("state/leaves.json.damaged-1")).exists() && reason.contains("before this start")
    );
}

/// The call that reads the clock's state is denied with others of `@privileged`, so it is allowed after them.
/// ProtectClock= would deny it again.
#[test]
fn unit_allows_to_read_the_clocks_state_and_not_to_set_it() {
    let unit = include_str!("../../systemd/hostbadged.service");
    let filters: Vec<&str> = unit.lines().filter(|line| line.starts_with("SystemCallFilter=")).collect();
    assert_eq!(
        filters,
        [
            "SystemCallFilter=@system-service",
            "SystemCallFilter=~@privileged @resources",
            "SystemCallFilter=adjtimex"
        ]
    );
    assert!(!unit.lines().any(|line| line.starts_with("ProtectClock=")));
    assert!(unit.lines().any(|line| line == "CapabilityBoundingSet="));
    assert!(unit.lines().any(|line| line == "DevicePolicy=closed"));
}

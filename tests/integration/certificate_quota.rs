//! How many unexpired certificates agents may have, and what a clock that was ahead leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::common::{Host, until_true};
use data_encoding::BASE64;
use serde_json::{Value, json};

const YEAR: u64 = 365 * 24 * 3600;

fn now() -> u64 {
    hostbadge::clock::Clock::System.now().as_secs()
}

/// `count` certificates of this expiry, as `leaves.json` has them.
fn leaves(count: u64, expires: u64) -> String {
    let leaf = |n: u64| [&n.to_be_bytes()[..], &[7; 8], &expires.to_be_bytes(), b"ca 1"].concat();
    BASE64.encode(&(0..count).flat_map(leaf).collect::<Vec<u8>>())
}

/// Starts a host on which `root` and these other agents have the certificates.
fn started_with(host: &mut Host, hogs: u32, by_agent: &[(String, String)]) -> String {
    host.agent("root", "user = 0");
    for hog in 0..hogs {
        host.agent(&format!("hog-{hog}"), &format!("user = {}", 20_000 + hog));
    }
    host.start();
    let id = host.get("/v1/whoami").json()["spiffe_id"].as_str().unwrap().to_owned();
    host.stop();
    let prefix = id.strip_suffix("root").unwrap();
    let leaves: BTreeMap<String, &String> =
        by_agent.iter().map(|(name, leaves)| (format!("{prefix}{name}"), leaves)).collect();
    fs::write(host.path("state/leaves.json"), json!({ "version": 1, "leaves": leaves }).to_string()).unwrap();
    host.start();
    id
}

#[test]
fn eight_agents_cannot_keep_the_ninth_from_certificates() {
    let mut host = Host::new();
    let hogs: Vec<(String, String)> =
        (0..8).map(|hog| (format!("hog-{hog}"), leaves(4096, now() + 3000))).collect();
    started_with(&mut host, 8, &hogs);
    for _ in 0..5 {
        let answer = host.post("/v1/certificate", json!({}));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn certificates_of_a_clock_that_was_ahead_block_nobody_and_stay_known() {
    assert_known_and_not_counted(now() + 3 * YEAR);
}

/// The clock may be ahead for a moment: they are revoked if it turns out that they are valid.
#[test]
fn certificates_that_have_expired_block_nobody_and_stay_known_after_a_restart() {
    assert_known_and_not_counted(now() - 1000);
}

/// Asserts that an agent with as many certificates of this expiry as it may have gets another one, and that
/// all of them can be revoked after that.
#[track_caller]
fn assert_known_and_not_counted(expires: u64) {
    let mut host = Host::new();
    let id = started_with(&mut host, 0, &[("root".to_owned(), leaves(4096, expires))]);
    let answer = host.post("/v1/certificate", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    host.stop();
    let file: Value = serde_json::from_slice(&fs::read(host.path("state/leaves.json")).unwrap()).unwrap();
    let kept = BASE64.decode(file["leaves"][&id].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(kept.len(), 40 * 4097, "they can still be revoked");
}

#[test]
fn certificates_that_cannot_be_revoked_are_not_recorded_as_revoked() {
    let mut host = Host::new();
    let removed = ("removed".to_owned(), leaves(3, now() + 3000));
    started_with(&mut host, 0, &[removed]);
    let mut details = Vec::new();
    until_true("the attempt is recorded", || {
        let lines = host.audit();
        let lines = crate::common::audit_log::with_event(&lines, "certificates-revoked");
        details = lines.iter().map(|line| line["detail"].as_str().unwrap().to_owned()).collect();
        !details.is_empty()
    });
    assert!(
        details[0].starts_with("0 certificates of ") && details[0].contains("3 cannot be"),
        "{details:?}"
    );
}

#[test]
fn an_agent_at_its_bound_is_told_when_to_ask_again() {
    let mut host = Host::new();
    let all = ("root".to_owned(), leaves(4096, now() + 3000));
    started_with(&mut host, 0, &[all]);
    // The quota comes first: the CSR is not even read.
    for body in [json!({}), json!({ "csr": "-----BEGIN CERTIFICATE REQUEST-----" })] {
        let answer = host.post("/v1/certificate", body);
        assert_eq!((answer.status, answer.error().as_str()), (429, "slow_down"), "{}", answer.text());
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((2500..=3000).contains(&wait), "{wait}");
    }
}

/// Verifiers refuse a list whose thisUpdate is in the future.
#[test]
fn crls_of_a_clock_that_was_ahead_are_issued_again() {
    let mut host = Host::new();
    started_with(&mut host, 0, &[]);
    host.stop();
    let path = host.path("state/ca.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let listed = file["listed"].as_u64().unwrap();
    file["listed"] = json!(listed + YEAR);
    fs::write(&path, file.to_string()).unwrap();
    host.launch();
    let accepted = Command::new(env!("CARGO_BIN_EXE_hostbadge"))
        .args(["key", "accept"])
        .env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket())
        .output()
        .unwrap();
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    until_true("the lists have the present time", || {
        let text = fs::read(&path).unwrap();
        let file: Value = serde_json::from_slice(&text).unwrap();
        file["listed"].as_u64().unwrap() <= now()
    });
}

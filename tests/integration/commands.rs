//! Output and exit status of the `hostbadge` command.

use std::process::Output;

use crate::common::{API, Host, until_true};
use serde_json::Value;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn success_exits_0_with_text_or_json() {
    let host = Host::started();
    let token = host.hostbadge(&["token", API, "--ttl", "1m"]);
    assert_eq!(code(&token), 0);
    assert_eq!(text(&token).trim().split('.').count(), 3);
    for words in [&["whoami"][..], &["status"], &["agent", "list"], &["agent", "reload"], &["audit", "tail"]]
    {
        let people = host.hostbadge(words);
        assert_eq!(code(&people), 0, "{words:?}");
        let programs = host.hostbadge(&[words, &["--json"]].concat());
        assert_eq!(code(&programs), 0, "{words:?}");
        assert!(text(&programs).lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{words:?}");
    }
    let keys = host.path("jwks.json");
    let file = keys.to_str().unwrap();
    assert_eq!(code(&host.hostbadge(&["export", "jwks", "-o", file])), 0);
    let token = text(&token);
    let verify = |audience: &str| {
        code(&host.hostbadge(&["verify", "token", token.trim(), "--jwks", file, "--audience", audience]))
    };
    assert_eq!((verify(API), verify("https://other")), (0, 1));
}

#[test]
fn a_verification_ends_with_one_verdict() {
    let host = Host::started();
    let token = host.token();
    let keys = host.path("jwks.json");
    let file = keys.to_str().unwrap();
    assert_eq!(code(&host.hostbadge(&["export", "jwks", "-o", file])), 0);
    let verify = |words: &[&str]| {
        let output = host.hostbadge(&[&["verify", "token", "--jwks", file], words].concat());
        let last = text(&output).lines().last().unwrap_or_default().to_owned();
        (code(&output), last)
    };
    let valid = verify(&[&token]);
    let expected = "VALID: signature and times of this access token; \
                    not compared: the issuer (--issuer), the audience (--audience)";
    assert_eq!(valid, (0, expected.to_owned()));
    let forged = verify(&[&crate::common::http::tampered(&token)]);
    assert!(forged.0 == 1 && forged.1.starts_with("NOT VALID: the signature"), "{forged:?}");
    let elsewhere = verify(&[&token, "--audience", "https://other"]);
    assert!(elsewhere.0 == 1 && elsewhere.1.starts_with("NOT VALID: for audience"), "{elsewhere:?}");

    // Evidence, for a nonce that the command made; and an EAT, which is no token of an agent.
    let nonce = text(&host.hostbadge(&["nonce"])).trim().to_owned();
    assert_eq!(nonce.len(), 43, "32 bytes in base64url");
    let other: Value = serde_json::from_slice(&host.hostbadge(&["nonce", "--json"]).stdout).unwrap();
    assert_ne!(other["nonce"], nonce);
    let evidence = host.path("evidence.json");
    let attest = ["attest", "--nonce", &nonce, "-o", evidence.to_str().unwrap()];
    assert_eq!(code(&host.hostbadge(&attest)), 0);
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    let evidence = evidence.to_str().unwrap();
    let good = host.hostbadge(&["verify", "evidence", evidence, "--nonce", &nonce, "--ak", &ak]);
    let last = text(&good).lines().last().unwrap().to_owned();
    assert!(code(&good) == 0 && last.starts_with("VALID: ") && last.contains("checks passed"), "{last}");
    let bad = host.hostbadge(&["verify", "evidence", evidence, "--nonce", "AAAAAAAAAAAA", "--ak", &ak]);
    let last = text(&bad).lines().last().unwrap().to_owned();
    assert!(code(&bad) == 1 && last.starts_with("NOT VALID: ") && last.contains("failed: "), "{last}");
    let eat = host.hostbadge(&["attest", "--nonce", &nonce, "--format", "eat"]);
    let eat = verify(&[text(&eat).trim()]);
    assert!(eat.0 == 1 && eat.1.contains("hostbadge verify evidence"), "{eat:?}");
}

#[test]
fn exported_discovery_names_endpoints_only_on_request() {
    let host = Host::started();
    let export = |words: &[&str]| -> Value {
        let output = host.hostbadge(&[&["export", "discovery"], words].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (plain, full) = (export(&[]), export(&["--endpoints"]));
    for name in ["token_endpoint", "introspection_endpoint"] {
        assert!(plain.get(name).is_none() && full[name].is_string(), "{name}");
    }
    assert_eq!(full, host.get("/.well-known/openid-configuration").json());
    for name in ["issuer", "jwks_uri", "response_types_supported"] {
        assert_eq!(plain[name], full[name], "{name}");
    }
}

#[test]
fn usage_errors_name_every_way_out() {
    let host = Host::started();
    let usage = host.hostbadge(&["enroll", "challenge", "request.json", "--secret", "s"]);
    let error = String::from_utf8_lossy(&usage.stderr).into_owned();
    assert_eq!(code(&usage), 2);
    for option in ["--roots", "--no-roots", "--trust-domain", "--any-trust-domain"] {
        assert!(error.contains(option), "{option}: {error}");
    }
    host.agent("second", "user = 0");
    host.reload();
    let refused = host.hostbadge(&["token", API]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("\"agent\" (--agent)"), "{error}");
}

/// Text from callers and from a false daemon must not control the terminal.
#[test]
fn characters_that_control_or_reorder_text_are_printed_escaped() {
    let host = Host::started();
    let evil = "x\n2026 INFO forged\u{1b}[31m\u{202e}";
    let refused = host.hostbadge(&["token", API, "--agent", evil]);
    host.post("/v1/token", serde_json::json!({ "audience": API, "agent": evil }));
    let record = host.hostbadge(&["audit", "tail"]);
    until_true("the path is in the log", || host.log().contains("forged"));
    for text in [text(&record), String::from_utf8_lossy(&refused.stderr).into_owned(), host.log()] {
        assert!(text.contains("forged"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("\n2026 INFO"), "{text:?}");
        assert!(!text.contains('\u{202e}'), "{text:?}");
    }
}

#[test]
fn denial_usage_no_daemon_and_unavailable_have_distinct_exit_statuses() {
    let mut host = Host::started();
    let refused = host.hostbadge(&["token", "https://nobody"]);
    assert_eq!(code(&refused), 1);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("invalid_target"));
    assert_eq!(code(&host.hostbadge(&["tokne"])), 2);
    assert!(host.stop().success());
    assert_eq!(code(&host.hostbadge(&["whoami"])), 3);

    std::fs::write(host.path("state/issuing.json"), "{").unwrap();
    host.start();
    let not_now = host.hostbadge(&["token", API]);
    assert_eq!(code(&not_now), 4);
    assert!(String::from_utf8_lossy(&not_now.stderr).contains("issuing.json"));
    assert_eq!(code(&host.hostbadge(&["status"])), 4);
    assert!(host.stop().success());
}

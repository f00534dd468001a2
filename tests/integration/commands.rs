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

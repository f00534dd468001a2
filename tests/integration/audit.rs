//! The audit log: bounded lines, and its end after a crash of the machine.

use std::fs;

use crate::common::audit_log::{self, with_event};
use crate::common::{API, Host, append, until_true};
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

/// Upper bound of a line's length in bytes, with its newline.
const MAX_LINE_LEN: usize = 8192;

/// The length of the longest line.
fn longest_line(host: &Host) -> usize {
    audit_log::text(&host.path("audit")).lines().map(|line| line.len() + 1).max().unwrap()
}

#[test]
fn texts_from_callers_make_short_lines() {
    let host = Host::started();
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    for (character, count) in [("\u{7f}", 12_000), ("\\u0001", 2_000), ("\u{202e}", 4_000)] {
        let header = format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{}"}}"#, character.repeat(count));
        let token = format!("{}.{}.AA", encode(&header), encode("{}"));
        assert_eq!(host.introspect(&token), json!({ "active": false }));
    }
    host.post("/v1/token", json!({ "audience": "\u{1}".repeat(4000) }));
    host.post("/v1/token", json!({ "audience": API, "scope": "\u{7f}".repeat(4000) }));
    host.post("/v1/token", json!({ "audience": API, "agent": "\u{1}".repeat(4000) }));
    let lines = host.audit();
    let introspected = with_event(&lines, "introspected");
    assert_eq!(introspected.len(), 3);
    for line in introspected {
        // A token's line has about 700 bytes.
        assert!(line.to_string().len() < 1200, "{line}");
        let detail = line["detail"].as_str().unwrap();
        assert!(detail.contains("… (") && detail.contains(" bytes, SHA-256 "), "{detail}");
    }
    assert!(longest_line(&host) < 2048, "{}", longest_line(&host));
    until_true("the log has the cut texts", || host.log().contains(" bytes, SHA-256 "));
    assert!(host.log().lines().all(|line| line.len() < 16_384), "entries for administrators are short too");
}

#[test]
fn a_reload_of_many_agents_is_recorded_in_one_bounded_line() {
    let host = Host::started();
    let name = |n: usize| format!("agent-{n:0>20}");
    for n in 0..1000 {
        host.agents_file(&name(n), &format!("name = \"{}\"\n[match]\nuser = {}\n", name(n), 100_000 + n));
    }
    assert_eq!(host.admin().post("/v1/agents/reload", &json!({})).status, 200);
    let lines = host.audit();
    let [reload] = with_event(&lines, "agents-reloaded")[..] else { panic!("one line") };
    let detail = reload["detail"].as_str().unwrap();
    assert!(detail.contains("(1000 added, 0 changed, 0 removed)"), "{detail}");
    assert!(detail.contains(&name(0)) && detail.contains(" and 990 more"), "{detail}");
    assert!(longest_line(&host) <= MAX_LINE_LEN, "{}", longest_line(&host));
}

/// The last file of a crashed host's log, and its last line's number.
fn crashed(host: &mut Host) -> (std::path::PathBuf, u64) {
    host.token();
    host.crash();
    let last = host.audit().last().unwrap()["seq"].as_u64().unwrap();
    (audit_log::files(&host.path("audit")).pop().unwrap(), last)
}

#[test]
fn a_tail_without_a_whole_line_is_set_aside_and_recorded_and_the_numbers_continue() {
    let mut host = Host::started();
    let giant = [vec![b'x'; 300_000], b"\n".to_vec()].concat();
    for (tail, ending) in [(vec![0; 1], "torn-1"), (vec![0; 400_000], "torn-2"), (giant, "torn-3")] {
        let (file, last) = crashed(&mut host);
        let before = fs::read(&file).unwrap();
        append(&file, &tail);
        host.start();
        host.token();
        let lines = host.audit();
        let next = lines.iter().find(|line| line["seq"] == last + 1).unwrap();
        assert_eq!(next["event"], "audit-torn");
        let detail = next["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{} bytes after line {last} ", tail.len())), "{detail}");
        assert!(fs::read(&file).unwrap().starts_with(&before), "no line was torn");
        assert_eq!(fs::read(file.with_extension(ending)).unwrap(), tail);
    }
    host.stop();
}

#[test]
fn a_new_file_of_zeros_is_set_aside_and_the_file_before_continues() {
    let mut host = Host::started();
    let (file, last) = crashed(&mut host);
    let zeros = file.with_file_name(format!("{:020}.jsonl", last + 1));
    fs::write(&zeros, vec![0; 200_000]).unwrap();
    host.start();
    let lines = host.audit();
    let torn = &lines[last as usize];
    assert_eq!(torn["event"], "audit-torn");
    // The lost file can have had lines of these numbers.
    let highest = last + 200_000 / 80;
    assert_eq!(torn["seq"], highest + 1);
    let detail = torn["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("lines {} to {highest} are missing", last + 1)), "{detail}");
    assert_eq!(fs::read(zeros.with_extension("torn-1")).unwrap(), vec![0; 200_000]);
    assert!(!zeros.exists());
    host.stop();
}

#[test]
fn old_whole_lines_after_the_end_restart_no_number() {
    let mut host = Host::started();
    let (file, last) = crashed(&mut host);
    let text = fs::read_to_string(&file).unwrap();
    let old: String = text.split_inclusive('\n').skip(2).take(2).collect();
    let tail = [vec![0; 4096], b"\n".to_vec(), old.into_bytes()].concat();
    append(&file, &tail);
    host.start();
    let lines = host.audit();
    assert_eq!(lines[last as usize]["event"], "audit-torn");
    assert_eq!(lines[last as usize]["seq"], last + 1);
    assert_eq!(fs::read(file.with_extension("torn-1")).unwrap(), tail);
    host.stop();
}

#[test]
fn a_removed_or_moved_file_is_replaced_while_tokens_are_issued() {
    let mut host = Host::started();
    let dir = host.path("audit");
    for round in 0..2 {
        host.token();
        let lost = audit_log::files(&dir).pop().unwrap();
        if round == 0 {
            fs::remove_file(&lost).unwrap();
        } else {
            fs::rename(&lost, host.path("moved.jsonl")).unwrap();
        }
        let newest = || audit_log::files(&dir).pop().filter(|path| *path != lost);
        let text = || newest().map(|path| fs::read_to_string(path).unwrap()).unwrap_or_default();
        until_true("a new file says so", || text().contains("audit-file-replaced"));
        host.token();
        assert!(text().lines().next().unwrap().contains("audit-file-replaced"), "{}", text());
        assert!(text().contains("token-issued"), "{}", text());
        assert_eq!(host.health()["status"], "ok");
    }
    host.stop();
}

//! `hostbadge audit tail`: every record beside load, across files and restarts, and filters.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::processes::Running;
use crate::common::{API, Host, audit_log, program, until, until_true};

/// `hostbadge audit tail` with these words, as JSON.
fn tail(host: &Host, words: &[&str]) -> Vec<Value> {
    let output = host.hostbadge(&[&["audit", "tail", "--json"], words].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    records(&output.stdout)
}

fn records(text: &[u8]) -> Vec<Value> {
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let lines = std::str::from_utf8(&text[..whole]).unwrap().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Starts `hostbadge audit tail --follow --json`, and waits until it has printed something.
fn follow(host: &Host) -> Running {
    let file = |name: &str| fs::File::create(host.path(name)).unwrap();
    let mut command = Command::new(program("hostbadge"));
    command.args(["audit", "tail", "--follow", "--json"]).stdin(Stdio::null());
    command.env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket()).stdout(file("seen")).stderr(file("said"));
    let running = Running::start(command);
    until_true("records are printed", || !seen(host).is_empty());
    running
}

fn seen(host: &Host) -> Vec<u64> {
    let text = fs::read(host.path("seen")).unwrap();
    records(&text).iter().map(|record| record["seq"].as_u64().unwrap()).collect()
}

fn assert_consecutive(seqs: &[u64]) {
    for pair in seqs.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "records are left out");
    }
}

/// Makes as many records as `count`, on one connection.
fn make_records(host: &Host, count: usize) {
    let mut connection = host.connect();
    for _ in 0..count {
        let status = connection.post("/v1/token", &json!({ "audience": API })).status;
        assert_eq!(status, 200);
    }
}

#[test]
fn every_record_is_followed_beside_load_and_across_a_restart() {
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1000000\nburst = 1000000");
    host.agent("root", "user = 0");
    host.start();
    let _follow = follow(&host);
    // A response has at most 1000 records, so that more than these are made between two of them.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| make_records(&host, 800));
        }
    });
    host.stop();
    host.start();
    make_records(&host, 50);
    let last = host.audit().pop().unwrap()["seq"].as_u64().unwrap();
    until_true("the last record is printed", || seen(&host).last() == Some(&last));
    assert_consecutive(&seen(&host));
    let said = fs::read_to_string(host.path("said")).unwrap();
    assert!(!said.contains("left out"), "{said}");
    host.stop();
}

#[test]
fn a_follower_says_which_records_the_log_has_no_more() {
    let mut host = Host::started();
    let _follow = follow(&host);
    host.stop();
    let seen_before = *seen(&host).last().unwrap();
    // Ten more records are written and, before the follower asks for them, moved elsewhere.
    let files = audit_log::files(&host.path("audit"));
    let last = audit_log::chained_lines(&host.path("audit")).pop().unwrap()["seq"].as_u64().unwrap();
    assert!(seen_before <= last);
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    let lost_to = last + 10;
    let line = audit_line(lost_to + 1);
    fs::write(files[0].with_file_name(format!("{:020}.jsonl", lost_to + 1)), line).unwrap();
    host.start();
    host.token();
    until("later records are printed", || seen(&host).last().copied().filter(|seq| *seq > lost_to + 1));
    let said = fs::read_to_string(host.path("said")).unwrap();
    let expected = format!("numbers {} to {lost_to}", seen_before + 1);
    assert!(said.contains("left out") && said.contains(&expected), "{said}");
    host.stop();
}

/// A line of the log as after lines that do not exist.
fn audit_line(seq: u64) -> String {
    let prev = "0".repeat(64);
    let record = r#""time":"2026-11-26T10:00:00.000000Z","event":"daemon-stopping""#;
    format!("{{\"v\":1,\"seq\":{seq},\"prev\":\"{prev}\",{record}}}\n")
}

#[test]
fn filters_by_agent_event_and_time() {
    let host = Host::started();
    host.token();
    host.post("/v1/token", json!({ "audience": "https://other.example" }));
    let refused = tail(&host, &["--event", "request-refused", "--agent", "root"]);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0]["audience"], "https://other.example");
    assert!(tail(&host, &["--agent", "other"]).is_empty());
    let all = host.audit();
    assert_eq!(tail(&host, &["--since", "1h"]), all);
    assert_eq!(tail(&host, &["-n", "1000", "--until", "2020-01-01T00:00:00Z"]), [] as [Value; 0]);
    let time = refused[0]["time"].as_str().unwrap();
    assert_eq!(tail(&host, &["--since", time, "--until", time]), refused);
    let output = host.hostbadge(&["audit", "tail", "--event", "tokens"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no event") && said.contains("\"tokens\""), "{said}");
}

/// The guide's script that verifies the log, for this host.
fn verify_by_the_guide(host: &Host) -> (bool, String) {
    let guide = include_str!("../../docs/guide/operation.md");
    let blocks = guide.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let script = blocks.filter(|block| block.contains("sha256sum")).collect::<String>();
    let script = script.replace("/var/log/hostbadge/audit", host.path("audit").to_str().unwrap());
    let output = Command::new("sh").args(["-eu", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.is_empty() || said.contains("No such file"), "{said}");
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_script_of_the_guide_verifies_the_log_and_finds_changes() {
    let mut host = Host::started();
    make_records(&host, 5);
    host.stop();
    host.start();
    make_records(&host, 2);
    host.stop();
    assert_eq!(verify_by_the_guide(&host), (true, String::new()));
    let file = &audit_log::files(&host.path("audit"))[0];
    let text = fs::read_to_string(file).unwrap();
    let changed = text.lines().find(|line| line.contains("token-issued")).unwrap();
    let seq = serde_json::from_str::<Value>(changed).unwrap()["seq"].as_u64().unwrap();
    let expected = format!("record {} does not continue the one before it\n", seq + 1);
    for replacement in [changed.replace("docs", "does"), changed.replace("pid\":", "pid\": ")] {
        fs::write(file, text.replace(changed, &replacement)).unwrap();
        assert_ne!(changed, replacement);
        assert_eq!(verify_by_the_guide(&host), (false, expected.clone()));
    }
    fs::write(file, text.replace(&format!("{changed}\n"), "")).unwrap();
    assert_eq!(verify_by_the_guide(&host), (false, expected));
    let torn = changed.replace(&format!("\"seq\":{seq},"), "\"seq\":7000,");
    let cut = text.split_once(changed).unwrap().0.to_owned();
    fs::write(file, format!("{cut}{torn}\n")).unwrap();
    assert_eq!(verify_by_the_guide(&host), (false, format!("record 7000 follows record {}\n", seq - 1)));
    // Older files were removed: the chain holds from the first record that is there.
    let rest: String = text.split_inclusive('\n').skip(3).collect();
    fs::write(file, &rest).unwrap();
    assert_eq!(verify_by_the_guide(&host), (false, "record 4 is the first of file 1\n".to_owned()));
    fs::remove_file(file).unwrap();
    assert!(!verify_by_the_guide(&host).0, "there is no record");
    fs::write(file.with_file_name(format!("{:020}.jsonl", 4)), rest).unwrap();
    assert_eq!(verify_by_the_guide(&host), (true, String::new()));
}

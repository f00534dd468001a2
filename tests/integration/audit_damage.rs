//! `hostbadge audit export`, `query` and `tail` on logs with damaged lines, after a power loss, and with a cursor of
//! another log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::{Host, audit_log, program};

fn record(seq: usize) -> String {
    format!(
        "{{\"v\":1,\"seq\":{seq},\"prev\":\"{}\",\"time\":\"2026-11-26T10:00:00.{seq:06}Z\",\"event\":\
         \"token-issued\",\"outcome\":\"granted\",\"agent\":\"a\"}}\n",
        "0".repeat(64)
    )
}

/// A copy of a log with records 1 to `count`.
fn copy_of_log(count: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(format!("{:020}.jsonl", 1));
    fs::write(&file, (1..=count).map(record).collect::<String>()).unwrap();
    (dir, file)
}

fn audit(words: &[&str], dir: &Path) -> Output {
    Command::new(program("hostbadge")).arg("audit").args(words).arg("--dir").arg(dir).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The numbers of the records of an export.
fn seqs(format: &str, text: &str) -> Vec<u64> {
    let mut seqs = Vec::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        match format {
            "json" => seqs.push(value["seq"].as_u64().unwrap()),
            "ocsf" => seqs.push(value["metadata"]["sequence"].as_u64().unwrap()),
            _ => {
                for log in value["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap() {
                    let attributes = log["attributes"].as_array().unwrap();
                    let seq = attributes.iter().find(|found| found["key"] == "hostbadge.seq").unwrap();
                    seqs.push(seq["value"]["intValue"].as_str().unwrap().parse().unwrap());
                }
            }
        }
    }
    seqs
}

#[test]
fn lines_that_are_no_records_are_named_and_left_out_and_the_exit_status_says_so() {
    let (dir, file) = copy_of_log(9);
    let damaged = record(4).replace("\"v\":1", "\"v\":x");
    // It has a number, and not the members of a record.
    let without_event = record(7).replace("\"event\":\"token-issued\",", "");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&record(4), &damaged).replace(&record(7), &without_event)).unwrap();
    for format in ["ocsf", "otlp"] {
        let output = audit(&["export", "--format", format], dir.path());
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(seqs(format, &text), [1, 2, 3, 5, 6, 8, 9]);
        for expected in ["jsonl line 4 is not a record", "jsonl line 7)", "2 lines of the audit log"] {
            assert!(said(&output).contains(expected), "{expected}: {}", said(&output));
        }
        assert!(!said(&output).contains("line 0"), "{}", said(&output));
    }
    let output = audit(&["export", "--format", "json"], dir.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(seqs("json", std::str::from_utf8(&output.stdout).unwrap()), [1, 2, 3, 5, 6, 7, 8, 9]);
    for words in [&["query", "--json"][..], &["query", "--json", "--no-index"]] {
        let output = audit(words, dir.path());
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(seqs("json", std::str::from_utf8(&output.stdout).unwrap()), [1, 2, 3, 5, 6, 8, 9]);
        assert!(said(&output).contains("jsonl line 4 is not a record"), "{}", said(&output));
    }
}

#[test]
fn a_damaged_line_of_the_daemons_log_is_named_by_tail() {
    let host = Host::started();
    for _ in 0..3 {
        host.token();
    }
    let file = audit_log::files(&host.path("audit")).pop().unwrap();
    let second = fs::read(&file).unwrap().iter().position(|b| *b == b'\n').unwrap() + 1;
    // In place, since the daemon writes to this file.
    let opened = fs::File::options().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&opened, b"x", second as u64).unwrap();
    let output = host.hostbadge(&["audit", "tail", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("jsonl line 2 is not a record"), "{}", said(&output));
    let printed = seqs("json", std::str::from_utf8(&output.stdout).unwrap());
    assert!(printed.starts_with(&[1, 3]), "{printed:?}");
}

#[test]
fn a_cursor_beyond_the_end_of_the_log_is_an_error() {
    let (dir, _) = copy_of_log(5);
    let cursor = dir.path().join("cursor");
    let words = ["export", "--format", "json", "--cursor", cursor.to_str().unwrap()];
    fs::write(&cursor, json!({"version": 1, "seq": 6}).to_string()).unwrap();
    let output = audit(&words, dir.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && said(&output).contains("ends with record 5"), "{}", said(&output));
    fs::write(&cursor, json!({"version": 1, "seq": 5}).to_string()).unwrap();
    let output = audit(&words, dir.path());
    assert!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
}

#[test]
fn a_cursor_beyond_the_end_of_the_daemons_log_is_an_error() {
    let host = Host::started();
    let cursor = host.path("cursor");
    fs::write(&cursor, json!({"version": 1, "seq": 1_000_000}).to_string()).unwrap();
    let output =
        host.hostbadge(&["audit", "export", "--format", "json", "--cursor", cursor.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stdout.is_empty() && said(&output).contains("cursor is of another log"),
        "{}",
        said(&output)
    );
}

#[test]
fn an_output_file_that_a_power_loss_has_cut_is_continued_without_loss_and_without_doubles() {
    for format in ["json", "ocsf", "otlp"] {
        let (dir, file) = copy_of_log(4);
        let (out, cursor) = (dir.path().join("out"), dir.path().join("cursor"));
        let [out_word, cursor_word] = [&out, &cursor].map(|path| path.to_str().unwrap());
        let words = ["export", "--format", format, "--output", out_word, "--cursor", cursor_word];
        assert!(audit(&words, dir.path()).status.success());
        let noted = fs::read(&cursor).unwrap();
        let (whole, before) = (fs::read(&out).unwrap(), fs::read(&file).unwrap());
        // Records 5 to 8 are written to the file; then the power fails, before the cursor is.
        let more: String = (5..=8).map(record).collect();
        fs::write(&file, [&before[..], more.as_bytes()].concat()).unwrap();
        assert!(audit(&words, dir.path()).status.success());
        let written = fs::read(&out).unwrap();
        for length in [whole.len() + 1, (whole.len() + written.len()) / 2, written.len() - 1, written.len()] {
            fs::write(&out, &written[..length]).unwrap();
            fs::write(&cursor, &noted).unwrap();
            let output = audit(&words, dir.path());
            assert!(output.status.success(), "{}", said(&output));
            let text = fs::read_to_string(&out).unwrap();
            assert_eq!(seqs(format, &text), (1..=8).collect::<Vec<u64>>(), "{format} {length}");
        }
    }
}

#[test]
fn the_end_of_an_output_file_of_another_log_is_not_taken_for_delivered() {
    let (dir, _) = copy_of_log(3);
    let (out, cursor) = (dir.path().join("out"), dir.path().join("cursor"));
    fs::write(&cursor, json!({"version": 1, "seq": 1}).to_string()).unwrap();
    fs::write(&out, record(3).replace("\"a\"", "\"of another host\"")).unwrap();
    let [out_word, cursor_word] = [&out, &cursor].map(|path| path.to_str().unwrap());
    let words = ["export", "--format", "json", "--output", out_word, "--cursor", cursor_word];
    assert!(audit(&words, dir.path()).status.success());
    assert_eq!(seqs("json", &fs::read_to_string(&out).unwrap()), [3, 2, 3]);
}

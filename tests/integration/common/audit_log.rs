//! Reads the audit log by its documented format, without code of the daemon.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use hostbadge::clock::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::until;

/// The log's files, oldest first.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().map(|item| item.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    files.sort();
    files
}

/// Makes a log that began at this time, with one record in the documented format.
pub fn begin(dir: &Path, at: Timestamp) {
    fs::create_dir_all(dir).unwrap();
    let first = format!(
        "{{\"v\":1,\"seq\":1,\"prev\":\"{}\",\"time\":\"{at}\",\"event\":\"daemon-started\",\"detail\":\"\"}}\n",
        "0".repeat(64)
    );
    fs::write(dir.join(format!("{:020}.jsonl", 1)), first).unwrap();
}

/// The text of all files.
pub fn text(dir: &Path) -> String {
    files(dir).iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// All records. Panics unless each has the next number and the SHA-256 of the record before it. Only an
/// `audit-torn` may have a higher number: it declares that the numbers before it are missing.
#[track_caller]
pub fn chained_lines(dir: &Path) -> Vec<Value> {
    // A line that is being written may be read in part.
    let text = until("the log ends in a complete line", || {
        Some(text(dir)).filter(|text| text.is_empty() || text.ends_with('\n'))
    });
    let mut last = "0".repeat(64);
    let mut last_seq = 0;
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("line {}: {e}: {line}", at + 1));
        let seq = value["seq"].as_u64().unwrap();
        assert!(seq == last_seq + 1 || seq > last_seq && value["event"] == "audit-torn", "{line}");
        last_seq = seq;
        assert_eq!(value["prev"], last, "the chain is broken before {line}");
        last = HEXLOWER.encode(digest(&SHA256, line.as_bytes()).as_ref());
        lines.push(value);
    }
    lines
}

/// The records with this `event`.
pub fn with_event<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

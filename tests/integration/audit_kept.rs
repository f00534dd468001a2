//! `[audit] keep`: with files of the real size, the oldest are removed and the chain holds from the rest.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::common::audit_log::{files, with_event};
use crate::common::{Host, until, until_true};

/// The daemon starts a new file at this size.
const FILE_SIZE: u64 = 64 << 20;
/// The time of the records that the test makes.
const TIME: &str = "2026-01-02T03:04:05.678Z";

/// The number and the digest of the last line.
struct Position {
    seq: u64,
    digest: String,
}

/// Writes a file of about `size` bytes that continues the log at `position`, in the documented format.
fn write_file(dir: &Path, position: &mut Position, size: u64) -> PathBuf {
    let path = dir.join(format!("{:020}.jsonl", position.seq + 1));
    let mut file = BufWriter::new(File::create(&path).unwrap());
    let detail = "x".repeat(7000);
    let mut written = 0;
    while written < size {
        position.seq += 1;
        // The last line fills the file to the byte.
        let start = format!(
            "{{\"v\":1,\"seq\":{},\"prev\":\"{}\",\"time\":\"{TIME}\",\"event\":\"agents-reloaded\",\"detail\":\"",
            position.seq, position.digest
        );
        let around = start.len() as u64 + 3;
        let rest = size - written;
        let length = if rest < 2 * 7500 { rest.saturating_sub(around).min(7500) } else { 7000 };
        let line = format!("{start}{}\"}}", detail.repeat(2).get(..length as usize).unwrap());
        position.digest = HEXLOWER.encode(digest(&SHA256, line.as_bytes()).as_ref());
        writeln!(file, "{line}").unwrap();
        written += line.len() as u64 + 1;
    }
    file.into_inner().unwrap().sync_all().unwrap();
    path
}

/// All records of the log by its documented format. Panics unless each continues the one before it; the first
/// one may continue a record that was removed. Long records of the test are left out.
#[track_caller]
fn chained(dir: &Path) -> (Value, Vec<Value>) {
    let (mut first, mut own): (Option<Value>, Vec<Value>) = (None, Vec::new());
    let mut last: Option<(u64, String)> = None;
    for path in files(dir) {
        let named: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        for (at, line) in BufReader::new(File::open(&path).unwrap()).lines().map(Result::unwrap).enumerate() {
            let value: Value = serde_json::from_str(&line).unwrap();
            let seq = value["seq"].as_u64().unwrap();
            assert!(at > 0 || seq == named, "{} begins with record {seq}", path.display());
            if let Some((last_seq, digest)) = &last {
                assert_eq!((seq, value["prev"].as_str().unwrap()), (last_seq + 1, digest.as_str()), "{line}");
            }
            last = Some((seq, HEXLOWER.encode(digest(&SHA256, line.as_bytes()).as_ref())));
            if first.is_none() {
                first = Some(value.clone());
            }
            if value["time"] != TIME {
                own.push(value);
            }
        }
    }
    (first.unwrap(), own)
}

fn details(records: &[Value], event: &str) -> Vec<String> {
    with_event(records, event).iter().map(|one| one["detail"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_oldest_files_beyond_keep_size_are_removed_and_the_chain_holds_from_the_rest() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[audit]\nkeep = { size = \"256MiB\" }\n");
    let dir = host.path("audit");
    fs::create_dir_all(&dir).unwrap();
    assert!(files(&dir).is_empty(), "a host that was not started has no log");
    let mut position = Position { seq: 0, digest: "0".repeat(64) };
    let mut made: Vec<PathBuf> = (0..4).map(|_| write_file(&dir, &mut position, FILE_SIZE)).collect();
    // The fifth file has no room for what a start and some requests record.
    made.push(write_file(&dir, &mut position, FILE_SIZE - 2000));
    host.start();

    // 320 MiB less some: one file is beyond the limit.
    until_true("the oldest file is removed", || !made[0].exists());
    for _ in 0..5 {
        host.token();
    }
    // The new file makes the other four too large together.
    until_true("a new file is started, and the second file removed", || !made[1].exists());
    let newest = until("there is a new file", || {
        Some(files(&dir)).filter(|files| files.len() == 4).and_then(|files| files.last().cloned())
    });
    assert!(!made.contains(&newest) && made[2..].iter().all(|file| file.exists()));
    assert!(files(&dir).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>() <= 256 << 20);

    let first_of = |file: &PathBuf| file.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    host.stop();
    let (first, own) = chained(&dir);
    assert_eq!(first["seq"], first_of(&made[2]));
    let removals = details(&own, "audit-files-removed");
    assert_eq!(removals.len(), 2, "{removals:#?}");
    for (removal, (from, next)) in removals.iter().zip([(&made[0], &made[1]), (&made[1], &made[2])]) {
        let (from, next) = (first_of(from), first_of(next));
        let expected = format!("with the records {from} to {} are removed", next - 1);
        assert!(removal.contains("is larger than keep.size") && removal.contains(&expected), "{removal}");
    }
    // The gap is recorded with the digest that the first kept record has as its predecessor's.
    let prev = first["prev"].as_str().unwrap();
    assert!(removals[1].ends_with(&format!("whose prev is {prev}")), "{}", removals[1]);

    // The next start takes the log as it is, and what it has is found.
    host.start();
    host.token();
    assert_eq!(host.status()["audit"]["problem"], Value::Null);
    let tail = host.hostbadge(&["audit", "tail", "--json", "-n", "200", "--since", "1h"]);
    let shown: Vec<Value> = String::from_utf8(tail.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(details(&shown, "audit-files-removed"), removals);
    assert_eq!(String::from_utf8_lossy(&tail.stderr), "");
    host.stop();
    let (_, own) = chained(&dir);
    for event in ["audit-gap", "audit-torn"] {
        assert_eq!(details(&own, event), [""; 0]);
    }
}

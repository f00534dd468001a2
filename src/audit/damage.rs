//! Damages random logs as crashes and failing disks do, and opens them again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::chain::ChainedLog;
use super::files::{first_seq, log_files, torn_files};
use super::line::LineId;

/// xorshift64: the same sequence in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// Bytes of each log file by its number, followed by what was set aside from it.
fn contents(dir: &Path) -> BTreeMap<u64, Vec<u8>> {
    let mut contents = BTreeMap::<u64, Vec<u8>>::new();
    for path in log_files(dir).unwrap().into_iter().chain(torn_files(dir).unwrap()) {
        let part = fs::read(&path).unwrap();
        if !part.is_empty() {
            contents.entry(first_seq(&path).unwrap()).or_default().extend(part);
        }
    }
    contents
}

/// The last whole line of the log, found by reading all of it.
fn last_whole_line(dir: &Path) -> Option<LineId> {
    let all = log_files(dir).unwrap().into_iter().rev().map(|path| fs::read(path).unwrap());
    all.map(|text| {
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        text[..whole].split(|b| *b == b'\n').rev().find_map(LineId::of)
    })
    .find_map(|last| last)
}

fn append(log: &mut ChainedLog, random: &mut Random, count: u64) {
    for _ in 0..count {
        let body = format!("\"detail\":\"{}\"}}", "x".repeat(random.below(3000) as usize));
        log.append([body.as_bytes()].into_iter()).unwrap();
    }
}

/// A log of several files.
fn random_log(dir: &Path, random: &mut Random) {
    let (mut log, _) = ChainedLog::open(dir).unwrap();
    for _ in 0..random.below(4) {
        let count = 1 + random.below(40);
        append(&mut log, random, count);
        log.rotate().unwrap();
    }
    let count = random.below(60);
    append(&mut log, random, count);
}

/// Damages a log as crashes and failing disks do.
fn damage(dir: &Path, random: &mut Random) {
    let files = log_files(dir).unwrap();
    let last = files.last().unwrap();
    let mut text = fs::read(last).unwrap();
    let at = random.below(text.len() as u64 + 1) as usize;
    let magnitude = 1 + random.below(20);
    let amount = 1 + random.below(1 << magnitude);
    match random.below(9) {
        0 => text.truncate(at),
        1 => text[at..].fill(0),
        2 => text.extend(vec![0; amount as usize]),
        3 => text.extend(vec![b'x'; amount as usize]),
        4 => text.extend([vec![b'{'; amount as usize], b"}\n".to_vec()].concat()),
        5 => text.clear(),
        6 => text = random.bytes(amount),
        7 => drop(text.splice(at..at, [vec![0; amount as usize], b"\n".to_vec()].concat())),
        _ => {
            text.truncate(at);
            text.extend(random.bytes(amount));
        }
    }
    fs::write(last, text).unwrap();
    if files.len() > 2 && random.below(4) == 0 {
        fs::remove_file(&files[1]).unwrap();
    }
}

#[test]
fn a_damaged_log_continues_after_its_last_whole_line_and_loses_no_byte() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..150 {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        random_log(dir, &mut random);
        damage(dir, &mut random);
        let (before, expected) = (contents(dir), last_whole_line(dir));

        let (mut log, report) = ChainedLog::open(dir).unwrap();
        match expected {
            Some(last) => assert_eq!(log.seq(), last.seq, "round {round}"),
            None => assert_eq!(log.seq() == 0, before.is_empty(), "round {round}"),
        }
        assert_eq!(contents(dir), before, "round {round}");
        let torn: u64 = torn_files(dir).unwrap().iter().map(|p| fs::metadata(p).unwrap().len()).sum();
        assert_eq!(report.is_some(), torn > 0, "round {round}: {report:?}");
        assert!(report.is_none_or(|text| text.starts_with(&format!("{torn} bytes"))), "round {round}");

        let first_new = log.seq() + 1;
        append(&mut log, &mut random, 3);
        let files = log_files(dir).unwrap();
        assert_eq!(files.last().unwrap(), log.path(), "new lines are in the newest file");
        let text = fs::read(log.path()).unwrap();
        let tail: Vec<&[u8]> = text.split(|b| *b == b'\n').rev().take(5).collect();
        assert!(tail[0].is_empty(), "round {round}");
        let mut previous = expected.unwrap_or(LineId::without_digest(first_new - 1));
        for line in tail[1..4].iter().rev() {
            let value: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(value["seq"], previous.seq + 1, "round {round}");
            assert_eq!(value["prev"], data_encoding::HEXLOWER.encode(&previous.digest));
            previous = LineId::of(line).unwrap();
        }
        drop(log);
        let (log, report) = ChainedLog::open(dir).unwrap();
        assert_eq!((log.seq(), report), (first_new + 2, None), "round {round}");
    }
}

//! Damages random logs as crashes and failing disks do, and opens them again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::audit::chain::{ChainedLog, open};
use crate::audit::files::{first_seq, log_files, torn_files};
use crate::audit::line::{LineId, WholeLine};

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

fn id_of(line: &[u8]) -> Option<LineId> {
    WholeLine::from_bytes(line).map(|line| line.id)
}

fn whole_lines(text: &[u8]) -> Vec<&[u8]> {
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    text[..whole].split(|b| *b == b'\n').filter(|line| id_of(line).is_some()).collect()
}

/// The line at which a log ends, found by reading all of it forwards: the highest that has the next number
/// and the digest of the whole line directly before it, or is the first of its file.
fn last_line(dir: &Path) -> Option<LineId> {
    log_files(dir).unwrap().into_iter().rev().find_map(|path| {
        let text = fs::read(&path).unwrap();
        let first = first_seq(&path).unwrap();
        let mut previous: Option<LineId> = None;
        let mut last = None::<LineId>;
        for line in whole_lines(&text) {
            let id = id_of(line).unwrap();
            let prev = serde_json::from_slice::<serde_json::Value>(line).unwrap()["prev"].take();
            let is_chained = match previous {
                None => id.seq == first,
                Some(p) => id.seq == p.seq + 1 && prev == data_encoding::HEXLOWER.encode(&p.digest),
            };
            if is_chained && id.seq >= first && last.is_none_or(|last| id.seq > last.seq) {
                last = Some(id);
            }
            previous = Some(id);
        }
        last
    })
}

fn append(log: &mut ChainedLog, random: &mut Random, count: u64) {
    for _ in 0..count {
        let body = format!("\"detail\":\"{}\"}}", "x".repeat(random.below(3000) as usize));
        log.append([body.as_bytes()].into_iter()).unwrap();
    }
}

/// A log of several files.
fn random_log(dir: &Path, random: &mut Random) {
    let (mut log, _) = open(dir);
    for _ in 0..random.below(4) {
        let count = 1 + random.below(40);
        append(&mut log, random, count);
        log.start_file().unwrap();
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
    let lines: Vec<Vec<u8>> = whole_lines(&text).iter().map(|line| [line, &b"\n"[..]].concat()).collect();
    let first = random.below(lines.len() as u64) as usize;
    let old = lines[first..].iter().take(1 + random.below(5) as usize);
    let old = old.flatten().copied().collect::<Vec<u8>>();
    match random.below(14) {
        0 => text.truncate(at),
        1 => text[at..].fill(0),
        2 => text.extend(vec![0; amount as usize]),
        3 => text.extend(vec![b'x'; amount as usize]),
        4 => text.extend([vec![b'{'; amount as usize], b"}\n".to_vec()].concat()),
        5 => text.clear(),
        6 => text = random.bytes(amount),
        7 => drop(text.splice(at..at, [vec![0; amount as usize], b"\n".to_vec()].concat())),
        8 => text.extend([vec![0; amount as usize], b"\n".to_vec(), old].concat()),
        9 => text.extend([old.clone(), vec![0; amount as usize], b"\n".to_vec(), old].concat()),
        10 => text.extend(lines.last().cloned().unwrap_or_default()),
        11 => drop(text.splice(at..at, [b"\n".to_vec(), old].concat())),
        12 if lines.len() > 1 => {
            let mut lines = lines;
            let at = first.min(lines.len() - 2);
            lines.swap(at, at + 1);
            text = lines.concat();
        }
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
    for round in 0..250 {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        random_log(dir, &mut random);
        damage(dir, &mut random);
        let (before, expected) = (contents(dir), last_line(dir));

        let used = before.values().flat_map(|text| whole_lines(text)).map(|line| id_of(line).unwrap().seq);
        let highest_used = used.max().unwrap_or_default();
        let (mut log, report) = open(dir);
        assert!(log.seq() >= highest_used, "round {round}: no number is used again");
        let skips = format!(" to {} are missing", log.seq());
        let is_declared = report.as_ref().is_some_and(|report| report.contains(&skips));
        match expected {
            Some(last) => assert_eq!(log.seq() > last.seq, is_declared, "round {round}: {report:?}"),
            None => assert_eq!(log.seq() == 0, before.is_empty(), "round {round}"),
        }
        assert_eq!(contents(dir), before, "round {round}");
        let torn: u64 = torn_files(dir).unwrap().iter().map(|p| fs::metadata(p).unwrap().len()).sum();
        assert_eq!(report.is_some(), torn > 0 || is_declared, "round {round}: {report:?}");
        let names_bytes = |text: String| torn == 0 || text.starts_with(&format!("{torn} bytes"));
        assert!(report.is_none_or(names_bytes), "round {round}");

        let first_new = log.seq() + 1;
        log.append([&b"\"event\":\"audit-torn\"}"[..]].into_iter()).unwrap();
        append(&mut log, &mut random, 2);
        let files = log_files(dir).unwrap();
        assert_eq!(files.last().unwrap(), log.path(), "new lines are in the newest file");
        let text = fs::read(log.path()).unwrap();
        let tail: Vec<&[u8]> = text.split(|b| *b == b'\n').rev().take(5).collect();
        assert!(tail[0].is_empty(), "round {round}");
        let expected = expected.unwrap_or(LineId::without_digest(0));
        let mut previous = LineId { seq: first_new - 1, ..expected };
        for line in tail[1..4].iter().rev() {
            let value: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(value["seq"], previous.seq + 1, "round {round}");
            assert_eq!(value["prev"], data_encoding::HEXLOWER.encode(&previous.digest));
            previous = id_of(line).unwrap();
        }
        drop(log);
        let (log, report) = open(dir);
        assert_eq!((log.seq(), report), (first_new + 2, None), "round {round}");
    }
}

//! A copy of the end of the audit log is altered, and verified as `hostbadge verify audit --chain-only --partial` does it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::attempts::Attempts;
use super::context::Context;
use crate::verify::audit::{AuditOptions, log_file_name, verify_audit};

/// How much of the newest file is copied, from its end.
const MAX_COPY_LEN: u64 = 1024 * 1024;
/// With fewer records, nothing can be altered between others.
const MIN_RECORDS: usize = 4;

/// How many records are verified, or what is wrong with them.
type Verified = Result<u64, String>;

pub(super) fn run(context: &Context, attempts: &mut Attempts) {
    let attempt = "the end of the audit log";
    let dir = context.workdir.path().join("audit");
    match copy(&context.audit) {
        Err(e) => attempts.skipped(attempt, format!("{}: {e}", context.audit.display())),
        Ok(records) if records.len() < MIN_RECORDS => {
            let count = records.len();
            attempts
                .skipped(attempt, format!("its newest file has {count} records; {MIN_RECORDS} are needed"));
        }
        Ok(records) => judge(attempts, &records, &|records| verify(&dir, records)),
    }
}

/// Verifies the records as they are, and each alteration of them.
fn judge(attempts: &mut Attempts, records: &[Vec<u8>], verify: &dyn Fn(&[Vec<u8>]) -> io::Result<Verified>) {
    let attempt = "the end of the audit log as it is";
    match verify(records) {
        Err(e) => return attempts.skipped(attempt, e.to_string()),
        Ok(Err(fault)) => return attempts.judge(attempt, false, fault),
        Ok(Ok(count)) => attempts.judge(attempt, true, format!("the chain of {count} records holds")),
    }
    for (what, altered) in alterations(records) {
        if !attempts.has_time(what) {
            continue;
        }
        match verify(&altered) {
            Err(e) => attempts.skipped(what, e.to_string()),
            Ok(Err(fault)) => attempts.judge(what, true, fault),
            Ok(Ok(_)) => attempts.judge(what, false, "the verification passes"),
        }
    }
}

/// Verifies records as a log of their own, in this directory.
fn verify(dir: &Path, records: &[Vec<u8>]) -> io::Result<Verified> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    fs::create_dir_all(dir)?;
    let Some(first) = records.first() else { return Ok(Err("there are no records".to_owned())) };
    let Numbered { seq } = serde_json::from_slice(first)?;
    let file = dir.join(log_file_name(seq));
    fs::write(&file, records.concat())?;
    let options = AuditOptions { chain_only: true, partial: true, ..AuditOptions::default() };
    let report = verify_audit(dir, &options, &mut |_, _| {})?;
    fs::remove_file(&file)?;
    Ok(match report.first_bad() {
        None => Ok(report.records),
        Some(bad) => Err(format!("line {} of {}: {}", bad.line, records.len(), bad.message)),
    })
}

fn alterations(records: &[Vec<u8>]) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let middle = records.len() / 2 - 1;
    let with = |alter: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut altered = records.to_vec();
        alter(&mut altered);
        altered
    };
    let flip = |records: &mut Vec<Vec<u8>>| {
        // The last character of the last string, so that the record stays JSON.
        if let Some(at) = records[middle].iter().rposition(|byte| byte.is_ascii_alphanumeric()) {
            records[middle][at] ^= 1;
        }
    };
    vec![
        ("a copy with one bit of a record altered", with(&flip)),
        ("a copy with a record removed", with(&|records| drop(records.remove(middle)))),
        ("a copy with two records exchanged", with(&|records| records.swap(middle, middle + 1))),
        ("a copy with a record repeated", with(&|records| records.insert(middle, records[middle].clone()))),
    ]
}

/// The last whole records of the newest file.
fn copy(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut file = File::open(newest(dir)?)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(MAX_COPY_LEN);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(MAX_COPY_LEN).read_to_end(&mut text)?;
    let mut records: Vec<Vec<u8>> = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    // The copy may begin and end within a record.
    if start > 0 && !records.is_empty() {
        records.remove(0);
    }
    records.pop_if(|last| !last.ends_with(b"\n"));
    Ok(records)
}

/// The newest file: the names have the numbers of the first records, with leading zeros.
fn newest(dir: &Path) -> io::Result<PathBuf> {
    let mut newest: Option<PathBuf> = None;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_log = entry.path().extension().is_some_and(|extension| extension == "jsonl");
        if is_log
            && entry.file_type()?.is_file()
            && newest.as_ref().is_none_or(|newest| *newest < entry.path())
        {
            newest = Some(entry.path());
        }
    }
    newest.ok_or_else(|| io::Error::other("it has no audit log"))
}

#[cfg(test)]
mod tests {
    use super::super::attempts::Outcome;
    use super::*;

    #[test]
    fn an_alteration_that_is_not_found_is_a_hole() {
        let records: Vec<Vec<u8>> = (0..6).map(|n| format!("record {n}\n").into_bytes()).collect();
        let mut attempts = Attempts::new();
        judge(&mut attempts, &records, &|_| Ok(Ok(6)));
        assert_eq!(attempts.results("copy"), [Outcome::Hole; 4]);
        assert_eq!(attempts.results("as it is"), [Outcome::Held]);
        let mut attempts = Attempts::new();
        let strict = |altered: &[Vec<u8>]| if altered == records { Ok(6) } else { Err("altered".to_owned()) };
        judge(&mut attempts, &records, &|altered| Ok(strict(altered)));
        assert_eq!(attempts.results(""), [Outcome::Held; 5]);
        let mut attempts = Attempts::new();
        judge(&mut attempts, &records, &|_| Ok(Err("altered".to_owned())));
        assert_eq!(attempts.results(""), [Outcome::Hole], "the log itself is altered");
        let mut attempts = Attempts::without_time();
        judge(&mut attempts, &records, &|_| Ok(Ok(6)));
        assert_eq!(attempts.results("copy"), [Outcome::Skipped; 4]);
    }
}

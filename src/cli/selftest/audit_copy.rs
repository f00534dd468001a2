//! A copy of the end of the audit log is altered, and its chain is checked.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::attempts::Attempts;
use super::context::Context;
use crate::audit::check_lines;

/// How much of the newest file is copied, from its end.
const MAX_COPY_LEN: u64 = 1024 * 1024;
/// With fewer records, nothing can be altered between others.
const MIN_RECORDS: usize = 4;

pub(super) fn run(context: &Context, attempts: &mut Attempts) {
    let attempt = "the end of the audit log";
    match copy(&context.audit) {
        Err(e) => attempts.skipped(attempt, format!("{}: {e}", context.audit.display())),
        Ok(records) if records.len() < MIN_RECORDS => {
            attempts.skipped(
                attempt,
                format!("its newest file has {} records; {MIN_RECORDS} are needed", records.len()),
            );
        }
        Ok(records) => judge(attempts, &records, &|text| check_lines(text)),
    }
}

/// Checks the records as they are, and each alteration of them.
fn judge(attempts: &mut Attempts, records: &[Vec<u8>], check: &dyn Fn(&[u8]) -> Result<usize, usize>) {
    let attempt = "the end of the audit log as it is";
    match check(&records.concat()) {
        Ok(count) => {
            attempts.judge(attempt, true, format!("{count} records, each with the digest of the one before"))
        }
        Err(line) => {
            let detail = format!("record {line} of {} does not follow the one before", records.len());
            return attempts.judge(attempt, false, detail);
        }
    }
    for (what, altered) in alterations(records) {
        match check(&altered.concat()) {
            Ok(_) => attempts.judge(what, false, "the chain holds"),
            Err(line) => attempts.judge(what, true, format!("found at record {line} of {}", altered.len())),
        }
    }
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
        let original = records.concat();
        let mut attempts = Attempts::new();
        judge(&mut attempts, &records, &|_| Ok(6));
        assert_eq!(attempts.results("copy"), [Outcome::Hole; 4]);
        assert_eq!(attempts.results("as it is"), [Outcome::Held]);
        let mut attempts = Attempts::new();
        judge(&mut attempts, &records, &|text| if text == original { Ok(6) } else { Err(3) });
        assert_eq!(attempts.results(""), [Outcome::Held; 5]);
        let mut attempts = Attempts::new();
        judge(&mut attempts, &records, &|_| Err(2));
        assert_eq!(attempts.results(""), [Outcome::Hole], "the log itself is altered");
    }
}

//! Names of the audit log's files: `N.jsonl` has the lines from number N on, `N.torn-K` what was set aside
//! from it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Digits of N.
const NUMBER_LEN: usize = 20;
/// Extension of the files that have lines.
const LOG_EXTENSION: &str = "jsonl";
/// Prefix of the extension of what was set aside.
const TORN_PREFIX: &str = "torn-";

/// Returns the path of the file that begins with line `first_seq`.
pub(super) fn log_file(dir: &Path, first_seq: u64) -> PathBuf {
    dir.join(format!("{first_seq:0NUMBER_LEN$}.{LOG_EXTENSION}"))
}

/// Returns the log's files, oldest first.
pub(super) fn log_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    files_with_extension(dir, |extension| extension == LOG_EXTENSION)
}

/// Returns the files with what was set aside, in no particular order within a log file.
pub(super) fn torn_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    files_with_extension(dir, |extension| extension.starts_with(TORN_PREFIX))
}

/// Returns the number in a file's name.
pub(super) fn first_seq(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    let is_number = stem.len() == NUMBER_LEN && stem.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| stem.parse().ok()).flatten()
}

/// Returns the first unused name for what is set aside from `log_file`.
pub(super) fn unused_torn_file(log_file: &Path) -> io::Result<PathBuf> {
    for n in 1..u32::MAX {
        let candidate = log_file.with_extension(format!("{TORN_PREFIX}{n}"));
        if !candidate.try_exists()? {
            return Ok(candidate);
        }
    }
    Err(io::Error::other("all names *.torn-N exist already; inspect and remove these files"))
}

fn files_with_extension(dir: &Path, matches: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let has_extension = path.extension().and_then(OsStr::to_str).is_some_and(&matches);
        if has_extension && first_seq(&path).is_some() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

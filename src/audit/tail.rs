//! Reads the last lines of the audit log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;
use serde_json::value::RawValue;

use super::files::{log_files, open_file};
use super::line::parse_seq;

/// Bytes read from the end of each file.
const MAX_TAIL_BYTES: u64 = 4 * 1024 * 1024;

/// One line of the audit log. Serialized as the line itself.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct LogLine {
    /// The line's number.
    #[serde(skip)]
    pub seq: u64,
    /// The line as written.
    pub text: Box<RawValue>,
}

/// Returns the last `limit` lines whose number is above `after_seq`, oldest first. Reads at most 4 MiB of
/// each file. Blocking.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn tail(dir: &Path, after_seq: u64, limit: usize) -> io::Result<Vec<LogLine>> {
    let mut lines: Vec<LogLine> = Vec::new();
    for path in log_files(dir)?.into_iter().rev() {
        let mut older = last_lines(&path, after_seq, limit - lines.len())?;
        older.append(&mut lines);
        lines = older;
        let reached_start = lines.first().is_some_and(|line| line.seq <= after_seq + 1);
        if lines.len() >= limit || reached_start {
            break;
        }
    }
    Ok(lines)
}

fn last_lines(path: &Path, after_seq: u64, limit: usize) -> io::Result<Vec<LogLine>> {
    let mut file = open_file(path, File::options().read(true))?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))?;
    let mut text = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut text)?;
    let mut lines = Vec::new();
    for line in text.split(|b| *b == b'\n').rev() {
        if lines.len() >= limit {
            break;
        }
        let Some(seq) = parse_seq(line) else { continue };
        if seq <= after_seq {
            break;
        }
        let text = serde_json::from_slice(line).map_err(io::Error::other)?;
        lines.push(LogLine { seq, text });
    }
    lines.reverse();
    Ok(lines)
}

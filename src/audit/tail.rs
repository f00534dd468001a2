//! Reads the last lines of the audit log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::value::RawValue;

use super::files::{log_files, open_file, with_path};
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
    tail_of(&log_files(dir)?, after_seq, limit)
}

fn tail_of(files: &[PathBuf], after_seq: u64, limit: usize) -> io::Result<Vec<LogLine>> {
    let mut lines: Vec<LogLine> = Vec::new();
    for path in files.iter().rev() {
        let mut older = match last_lines(path, after_seq, limit - lines.len()) {
            Ok(older) => older,
            // An administrator has moved the file away since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
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
    let file = open_file(path, File::options().read(true))?;
    let text = read_end(file).map_err(|e| with_path(path, e))?;
    let mut lines = Vec::new();
    for line in text.split(|b| *b == b'\n').rev() {
        if lines.len() >= limit {
            break;
        }
        let Some(seq) = parse_seq(line) else { continue };
        if seq <= after_seq {
            break;
        }
        let text = serde_json::from_slice(line).map_err(|e| with_path(path, e.into()))?;
        lines.push(LogLine { seq, text });
    }
    lines.reverse();
    Ok(lines)
}

fn read_end(mut file: File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))?;
    let mut text = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::files::log_file;

    #[test]
    fn a_file_that_was_moved_away_is_left_out_and_other_errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        for seq in [1, 2, 3] {
            let line = format!("{{\"v\":1,\"seq\":{seq},\"prev\":\"{}\"}}\n", "0".repeat(64));
            fs::write(log_file(dir.path(), seq), line).unwrap();
        }
        let files = log_files(dir.path()).unwrap();
        fs::remove_file(&files[1]).unwrap();
        let found = tail_of(&files, 0, 10).unwrap();
        assert_eq!(found.iter().map(|line| line.seq).collect::<Vec<u64>>(), [1, 3]);

        fs::create_dir(&files[1]).unwrap();
        let error = tail_of(&files, 0, 10).unwrap_err().to_string();
        assert!(error.contains(files[1].to_str().unwrap()), "{error}");
        let missing = dir.path().join("missing");
        let error = tail(&missing, 0, 10).unwrap_err().to_string();
        assert!(error.contains(missing.to_str().unwrap()), "{error}");
    }
}

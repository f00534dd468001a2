//! The last lines of the log, for people who watch it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;
use serde_json::value::RawValue;

use super::chain::{files, number};

/// Read from the end of a file at most.
const WINDOW: u64 = 4 * 1024 * 1024;

/// One line and its number.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Line {
    #[serde(skip)]
    pub seq: u64,
    pub text: Box<RawValue>,
}

/// The last `most` lines whose number is above `after`, oldest first. Blocking.
pub fn tail(dir: &Path, after: u64, most: usize) -> io::Result<Vec<Line>> {
    let mut found: Vec<Line> = Vec::new();
    for path in files(dir)?.into_iter().rev() {
        let mut older = last_lines(&path, after, most - found.len())?;
        older.append(&mut found);
        found = older;
        let reached = found.first().is_some_and(|line| line.seq <= after + 1);
        if found.len() >= most || reached {
            break;
        }
    }
    Ok(found)
}

fn last_lines(path: &Path, after: u64, most: usize) -> io::Result<Vec<Line>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
    let mut text = Vec::new();
    file.take(WINDOW).read_to_end(&mut text)?;
    let mut lines = Vec::new();
    for line in text.split(|b| *b == b'\n').rev() {
        if lines.len() >= most {
            break;
        }
        let Some(seq) = number(line) else { continue };
        if seq <= after {
            break;
        }
        let text = serde_json::from_slice(line).map_err(io::Error::other)?;
        lines.push(Line { seq, text });
    }
    lines.reverse();
    Ok(lines)
}

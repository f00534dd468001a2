//! Lines of the log's files that no reader understands, such as damaged ones. They are named and passed over.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::{log_files, with_path};
use super::forwards::ForwardLines;
use super::line::parse;
use super::opened::{LogFile, open_log};
use super::position::{around_seq, file_of};

/// Separate places that one search names. Further ones are not named.
const MAX_PLACES: usize = 1024;
/// Bytes that are read at once.
const BLOCK_LEN: usize = 64 * 1024;

/// Consecutive lines of a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableLines {
    /// The file.
    pub file: PathBuf,
    /// The number of the first one in the file, from 1.
    pub from: u64,
    /// The number of the last one.
    pub to: u64,
}

/// Whole lines of a file, with their newlines.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: PathBuf,
    begin: u64,
    end: u64,
}

/// Where lines are that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

impl Places {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds the line from `begin` to `end`, where the next one begins.
    pub(super) fn add(&mut self, file: &Path, begin: u64, end: u64) {
        if let Some(last) = self.0.last_mut().filter(|last| last.file == file) {
            if last.end == begin {
                last.end = end;
                return;
            }
            if last.begin == end {
                last.begin = begin;
                return;
            }
        }
        if self.0.len() < MAX_PLACES {
            self.0.push(Place { file: file.to_owned(), begin, end });
        }
    }

    /// The numbers of the lines in their files. A file that was removed meanwhile is left out.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn into_lines(mut self) -> io::Result<Vec<UnreadableLines>> {
        self.0.sort();
        let mut lines: Vec<UnreadableLines> = Vec::new();
        let mut counted: Option<(PathBuf, LineCount)> = None;
        for place in self.0 {
            if counted.as_ref().is_none_or(|(path, _)| *path != place.file) {
                // One of them is open at a time.
                counted = None;
                let Some(file) = open_log(&place.file)? else { continue };
                counted = Some((place.file.clone(), LineCount { file, position: 0, lines: 0 }));
            }
            let Some((_, count)) = &mut counted else { continue };
            let mut count_to = |end| count.count_to(end).map_err(|e| with_path(&place.file, e));
            let (before, through) = (count_to(place.begin)?, count_to(place.end)?);
            lines.push(UnreadableLines { file: place.file, from: before + 1, to: through });
        }
        Ok(lines)
    }
}

/// Counts the lines of a file from its beginning.
struct LineCount {
    file: LogFile,
    position: u64,
    lines: u64,
}

impl LineCount {
    /// How many lines end before `end`, which is not before that of an earlier call.
    fn count_to(&mut self, end: u64) -> io::Result<u64> {
        let mut block = vec![0; BLOCK_LEN];
        while self.position < end {
            let length = usize::try_from(end - self.position).unwrap_or(BLOCK_LEN).min(BLOCK_LEN);
            let read = self.file.read_at(&mut block[..length], self.position)?;
            if read == 0 {
                break;
            }
            self.lines += block[..read].iter().filter(|b| **b == b'\n').count() as u64;
            self.position += read as u64;
        }
        Ok(self.lines)
    }
}

/// The file of the log in `dir` that has record `seq`, and the number of its line there, from 1; `None` if the log
/// does not have it. Blocking.
///
/// # Errors
/// The directory or the file cannot be read.
pub fn line_of(dir: &Path, seq: u64) -> io::Result<Option<(PathBuf, u64)>> {
    let files = log_files(dir)?;
    let Some(path) = files.get(file_of(&files, seq)) else { return Ok(None) };
    let Some(file) = open_log(path)? else { return Ok(None) };
    let begin = around_seq(&file, path, seq.saturating_sub(1)).map_err(|e| with_path(path, e))?.start;
    let mut lines = ForwardLines::new(&file, begin);
    while let Some(text) = lines.next_text().map_err(|e| with_path(path, e))? {
        if parse(text).is_some_and(|members| members.seq == seq) {
            let end = lines.position();
            let mut count = LineCount { file, position: 0, lines: 0 };
            let number = count.count_to(end).map_err(|e| with_path(path, e))?;
            return Ok(Some((path.clone(), number)));
        }
    }
    Ok(None)
}

//! Reads the records of the audit log that a query asks for, a bounded part of the log at once.
//!
//! A page has all matching records between two numbers, and says which numbers no line has. A reader that
//! continues where its last page ended therefore misses no record that is in the log, however fast the log
//! grows.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use super::backwards::BackwardLines;
use super::files::{first_seq, log_files, with_path};
use super::filter::{AuditQuery, PageStart, Place};
use super::forwards::ForwardLines;
use super::line::{LineMembers, parse};
use super::opened::open_log;
use super::position::{around_seq, file_of};
use super::unreadable::{Places, UnreadableLines};
use crate::verify::audit::{MAX_SEQ, is_compressed};

/// Bytes of lines that are examined for one page, 40 ms of a processor.
const MAX_EXAMINED_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of records in one page; it has at least one record.
const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// A file that became shorter while it was read is read again this often.
const MAX_REREADS: usize = 3;
/// Ranges of missing numbers that a page lists; it ends before a further one.
const MAX_MISSING: usize = 32;
/// Places with unreadable lines that a page lists; it ends after them.
const MAX_UNREADABLE: usize = 32;

/// Consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqRange {
    /// The first one.
    pub from: u64,
    /// The last one.
    pub to: u64,
}

/// The records of one part of the log.
#[derive(Debug, Default)]
pub struct AuditPage {
    /// The matching lines as written, oldest first.
    pub records: Vec<Box<RawValue>>,
    /// The lowest number that was examined; `None` if there was none.
    pub first: Option<u64>,
    /// The highest number that was examined.
    pub last: Option<u64>,
    /// Whether the query has to be continued beyond `first` or `last`.
    pub has_more: bool,
    /// Numbers between those that were examined that no line has, oldest first.
    pub missing: Vec<SeqRange>,
    /// Lines of the part that was examined that are not records. The next page can have some of them too.
    pub unreadable: Vec<UnreadableLines>,
}

/// Returns at most `limit` records of the log in `dir`. Blocking.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn read_page(dir: &Path, query: &AuditQuery, limit: usize) -> io::Result<AuditPage> {
    for _ in 0..MAX_REREADS {
        match read_page_of(&log_files(dir)?, query, limit) {
            // Half a line, which a full disk had accepted, was cut away while it was read.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
            result => return result,
        }
    }
    read_page_of(&log_files(dir)?, query, limit)
}

/// The number of the last record of the log in `dir`, as far as its files say; 0 for a log without records. Blocking.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn last_seq(dir: &Path) -> io::Result<u64> {
    // A file that has no line yet begins with the next number.
    let begins = log_files(dir)?.last().and_then(|newest| first_seq(newest)).unwrap_or_default();
    let last = read_page(dir, &AuditQuery::default(), 1)?.last.unwrap_or_default();
    Ok(last.max(begins.saturating_sub(1)))
}

/// Has the kernel write record `seq` and those before it to the disk. Blocking.
///
/// # Errors
/// The file cannot be read or synced.
pub fn sync_record(dir: &Path, seq: u64) -> io::Result<()> {
    let files = log_files(dir)?;
    // The files before it were synced when it was started.
    let Some(path) = files.get(file_of(&files, seq)).filter(|path| !is_compressed(path)) else {
        return Ok(());
    };
    let Some(file) = open_log(path)? else { return Ok(()) };
    file.sync_data().map_err(|e| with_path(path, e))
}

fn read_page_of(files: &[PathBuf], query: &AuditQuery, limit: usize) -> io::Result<AuditPage> {
    let (page, unreadable) = (AuditPage::default(), Places::default());
    let mut reading = Reading { query, limit, page, unreadable, examined: 0, record_bytes: 0 };
    match query.start {
        PageStart::After(seq) => reading.read_forwards(files, seq)?,
        PageStart::Before(seq) => reading.read_backwards(files, seq)?,
        PageStart::End => reading.read_backwards(files, u64::MAX)?,
    }
    Ok(AuditPage { unreadable: reading.unreadable.into_lines()?, ..reading.page })
}

/// A page that is being read.
struct Reading<'a> {
    query: &'a AuditQuery,
    limit: usize,
    page: AuditPage,
    unreadable: Places,
    examined: usize,
    record_bytes: usize,
}

/// Whether further lines are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Continue,
    /// The page is full.
    Full,
    /// No further line can match.
    Done,
}

impl Reading<'_> {
    fn read_forwards(&mut self, files: &[PathBuf], after: u64) -> io::Result<()> {
        let mut last = after.min(MAX_SEQ);
        for at in file_of(files, after.saturating_add(1))..files.len() {
            let Some(file) = open_log(&files[at])? else { continue };
            // What follows in this file is not a line of the log: a full disk had no room to set it aside.
            let bound = files.get(at + 1).and_then(|next| first_seq(next)).unwrap_or(u64::MAX);
            let begin = around_seq(&file, &files[at], last).map_err(|e| with_path(&files[at], e))?.start;
            let mut lines = ForwardLines::new(&file, begin);
            while let Some(line) = lines.next_text().map_err(|e| with_path(&files[at], e))? {
                let length = line.len();
                let Some(members) = parse(line) else {
                    let end = lines.position();
                    self.note_unreadable(&files[at], end - length as u64 - 1, length);
                    continue;
                };
                let seq = members.seq;
                if !(last + 1..bound).contains(&seq) {
                    self.pass_over(length, seq <= after);
                    continue;
                }
                let skipped = (seq > last + 1).then(|| SeqRange { from: last + 1, to: seq - 1 });
                match self.examine(line, &members, skipped)? {
                    Step::Continue => {}
                    step => {
                        self.page.has_more = step == Step::Full;
                        return Ok(());
                    }
                }
                self.page.first = self.page.first.or(Some(last + 1));
                self.page.last = Some(seq);
                last = seq;
            }
        }
        Ok(())
    }

    fn read_backwards(&mut self, files: &[PathBuf], before: u64) -> io::Result<()> {
        let mut next = before;
        let read = self.read_files_backwards(files, &mut next);
        self.page.records.reverse();
        self.page.missing.reverse();
        read
    }

    /// `next` is the number of the line that was examined last.
    fn read_files_backwards(&mut self, files: &[PathBuf], next: &mut u64) -> io::Result<()> {
        let count = (file_of(files, next.saturating_sub(1)) + 1).min(files.len());
        for path in files[..count].iter().rev() {
            let Some(file) = open_log(path)? else { continue };
            let end = match *next {
                u64::MAX => file.metadata().map_err(|e| with_path(path, e))?.len(),
                next => around_seq(&file, path, next - 1).map_err(|e| with_path(path, e))?.end,
            };
            let lowest = first_seq(path).unwrap_or_default();
            let mut lines = BackwardLines::new(&file, end);
            while let Some(line) = lines.next_text().map_err(|e| with_path(path, e))? {
                let length = line.len();
                let Some(members) = parse(line) else {
                    let begin = lines.position();
                    self.note_unreadable(path, begin, length);
                    continue;
                };
                let seq = members.seq;
                if !(lowest..*next).contains(&seq) {
                    self.pass_over(length, seq >= *next);
                    continue;
                }
                let is_skipped = *next < u64::MAX && seq + 1 < *next;
                let skipped = is_skipped.then(|| SeqRange { from: seq + 1, to: *next - 1 });
                match self.examine(line, &members, skipped)? {
                    Step::Continue => {}
                    step => {
                        self.page.has_more = step == Step::Full;
                        return Ok(());
                    }
                }
                self.page.first = Some(seq);
                self.page.last = self.page.last.or(Some(seq));
                *next = seq;
            }
        }
        Ok(())
    }

    /// Notes a line that is no record.
    fn note_unreadable(&mut self, path: &Path, begin: u64, length: usize) {
        self.examined += length;
        // Nothing is written there: an empty line.
        if length > 0 {
            self.unreadable.add(path, begin, begin + length as u64 + 1);
        }
    }

    /// Passes over a line that is not of this page. Where it is of the page before, so is what was found until here.
    fn pass_over(&mut self, length: usize, is_of_page_before: bool) {
        self.examined += length;
        if is_of_page_before && self.page.last.is_none() {
            self.unreadable.clear();
        }
    }

    /// Adds a line to the page if it matches. The page is full where it has no room for the line; the next
    /// page begins with it then.
    fn examine(
        &mut self,
        line: &[u8],
        members: &LineMembers<'_>,
        skipped: Option<SeqRange>,
    ) -> io::Result<Step> {
        let is_first = self.page.first.is_none();
        if !is_first && (self.page.records.len() >= self.limit || self.examined >= MAX_EXAMINED_BYTES) {
            return Ok(Step::Full);
        }
        if skipped.is_some() && self.page.missing.len() >= MAX_MISSING {
            return Ok(Step::Full);
        }
        if !is_first && self.unreadable.len() >= MAX_UNREADABLE {
            return Ok(Step::Full);
        }
        let place = self.query.place(line, members);
        if place == Place::Beyond {
            return Ok(Step::Done);
        }
        let matches = place == Place::Matches;
        if matches && !self.page.records.is_empty() && self.record_bytes + line.len() > MAX_PAGE_BYTES {
            return Ok(Step::Full);
        }
        self.page.missing.extend(skipped);
        self.examined += line.len();
        if matches {
            self.record_bytes += line.len();
            self.page.records.push(serde_json::from_slice(line)?);
        }
        Ok(Step::Continue)
    }
}

#[cfg(test)]
mod tests;

//! Searches a directory of the log by its indices: the latest records that a query asks for, whatever the log's size.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::files::{first_seq, log_files, with_path};
use super::filter::{AuditQuery, MAX_DISORDER, Place};
use super::forwards::ForwardLines;
use super::index::{Index, remove_orphans};
use super::index_filter::RowFilter;
use super::index_row::Row;
use super::line::parse;
use super::opened::open_log;
use super::query::SeqRange;
use super::unreadable::{Places, UnreadableLines};

/// Bytes of records that a search returns; it returns at least one.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Lines that are closer together than this are read with one call.
const MAX_HOLE: u64 = 16 * 1024;
/// Bytes that are read with one call, beyond one line.
const MAX_READ: u64 = 256 * 1024;
/// Ranges of missing numbers that a search names, the latest.
const MAX_MISSING: usize = 32;

/// The latest records that a query asks for.
#[derive(Debug, Default)]
pub struct FoundRecords {
    /// The lines as they are in the log, oldest first.
    pub lines: VecDeque<Box<str>>,
    /// Whether there are earlier ones.
    pub has_more: bool,
    /// Numbers between those that were looked at that no line has, oldest first: the latest 32 ranges.
    pub missing: VecDeque<SeqRange>,
    /// Lines that are not records, among those that were looked at.
    pub unreadable: Vec<UnreadableLines>,
    bytes: usize,
}

/// How a search finds lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexUse {
    /// By an index beside each file, which is made where there is none.
    Beside,
    /// By reading everything that the times do not exclude.
    None,
}

/// Searches the log in `dir` for the latest records of a query, at most `limit`, at least 1. The query's start is not
/// used. Blocking.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn search_last(dir: &Path, query: &AuditQuery, limit: usize, by: IndexUse) -> io::Result<FoundRecords> {
    let files = log_files(dir)?;
    if by == IndexUse::Beside {
        // Another process may remove one at the same time, and an archive may be read-only.
        let _ = remove_orphans(dir);
    }
    let mut found = FoundRecords::default();
    let mut unreadable = Places::default();
    // The number of the first line of the file that was searched before.
    let mut later: Option<u64> = None;
    for at in (0..files.len()).rev() {
        let Some(file) = open_log(&files[at])? else { continue };
        let next = files.get(at + 1).and_then(|next| first_seq(next));
        let searched = SearchedFile { file: &file, path: &files[at], query, bound: next.unwrap_or(u64::MAX) };
        let room = limit.max(1).saturating_sub(found.lines.len());
        let mut older = match by {
            IndexUse::Beside => searched.by_index(room, &mut unreadable),
            IndexUse::None => searched.by_reading(room, &mut unreadable),
        }
        .map_err(|e| with_path(&files[at], e))?;
        if let Some(later) = later {
            older.note_gap(later);
        }
        later = first_seq(&files[at]);
        found.prepend(&mut older.found);
        if found.has_more {
            break;
        }
        if is_before(older.latest, query) {
            break;
        }
        if at > 0 && found.lines.len() >= limit.max(1) {
            found.has_more = true;
            break;
        }
    }
    found.unreadable = unreadable.into_lines()?;
    Ok(found)
}

/// Whether a file ends so early that no file before it can have a record of the query.
fn is_before(latest: Option<u64>, query: &AuditQuery) -> bool {
    let disorder = u64::try_from(MAX_DISORDER.as_micros()).unwrap_or(u64::MAX);
    match (latest, query.since) {
        (Some(latest), Some(since)) => latest.saturating_add(disorder) < since.as_micros(),
        _ => false,
    }
}

/// One file that is searched.
struct SearchedFile<'a> {
    file: &'a File,
    path: &'a Path,
    query: &'a AuditQuery,
    /// The number of the next file's first line: what follows in this file is not a line of the log.
    bound: u64,
}

/// Bytes of a file that are read, with the number of the line before them.
#[derive(Clone, Copy, Debug)]
struct Range {
    begin: u64,
    end: u64,
    after: u64,
}

/// What a file has.
#[derive(Debug, Default)]
struct FoundInFile {
    found: FoundRecords,
    /// The latest time of its records, in microseconds since the epoch.
    latest: Option<u64>,
    last_seq: u64,
}

impl SearchedFile<'_> {
    /// Reads the lines that the rows of the index do not exclude, latest first, until there are `room`.
    fn by_index(&self, room: usize, unreadable: &mut Places) -> io::Result<FoundInFile> {
        let index = Index::of(self.file, self.path)?;
        let mut result = FoundInFile {
            latest: index.rows.iter().filter_map(Row::time).max(),
            last_seq: self.last_before(),
            ..FoundInFile::default()
        };
        for row in index.rows.iter().filter(|row| row.seq < self.bound) {
            result.note(row.seq);
        }
        let filter = RowFilter::new(self.query);
        let mut ranges: Vec<Range> = Vec::new();
        let mut add = |begin: u64, end: u64, after: u64| match ranges.last_mut() {
            Some(last) if begin.saturating_sub(last.end) <= MAX_HOLE && end - last.begin <= MAX_READ => {
                last.end = end;
            }
            _ => ranges.push(Range { begin, end, after }),
        };
        let (mut covered, mut last) = (0, self.last_before());
        for row in &index.rows {
            // What no row describes is looked at too.
            if u64::from(row.offset) > covered {
                add(covered, u64::from(row.offset), last);
            }
            if row.seq < self.bound && filter.may_match(row) {
                add(u64::from(row.offset), row.end(), last);
            }
            (covered, last) = (row.end(), row.seq);
        }
        let length = self.file.metadata()?.len();
        if length > covered {
            add(covered, length, last);
        }
        for range in ranges.into_iter().rev() {
            let mut found = FoundRecords::default();
            self.read(range, unreadable, &mut |text| found.add(text, usize::MAX))?;
            result.found.prepend(&mut found);
            if result.found.cut(room) {
                break;
            }
        }
        Ok(result)
    }

    /// Reads the whole file.
    fn by_reading(&self, room: usize, unreadable: &mut Places) -> io::Result<FoundInFile> {
        let mut result = FoundInFile { last_seq: self.last_before(), ..FoundInFile::default() };
        let mut lines = ForwardLines::new(self.file, 0);
        while let Some(line) = lines.next_text()? {
            let length = line.len() as u64;
            let Some(members) = parse(line) else {
                let end = lines.position();
                self.note_unreadable(unreadable, end - length - 1, end);
                continue;
            };
            if members.seq <= result.last_seq || members.seq >= self.bound {
                continue;
            }
            result.note(members.seq);
            result.latest = result.latest.max(members.time().map(|time| time.as_micros()));
            if self.query.place(line, &members) == Place::Matches
                && let Ok(text) = std::str::from_utf8(line)
            {
                result.found.add(text, room);
            }
        }
        Ok(result)
    }

    /// Calls `take` with each line of a range that the query asks for.
    fn read(
        &self,
        Range { begin, end, after }: Range,
        unreadable: &mut Places,
        take: &mut impl FnMut(&str),
    ) -> io::Result<()> {
        let mut last = after;
        // Returns whether the line is a record.
        let mut examine = |line: &[u8]| {
            let Some(members) = parse(line) else { return false };
            if members.seq <= last || members.seq >= self.bound {
                return true;
            }
            last = members.seq;
            if self.query.place(line, &members) == Place::Matches
                && let Ok(text) = std::str::from_utf8(line)
            {
                take(text);
            }
            true
        };
        if end - begin <= MAX_READ {
            let mut block = vec![0; (end - begin) as usize];
            let length = read_up_to(self.file, &mut block, begin)?;
            block.truncate(length);
            // What has no newline yet is being written.
            let mut position = begin;
            for line in block.split_inclusive(|b| *b == b'\n') {
                let Some(text) = line.strip_suffix(b"\n") else { break };
                let next = position + line.len() as u64;
                if !examine(text) {
                    self.note_unreadable(unreadable, position, next);
                }
                position = next;
            }
            return Ok(());
        }
        let mut lines = ForwardLines::new(self.file, begin);
        while let Some(line) = lines.next_text()? {
            let length = line.len() as u64;
            let is_record = examine(line);
            let next = lines.position();
            if !is_record {
                self.note_unreadable(unreadable, next - length - 1, next);
            }
            if next >= end {
                break;
            }
        }
        Ok(())
    }

    /// Notes a line that is no record, unless it is empty.
    fn note_unreadable(&self, unreadable: &mut Places, begin: u64, end: u64) {
        if end - begin > 1 {
            unreadable.add(self.path, begin, end);
        }
    }

    /// The number before the file's first line.
    fn last_before(&self) -> u64 {
        first_seq(self.path).unwrap_or_default().saturating_sub(1)
    }
}

impl FoundInFile {
    /// Notes the number of a line, and those that are missing before it.
    fn note(&mut self, seq: u64) {
        self.note_gap(seq);
        self.last_seq = self.last_seq.max(seq);
    }

    /// Notes which numbers are missing between the last line and the one with this number.
    fn note_gap(&mut self, seq: u64) {
        if seq <= self.last_seq + 1 {
            return;
        }
        self.found.missing.push_back(SeqRange { from: self.last_seq + 1, to: seq - 1 });
        if self.found.missing.len() > MAX_MISSING {
            self.found.missing.pop_front();
        }
    }
}

impl FoundRecords {
    /// Adds a later line, and drops the earliest one where there are more than `room`.
    fn add(&mut self, line: &str, room: usize) {
        self.bytes += line.len();
        self.lines.push_back(line.into());
        self.cut(room);
    }

    /// Adds what an earlier part of the log has.
    fn prepend(&mut self, older: &mut FoundRecords) {
        self.bytes += older.bytes;
        self.has_more |= older.has_more;
        older.lines.append(&mut self.lines);
        self.lines = std::mem::take(&mut older.lines);
        older.missing.append(&mut self.missing);
        self.missing = std::mem::take(&mut older.missing);
        while self.missing.len() > MAX_MISSING {
            self.missing.pop_front();
        }
        self.cut(usize::MAX);
    }

    /// Drops the earliest lines beyond `room` and [`MAX_BYTES`]. Returns whether there are more than fit.
    fn cut(&mut self, room: usize) -> bool {
        while self.lines.len() > room || self.bytes > MAX_BYTES && self.lines.len() > 1 {
            let Some(line) = self.lines.pop_front() else { break };
            self.bytes -= line.len();
            self.has_more = true;
        }
        self.has_more
    }
}

/// Reads as many bytes as the file has at this place, at most those of the buffer.
fn read_up_to(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], position + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests;

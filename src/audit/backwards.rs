//! Reads the whole lines of a log file from its end to its beginning.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::line::{MIN_LINE_LEN, WholeLine};

/// Bytes that are searched at once for newlines.
const BLOCK_LEN: u64 = 64 * 1024;
/// Longer lines are not read. Earlier versions wrote one line for a reload, with the names of up to 20,000
/// agents.
pub(super) const MAX_OLD_LINE_LEN: u64 = 2 * 1024 * 1024;

/// Bytes that are a whole line.
#[derive(Debug)]
pub(super) struct FoundLine {
    /// Where the next line begins.
    pub(super) end: u64,
    /// The line's length with its newline.
    pub(super) length: u64,
    pub(super) line: WholeLine,
}

/// Reads a file backwards in blocks. Bytes that are not a whole line are skipped.
#[derive(Debug)]
pub(super) struct BackwardLines<'a> {
    file: &'a File,
    block: Vec<u8>,
    block_start: u64,
    /// Bytes of `block` that were not searched for newlines yet.
    unsearched: usize,
    /// Where the text begins that was returned last.
    text_start: u64,
    /// The position of the newline that ends the line whose beginning is searched.
    newline_after: Option<u64>,
    line: Vec<u8>,
}

impl<'a> BackwardLines<'a> {
    /// Begins at `end`.
    pub(super) fn new(file: &'a File, end: u64) -> BackwardLines<'a> {
        BackwardLines {
            file,
            block: Vec::new(),
            block_start: end,
            unsearched: 0,
            text_start: end,
            newline_after: None,
            line: Vec::new(),
        }
    }

    /// Returns the whole line before those that were returned, or `None` at the beginning of the file.
    pub(super) fn next_line(&mut self) -> io::Result<Option<FoundLine>> {
        while let Some(range) = self.next_range()? {
            let length = range.end - range.start;
            if !is_line_length(length) {
                continue;
            }
            if let Some(line) = WholeLine::from_bytes(self.bytes(&range)?) {
                return Ok(Some(FoundLine { end: range.end + 1, length: length + 1, line }));
            }
        }
        Ok(None)
    }

    /// Returns where the text begins that was returned last.
    pub(super) fn position(&self) -> u64 {
        self.text_start
    }

    /// Returns the text before those that were returned, without its newline, that is not longer than any line of the
    /// log.
    pub(super) fn next_text(&mut self) -> io::Result<Option<&[u8]>> {
        while let Some(range) = self.next_range()? {
            if range.end - range.start <= MAX_OLD_LINE_LEN {
                self.text_start = range.start;
                return self.bytes(&range).map(Some);
            }
        }
        Ok(None)
    }

    /// Returns the bytes between the two newlines before, without either.
    fn next_range(&mut self) -> io::Result<Option<Range<u64>>> {
        loop {
            while let Some(at) = self.block[..self.unsearched].iter().rposition(|b| *b == b'\n') {
                self.unsearched = at;
                let newline = self.block_start + at as u64;
                if let Some(end) = self.newline_after.replace(newline) {
                    return Ok(Some(newline + 1..end));
                }
            }
            if self.block_start == 0 {
                return Ok(self.newline_after.take().map(|end| 0..end));
            }
            let block_end = self.block_start;
            self.block_start = block_end.saturating_sub(BLOCK_LEN);
            self.block.resize((block_end - self.block_start) as usize, 0);
            self.file.read_exact_at(&mut self.block, self.block_start)?;
            self.unsearched = self.block.len();
        }
    }

    fn bytes(&mut self, range: &Range<u64>) -> io::Result<&[u8]> {
        let block_end = self.block_start + self.block.len() as u64;
        if range.start >= self.block_start && range.end <= block_end {
            let at = |position: u64| (position - self.block_start) as usize;
            return Ok(&self.block[at(range.start)..at(range.end)]);
        }
        self.line.resize((range.end - range.start) as usize, 0);
        self.file.read_exact_at(&mut self.line, range.start)?;
        Ok(&self.line)
    }
}

/// Whether a line can have this length without its newline.
fn is_line_length(length: u64) -> bool {
    (MIN_LINE_LEN..=MAX_OLD_LINE_LEN).contains(&length)
}

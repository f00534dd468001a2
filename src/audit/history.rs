//! The latest lines of the log, and what their chain shows: the line at which the log ends, and gaps.
//!
//! A crash of the machine can leave old blocks of the disk after the last synced line, with old whole lines
//! in them. The log therefore ends with the highest line that is chained to the whole line directly before
//! it, and not with the last bytes that have the form of a line.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use super::backwards::BackwardLines;
use super::line::{LineId, WholeLine};

/// Bytes of lines whose chain is checked: a few ten thousand lines.
const CHECKED_BYTES: u64 = 4 * 1024 * 1024;
/// Further gaps are not searched.
const MAX_GAPS: usize = 64;

/// The lines between these two are missing or were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The line before the gap; 0 if it is before the first.
    pub(super) after: u64,
    /// The line after the gap.
    pub(super) before: u64,
}

impl Gap {
    /// The text by which a record declares this gap.
    pub(super) fn describe(&self) -> String {
        format!("between lines {} and {};", self.after, self.before)
    }
}

#[derive(Debug)]
struct PlacedLine {
    line: WholeLine,
    /// Where the line ends in its file, with its newline.
    end: u64,
    /// The number in the file's name, if this is the file's first whole line.
    begins_file: Option<u64>,
}

/// The latest whole lines, newest first.
#[derive(Debug, Default)]
pub(super) struct History {
    lines: Vec<PlacedLine>,
    length: u64,
    /// The place in `lines` of the line at which the log ends.
    end: Option<usize>,
}

impl History {
    /// Reads the lines of a file that is older than those that were read. `first_seq` is the number in its
    /// name.
    pub(super) fn read(&mut self, file: &File, length: u64, first_seq: u64) -> io::Result<()> {
        let may_have_end = self.end.is_none();
        let from = self.lines.len();
        let mut lines = BackwardLines::new(file, length);
        while self.needs_more() {
            let Some(found) = lines.next_line()? else {
                self.end_file(from, first_seq, may_have_end);
                break;
            };
            if self.lines.len() > from && may_have_end {
                let newer = self.lines.len() - 1;
                let is_chained = self.lines[newer].line.follows(found.line.id);
                self.note_end(newer, is_chained && self.seq(newer) >= first_seq);
            }
            self.length += found.length;
            self.lines.push(PlacedLine { line: found.line, end: found.end, begins_file: None });
        }
        Ok(())
    }

    /// Whether an older file has to be read.
    pub(super) fn needs_more(&self) -> bool {
        self.end.is_none() || self.length < CHECKED_BYTES
    }

    /// Forgets the lines of a file that has no line at which the log can end.
    pub(super) fn clear(&mut self) {
        *self = History::default();
    }

    /// Returns where the last line ends in its file, and the line's number and digest.
    pub(super) fn last(&self) -> Option<(u64, LineId)> {
        let last = &self.lines[self.end?];
        Some((last.end, last.line.id))
    }

    /// Returns the highest number, up to `bound`, of the whole lines behind the last line.
    pub(super) fn highest_behind_last(&self, bound: u64) -> u64 {
        let behind = &self.lines[..self.end.unwrap_or_default()];
        behind.iter().map(|line| line.line.id.seq).filter(|seq| *seq <= bound).max().unwrap_or_default()
    }

    /// Returns the gaps before the last line that no record declares, latest first.
    pub(super) fn undeclared_gaps(&self) -> Vec<Gap> {
        let mut gaps = self.gaps();
        let declared: Vec<&str> =
            self.lines.iter().filter_map(|line| line.line.gap_detail.as_deref()).collect();
        gaps.retain(|gap| !declared.iter().any(|detail| detail.contains(&gap.describe())));
        gaps
    }

    fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let Some(mut at) = self.end else { return gaps };
        let places: HashMap<[u8; 32], usize> =
            self.lines.iter().enumerate().map(|(at, line)| (line.line.id.digest, at)).collect();
        while gaps.len() < MAX_GAPS {
            let line = &self.lines[at].line;
            let is_previous = |older: usize| older > at && line.follows(self.lines[older].line.id);
            let next = if at + 1 < self.lines.len() && is_previous(at + 1) {
                Some(at + 1)
            } else {
                places.get(line.prev()).copied().filter(|older| is_previous(*older))
            };
            if let Some(next) = next {
                at = next;
                continue;
            }
            let older = (at + 1..self.lines.len()).filter(|older| self.seq(*older) < self.seq(at));
            let Some(next) = older.max_by_key(|older| self.seq(*older)) else {
                // Administrators move old files elsewhere, so what is before a file's first line is not
                // missed.
                let first_seq = self.lines[at..].iter().find_map(|line| line.begins_file);
                if let Some(first_seq) = first_seq.filter(|first_seq| *first_seq < self.seq(at)) {
                    gaps.push(Gap { after: first_seq.saturating_sub(1), before: self.seq(at) });
                }
                break;
            };
            gaps.push(Gap { after: self.seq(next), before: self.seq(at) });
            at = next;
        }
        gaps
    }

    fn seq(&self, at: usize) -> u64 {
        self.lines[at].line.id.seq
    }

    /// The beginning of a file was reached, whose lines begin at `from`.
    fn end_file(&mut self, from: usize, first_seq: u64, may_have_end: bool) {
        let Some(first) = self.lines.len().checked_sub(1).filter(|first| *first >= from) else { return };
        self.lines[first].begins_file = Some(first_seq);
        self.note_end(first, may_have_end && self.seq(first) == first_seq);
    }

    /// Keeps the highest line at which the log can end, and of equal ones the one that was written first.
    fn note_end(&mut self, at: usize, can_end: bool) {
        if can_end && self.end.is_none_or(|end| self.seq(at) >= self.seq(end)) {
            self.end = Some(at);
        }
    }
}

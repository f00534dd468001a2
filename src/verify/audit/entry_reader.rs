//! Reads the entries beside a file of the log, in step with its records.

use std::io;

use super::entries::{Entry, MAX_ENTRY_LEN};
use super::files::{Segment, checkpoints_file, file_name, open};
use super::lines::{LineReader, Place};

/// Reads the lines of the file `N.checkpoints` beside a file of the log, if there is one.
pub(super) struct EntryReader {
    pub(super) name: String,
    lines: Option<LineReader>,
    /// The next entry, and the number of the record that it is of; an entry that is not valid is of none.
    next: Option<(u64, Result<Entry, String>)>,
}

impl EntryReader {
    pub(super) fn open(segment: &Segment) -> io::Result<EntryReader> {
        let path = checkpoints_file(&segment.path);
        let lines = match open(&path) {
            Ok(file) => Some(LineReader::new(Box::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(EntryReader { name: file_name(&path), lines, next: None })
    }

    /// The number of the line of the entry that was returned last.
    pub(super) fn number(&self) -> u64 {
        self.lines.as_ref().map(|lines| lines.number).unwrap_or_default()
    }

    /// The next entry, if it is of this record or of an earlier one, or is not valid.
    pub(super) fn next_if_at_most(&mut self, seq: u64) -> io::Result<Option<Result<Entry, String>>> {
        if self.next.is_none() {
            self.next = self.read()?;
        }
        Ok(self.next.take_if(|(of, _)| *of <= seq).map(|(_, entry)| entry))
    }

    fn read(&mut self) -> io::Result<Option<(u64, Result<Entry, String>)>> {
        let Some(lines) = &mut self.lines else { return Ok(None) };
        let entry = match lines.read()? {
            Place::End => return Ok(None),
            Place::Line if lines.line().len() <= MAX_ENTRY_LEN => {
                Entry::parse(lines.line()).map_err(|e| e.to_string())
            }
            Place::Line | Place::TooLong => Err("the line is too long".to_owned()),
            Place::Unterminated => Err("the last line is not complete".to_owned()),
        };
        let seq = match &entry {
            Ok(Entry::Tree(state)) => state.seq,
            Ok(Entry::Checkpoint(line)) => {
                line.unverified().map(|checkpoint| checkpoint.seq).unwrap_or_default()
            }
            Err(_) => 0,
        };
        Ok(Some((seq, entry)))
    }
}

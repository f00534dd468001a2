//! Reads the whole lines of a log file from a position to its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::backwards::MAX_OLD_LINE_LEN;

/// Bytes that are read at once.
const BLOCK_LEN: usize = 64 * 1024;

/// Reads a file forwards in blocks. What has no newline yet is being written, and is not returned.
#[derive(Debug)]
pub(super) struct ForwardLines<'a> {
    file: &'a File,
    /// Where the next block begins.
    read_to: u64,
    /// Bytes that were read and not returned.
    block: Vec<u8>,
    returned: usize,
    /// Bytes of `block` that have no newline after `returned`.
    searched: usize,
    /// Whether the line that `block` begins with is longer than any line of the log.
    is_overlong: bool,
}

impl<'a> ForwardLines<'a> {
    /// Begins at `position`, where a line begins.
    pub(super) fn new(file: &'a File, position: u64) -> ForwardLines<'a> {
        ForwardLines {
            file,
            read_to: position,
            block: Vec::new(),
            returned: 0,
            searched: 0,
            is_overlong: false,
        }
    }

    /// Returns where the next text begins.
    pub(super) fn position(&self) -> u64 {
        self.read_to - (self.block.len() - self.returned) as u64
    }

    /// Returns the next text that ends in a newline, without it, or `None` at the end of the file.
    pub(super) fn next_text(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            if let Some(length) = self.block[self.searched..].iter().position(|b| *b == b'\n') {
                let text = self.returned..self.searched + length;
                self.returned = text.end + 1;
                self.searched = self.returned;
                if std::mem::take(&mut self.is_overlong) {
                    continue;
                }
                return Ok(Some(&self.block[text]));
            }
            if (self.block.len() - self.returned) as u64 > MAX_OLD_LINE_LEN {
                self.is_overlong = true;
                self.returned = self.block.len();
            }
            if !self.read_block()? {
                return Ok(None);
            }
        }
    }

    /// Returns false at the end of the file.
    fn read_block(&mut self) -> io::Result<bool> {
        self.block.drain(..self.returned);
        self.returned = 0;
        let kept = self.block.len();
        self.searched = kept;
        self.block.resize(kept + BLOCK_LEN, 0);
        let length = self.file.read_at(&mut self.block[kept..], self.read_to)?;
        self.block.truncate(kept + length);
        self.read_to += length as u64;
        Ok(length > 0)
    }
}

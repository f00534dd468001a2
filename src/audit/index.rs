//! An index of one file of the log: for each record its place, its time, and marks of what it is about.
//!
//! The index of `N.jsonl`, or of `N.jsonl.gz`, is `N.index` beside it. It can be removed at any time, and is made again
//! where it is missing, torn, older than the file, or of another version. It is never believed: it only says which lines a search
//! reads, and those are compared with the query as without it. Lines that it has no row for are read too. So a wrong
//! index can hide a record from a search by a wrong mark, and cannot make one appear.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::files::{first_seq, open_file, remove_with_extension};
use super::forwards::ForwardLines;
use super::index_row::{ROW_LEN, Row};
use super::room::has_room;
use crate::digest::sha256;
use crate::verify::audit::{LOG_EXTENSION, MAX_SEQ, beside, compressed_file};

/// The first bytes, with the version of the format.
const MAGIC: [u8; 8] = *b"HBAIDX01";
/// Bytes before the rows.
const HEADER_LEN: usize = 80;
/// Rows of one index; what follows in the file is read without one.
const MAX_ROWS: usize = 1_000_000;
/// A file that has grown by less than this since its index was made keeps it.
const MIN_GROWTH: u64 = 4 * 1024 * 1024;
/// Extension of an index.
pub(super) const INDEX_EXTENSION: &str = "index";
/// Extension of an index that is being written.
const NEW_EXTENSION: &str = "index-new";

/// The rows of one file of the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// In the order of the file.
    pub(super) rows: Vec<Row>,
    /// Everything before this position has been looked at.
    pub(super) covered: u64,
}

/// What an index was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    length: u64,
    modified_ns: i128,
}

impl Index {
    /// The index of an open file of the log: the one beside it with rows for what was written since, or a new one. It
    /// is kept beside the file where the caller may write there and the disk has 128 MiB to spare.
    ///
    /// # Errors
    /// The file of the log cannot be read. An index that cannot be read is made again, and one that cannot be written
    /// is not kept.
    pub(super) fn of(file: &File, path: &Path) -> io::Result<Index> {
        let origin = Origin::of(file)?;
        let index_path = beside(path, INDEX_EXTENSION);
        let stored = Index::read(&index_path, file, origin);
        let (mut index, is_stored) = match stored {
            Some(index) => (index, true),
            None => (Index::default(), false),
        };
        let before = index.covered;
        index.extend(file, path)?;
        if !is_stored || index.covered - before >= MIN_GROWTH {
            // Without it, the next search takes longer.
            let _ = index.write(&index_path, file, origin);
        }
        Ok(index)
    }

    /// Adds rows for the whole lines after what is covered.
    fn extend(&mut self, file: &File, path: &Path) -> io::Result<()> {
        let first = first_seq(path).unwrap_or_default();
        let mut last = self.rows.last().map_or(first.saturating_sub(1), |row| row.seq);
        let mut lines = ForwardLines::new(file, self.covered);
        while self.rows.len() < MAX_ROWS {
            let Some(text) = lines.next_text()? else { break };
            let length = text.len();
            let row = Row::of(text);
            let end = lines.position();
            // What has a number that is not higher is an old block of the disk.
            if let Some(mut row) = row.filter(|row| row.seq > last) {
                let begin = end - length as u64 - 1;
                let (Ok(offset), Ok(length)) = (u32::try_from(begin), u32::try_from(length)) else { break };
                (row.offset, row.length) = (offset, length);
                last = row.seq;
                self.rows.push(row);
            }
            self.covered = end;
        }
        Ok(())
    }

    /// The index at `path`, if it is whole and of this file.
    fn read(path: &Path, file: &File, origin: Origin) -> Option<Index> {
        let mut stored = open_file(path, OpenOptions::new().read(true)).ok()?;
        let length = usize::try_from(stored.metadata().ok()?.len()).ok()?;
        let rows_len = length.checked_sub(HEADER_LEN)?;
        if rows_len % ROW_LEN != 0 || rows_len / ROW_LEN > MAX_ROWS {
            return None;
        }
        let mut bytes = Vec::with_capacity(length);
        Read::by_ref(&mut stored).take(length as u64).read_to_end(&mut bytes).ok()?;
        let (header, rows) = bytes.split_at_checked(HEADER_LEN)?;
        let word = |at: usize| header.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (covered, count) = (word(8)?, word(16)?);
        let built = Origin { length: word(24)?, modified_ns: i128::from(word(32)?) };
        let is_whole = header.starts_with(&MAGIC)
            && count == (rows_len / ROW_LEN) as u64
            && word(72)? == sum(&header[..72], rows);
        // A file that has grown was written since. One that has not is the one that was read, or was replaced.
        let is_current = covered <= origin.length && (built.length != origin.length || built == origin);
        if !is_whole || !is_current {
            return None;
        }
        let rows: Vec<Row> = rows.chunks_exact(ROW_LEN).filter_map(Row::from_bytes).collect();
        let index = Index { rows, covered };
        (index.is_in_order() && index.last_digest(file)? == header[40..72]).then_some(index)
    }

    /// Replaces the index at `path`.
    fn write(&self, path: &Path, file: &File, origin: Origin) -> io::Result<()> {
        let digest = self.last_digest(file).ok_or(io::ErrorKind::InvalidData)?;
        let rows: Vec<u8> = self.rows.iter().flat_map(|row| row.to_bytes()).collect();
        let modified = u64::try_from(origin.modified_ns).unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEADER_LEN + rows.len());
        bytes.extend(MAGIC);
        for word in [self.covered, self.rows.len() as u64, origin.length, modified] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(digest);
        bytes.extend(sum(&bytes, &rows).to_le_bytes());
        bytes.extend(rows);
        if !has_room(path, bytes.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let new = path.with_extension(NEW_EXTENSION);
        // Never through a link, and never over another file: the directory is the daemon's and not the caller's.
        let _ = fs::remove_file(&new);
        let mut created = open_file(&new, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
        created.write_all(&bytes).and_then(|()| fs::rename(&new, path)).inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }

    /// SHA-256 of the last line that has a row; zeros where there is none.
    fn last_digest(&self, file: &File) -> Option<[u8; 32]> {
        let Some(row) = self.rows.last() else { return Some([0; 32]) };
        let mut line = vec![0; row.length as usize];
        file.read_exact_at(&mut line, row.offset.into()).ok()?;
        Some(sha256(&line))
    }

    fn is_in_order(&self) -> bool {
        let ends_within = self.rows.last().is_none_or(|row| row.end() <= self.covered);
        let are_numbers = self.rows.last().is_none_or(|row| row.seq <= MAX_SEQ);
        ends_within
            && are_numbers
            && self
                .rows
                .windows(2)
                .all(|pair| pair[0].end() <= u64::from(pair[1].offset) && pair[0].seq < pair[1].seq)
    }
}

impl Origin {
    fn of(file: &File) -> io::Result<Origin> {
        let metadata = file.metadata()?;
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Origin { length: metadata.len(), modified_ns: modified_ns.max(0) })
    }
}

/// Removes what searches that were ended have left of indices in `dir`. A search that writes one now does without.
pub(super) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    remove_with_extension(dir, NEW_EXTENSION)
}

/// Removes the indices in `dir` whose files were removed. They have no text of the log, and would stay for ever.
pub(super) fn remove_orphans(dir: &Path) -> io::Result<()> {
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let is_index = path.extension().is_some_and(|extension| extension == INDEX_EXTENSION);
        let log_file = path.with_extension(LOG_EXTENSION);
        let has_log_file = || log_file.exists() || compressed_file(&log_file).exists();
        if is_index && first_seq(&path).is_some() && !has_log_file() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// A sum by which a torn index is recognized. It protects against accidents alone.
fn sum(header: &[u8], rows: &[u8]) -> u64 {
    let mut sum = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in header.chunks(8).chain(rows.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
    sum
}

#[cfg(test)]
mod tests;

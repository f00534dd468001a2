//! The Merkle tree over the log's records, beside the chain, and the files `N.checkpoints`.
//!
//! A leaf is the digest by which the next record is chained. The tree is kept as its frontier, at most 2 KiB, which is
//! written when a file is begun and with each checkpoint. The daemon reads the latest one at its start and hashes the
//! records after it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use super::backwards::BackwardLines;
use super::files::{first_seq, log_files, open_file, sync_dir_of, with_path};
use super::forwards::ForwardLines;
use super::line::{LineId, WholeLine};
use super::opened::open_present_log;
use crate::verify::audit::merkle::{Frontier, leaf_hash};
use crate::verify::audit::{CheckpointLine, Entry, TreeState, checkpoints_file, compressed_file};

/// Bytes of the log that are hashed again at the start. Further ones are not: the tree begins again.
const MAX_REBUILT: u64 = 256 << 20;
/// Bytes at the end of a file of entries that are searched for the last entry, at first and at most.
const FIRST_TAIL_LEN: u64 = 64 << 10;
const MAX_TAIL_LEN: u64 = 256 << 20;

/// The log as a checkpoint covers it.
#[derive(Clone, Debug)]
pub struct LogHead {
    /// The file with the last record.
    pub path: PathBuf,
    /// The last record and the tree.
    pub state: TreeState,
}

/// The tree of the log that is being written.
#[derive(Debug)]
pub(super) struct LogTree {
    state: TreeState,
    /// A state that could not be written beside this file of the log.
    unwritten: Option<(PathBuf, TreeState)>,
}

impl LogTree {
    /// The tree of a log that ends with the record `last`. If it cannot be continued, it begins again behind that record
    /// with another log id; the second value says so. `current` is the file that is appended to.
    pub(super) fn restore(dir: &Path, current: &Path, last: LineId) -> io::Result<(LogTree, Option<String>)> {
        cut_incomplete_entry(&checkpoints_file(current))?;
        let (found, had_state) = latest_state(dir, last)?;
        if let Some((state, path)) = found {
            let mut tree = LogTree { state, unwritten: None };
            if path != current {
                tree.write_state_or_warn(current);
            }
            return Ok((tree, None));
        }
        let mut tree = LogTree { state: new_state(last)?, unwritten: None };
        tree.write_state_or_warn(current);
        let report = had_state.then(|| {
            format!(
                "the Merkle tree over the audit log could not be continued after record {}: its state, or records since, \
                 are missing or damaged; it begins again with another log id",
                last.seq
            )
        });
        Ok((tree, report))
    }

    /// Adds a record.
    pub(super) fn push(&mut self, line: LineId) {
        self.state.frontier.push(leaf_hash(&line.digest));
        (self.state.seq, self.state.head) = (line.seq, line.digest);
    }

    /// The tree and the last record.
    pub(super) fn state(&self) -> &TreeState {
        &self.state
    }

    /// Writes the state beside a file of the log. What cannot be written, as on a full disk, is written later.
    pub(super) fn write_state_or_warn(&mut self, log_file: &Path) {
        if let Err(e) = write_state(log_file, &self.state) {
            tracing::warn!("the state of the tree over the audit log cannot be written: {e}");
            self.unwritten.get_or_insert_with(|| (log_file.to_owned(), self.state.clone()));
        }
    }

    /// Writes the state that could not be written. Call it once a line could be: a checkpoint has no meaning without
    /// the state with which the tree began.
    pub(super) fn write_unwritten(&mut self) {
        if let Some((log_file, state)) = &self.unwritten
            && write_state(log_file, state).is_ok()
        {
            self.unwritten = None;
        }
    }
}

/// Writes a checkpoint, and the state of the tree at it, beside the file with its last record. On disk when this
/// returns. Blocking.
pub fn append_checkpoint(head: &LogHead, line: CheckpointLine) -> io::Result<()> {
    let (checkpoint, state) = (Entry::Checkpoint(Box::new(line)), Entry::Tree(head.state.clone()));
    let path = checkpoints_file(&head.path);
    append(&path, &format!("{}\n{}\n", checkpoint.to_line(), state.to_line()))?.sync_all()?;
    sync_dir_of(&path)
}

/// Writes a checkpoint whose state of the tree is not known any more. On disk when this returns. False if the log has
/// no such file any more, beside which nothing is written. Blocking.
pub fn append_earlier_checkpoint(log_file: &Path, line: CheckpointLine) -> io::Result<bool> {
    // It can have been compressed since.
    let found = fs::symlink_metadata(log_file).or_else(|e| match e.kind() {
        io::ErrorKind::NotFound => fs::symlink_metadata(compressed_file(log_file)),
        _ => Err(e),
    });
    match found {
        Ok(metadata) if metadata.is_file() && first_seq(log_file).is_some() => {}
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(with_path(log_file, e)),
        _ => return Ok(false),
    }
    let path = checkpoints_file(log_file);
    append(&path, &format!("{}\n", Entry::Checkpoint(Box::new(line)).to_line()))?.sync_all()?;
    sync_dir_of(&path)?;
    Ok(true)
}

/// Removes the checkpoints beside a file of the log that was removed.
pub(super) fn remove_entries(log_file: &Path) -> io::Result<()> {
    let path = checkpoints_file(log_file);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(with_path(&path, e)),
        _ => Ok(()),
    }
}

fn write_state(log_file: &Path, state: &TreeState) -> io::Result<()> {
    append(&checkpoints_file(log_file), &format!("{}\n", Entry::Tree(state.clone()).to_line())).map(drop)
}

/// A tree without leaves, whose first leaf is the record after `last`.
fn new_state(last: LineId) -> io::Result<TreeState> {
    let mut log_id = [0; 16];
    let random = SystemRandom::new();
    random.fill(&mut log_id).map_err(|_| io::Error::other("the system's random number generator failed"))?;
    let LineId { seq, digest } = last;
    Ok(TreeState { log_id, begins_after: seq, seq, head: digest, frontier: Frontier::default() })
}

/// The state of the tree at `last`, made from the latest state that the files have, with the log file beside which
/// that is. The second value says whether there was a state at all.
fn latest_state(dir: &Path, last: LineId) -> io::Result<(Option<(TreeState, PathBuf)>, bool)> {
    let files = log_files(dir)?;
    let (mut had_state, mut length) = (false, 0);
    for (at, path) in files.iter().enumerate().rev() {
        length += fs::symlink_metadata(path).map_err(|e| with_path(path, e))?.len();
        let (state, has_state) = read_state(path, last.seq)?;
        had_state |= has_state;
        if let Some(state) = state {
            let rebuilt = rebuild(&files[at..], state, last)?;
            return Ok((rebuilt.map(|state| (state, path.clone())), true));
        }
        if length > MAX_REBUILT {
            break;
        }
    }
    Ok((None, had_state))
}

/// The last state beside a log file that is of record `seq` or an earlier one, and whether there is any.
fn read_state(log_file: &Path, seq: u64) -> io::Result<(Option<TreeState>, bool)> {
    let path = checkpoints_file(log_file);
    let file = match open_file(&path, File::options().read(true)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, false)),
        Err(e) => return Err(e),
    };
    let length = file.metadata().map_err(|e| with_path(&path, e))?.len();
    // The file of a quiet log has the checkpoints of years; the state is in one of its last lines.
    let (mut lines, mut has_state) = (BackwardLines::new(&file, length), false);
    while let Some(text) = lines.next_text().map_err(|e| with_path(&path, e))? {
        if let Ok(Entry::Tree(state)) = Entry::parse(text) {
            has_state = true;
            if state.seq <= seq {
                return Ok((Some(state), true));
            }
        }
    }
    Ok((None, has_state))
}

/// Adds the records after the state up to `last`. `None` if they do not lead there.
fn rebuild(files: &[PathBuf], state: TreeState, last: LineId) -> io::Result<Option<TreeState>> {
    let mut tree = LogTree { state, unwritten: None };
    for path in files {
        let file = open_present_log(path)?;
        let mut lines = ForwardLines::new(&file, 0);
        while tree.state.seq < last.seq {
            let Some(text) = lines.next_text().map_err(|e| with_path(path, e))? else { break };
            let Some(line) = WholeLine::from_bytes(text) else { continue };
            if line.id.seq > tree.state.seq && *line.prev() == tree.state.head {
                tree.push(line.id);
            }
        }
    }
    let is_complete = (tree.state.seq, tree.state.head) == (last.seq, last.digest);
    Ok(is_complete.then_some(tree.state))
}

/// Cuts what a crash left at the end of a file of entries: zeros, or part of a line. The checkpoint that was being
/// written is written again.
fn cut_incomplete_entry(path: &Path) -> io::Result<()> {
    let file = match open_file(path, File::options().read(true).append(true)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let length = file.metadata().map_err(|e| with_path(path, e))?.len();
    let end = end_of_last_entry(&file, length).map_err(|e| with_path(path, e))?;
    if end < length {
        tracing::warn!(
            "{}: {} bytes after the last entry are no entry, as a crash of the machine leaves them; they are cut",
            path.display(),
            length - end
        );
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Where the last line of a file ends that is an entry; 0 if none is.
fn end_of_last_entry(file: &File, length: u64) -> io::Result<u64> {
    let (mut tail_len, mut tail) = (FIRST_TAIL_LEN, Vec::new());
    loop {
        let start = length.saturating_sub(tail_len);
        tail.resize((length - start) as usize, 0);
        file.read_exact_at(&mut tail, start)?;
        let mut end = start;
        let mut last = None;
        for line in tail.split_inclusive(|byte| *byte == b'\n') {
            end += line.len() as u64;
            if line.strip_suffix(b"\n").is_some_and(|line| Entry::parse(line).is_ok()) {
                last = Some(end);
            }
        }
        match last {
            Some(last) => return Ok(last),
            None if start == 0 => return Ok(0),
            None if tail_len >= MAX_TAIL_LEN => {
                return Err(io::Error::other("the end of the file has no entry; move it elsewhere"));
            }
            None => tail_len *= 8,
        }
    }
}

/// Appends either the whole text or nothing.
fn append(path: &Path, text: &str) -> io::Result<File> {
    let mut file = open_file(path, OpenOptions::new().append(true).create(true).mode(0o600))?;
    let length = file.metadata().map_err(|e| with_path(path, e))?.len();
    if let Err(e) = file.write_all(text.as_bytes()) {
        // A full disk can accept part of it.
        let _ = file.set_len(length);
        return Err(with_path(path, e));
    }
    Ok(file)
}

#[cfg(test)]
mod tests;

//! Finds the end of the chain when the log is opened, and sets aside what follows it.
//!
//! A crash of the machine can leave any number of zeros or old blocks of the disk after the last synced line.
//! The last line is searched backwards through all of a file and then through the files before it, so that
//! the chain never begins again. What follows that line is kept whole in files `N.torn-K`, and no number is
//! used again that a lost line can have had.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::files::{
    first_seq, irregular_entries, log_file, log_files, open_file, sync_dir_of, torn_files, unused_torn_file,
    with_path,
};
use super::history::History;
use super::line::{LineId, MIN_LINE_LEN};
use super::opened::open_present_log;
use crate::verify::audit::{MAX_SEQ, MAX_UNPACKED_LEN, is_compressed};

/// Files and gaps that a report names.
const MAX_REPORTED: usize = 8;

/// Where the next line goes.
#[derive(Debug)]
pub(super) struct ChainEnd {
    /// The file to append to; it may not exist.
    pub(super) path: PathBuf,
    /// The last line. Its number is higher than that of its digest where lines after it are lost.
    pub(super) last: LineId,
    /// The last line with its own number.
    pub(super) last_line: LineId,
    /// What was found, for administrators.
    pub(super) findings: Findings,
}

/// What is wrong with the log, for administrators.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// What was set aside and which numbers are skipped; `None` if nothing was.
    pub(super) set_aside: Option<String>,
    /// Gaps before the last line that no record declares.
    pub(super) gaps: Option<String>,
    /// Why the Merkle tree over the records begins again; `None` if it does not.
    pub(super) restarted: Option<String>,
}

/// Bytes after the last line.
#[derive(Debug)]
struct Remainder {
    file: PathBuf,
    length: u64,
    /// The file to which they were moved, or why they could not be.
    moved_to: io::Result<PathBuf>,
}

/// Finds the last line, and moves everything after it to files `N.torn-K`. Blocking.
///
/// What a full disk has no room to copy stays where it is, and the log continues in a new file.
pub(super) fn recover(dir: &Path) -> io::Result<ChainEnd> {
    let mut remainders = Vec::new();
    let mut history = History::default();
    let mut found = None;
    for path in log_files(dir)?.into_iter().rev() {
        if found.is_some() {
            // The files before matter only for the check of the chain, so one that is unreadable ends it. So does a
            // compressed one, which takes longer to read than the start may take.
            if !history.needs_more() || is_compressed(&path) || read_file(&mut history, &path).is_err() {
                break;
            }
            continue;
        }
        let length = read_file(&mut history, &path)?;
        if length == 0 {
            continue;
        }
        let Some((end, last)) = history.last() else {
            history.clear();
            if is_compressed(&path) {
                let error = io::Error::other("it has no record of the log; move it elsewhere");
                return Err(with_path(&path, error));
            }
            let moved_to = Ok(set_file_aside(&path).map_err(|e| with_path(&path, e))?);
            remainders.push(Remainder { file: path, length, moved_to });
            continue;
        };
        let mut ends_with_line = true;
        let mut highest = last.seq;
        if end < length {
            // More lines than this cannot have been written there.
            highest = highest.max(history.highest_behind_last(last.seq + (length - end) / MIN_LINE_LEN));
            let moved_to = match is_compressed(&path) {
                true => Err(io::Error::other("the file is compressed")),
                false => set_tail_aside(&path, end, length),
            };
            ends_with_line = moved_to.is_ok();
            remainders.push(Remainder { file: path.clone(), length: length - end, moved_to });
        }
        found = Some((path, last, highest, ends_with_line));
    }
    let (last, highest) = match &found {
        Some((_, last, highest, _)) => (*last, *highest),
        None => (LineId::without_digest(0), 0),
    };
    let highest = highest.max(highest_lost_seq(dir, last.seq)?);
    let next = LineId { seq: highest, ..last };
    let current = current_file(dir, next, found.as_ref().map(|(path, ..)| &**path))?;
    // Nothing is appended to a compressed file.
    let last_file = found.and_then(|(path, _, _, ends)| (ends && !is_compressed(&path)).then_some(path));
    let path = current.or(last_file).unwrap_or_else(|| log_file(dir, highest + 1));
    let findings = Findings {
        set_aside: describe_set_aside(&remainders, last.seq, highest),
        gaps: describe_gaps(&history),
        restarted: None,
    };
    Ok(ChainEnd { path, last: next, last_line: last, findings })
}

/// Reads a file that is older than those that were read, and returns its length.
fn read_file(history: &mut History, path: &Path) -> io::Result<u64> {
    let file = open_present_log(path)?;
    let length = file.metadata().map_err(|e| with_path(path, e))?.len();
    let first_seq = first_seq(path).unwrap_or_default();
    history.read(&file, length, first_seq).map_err(|e| with_path(path, e))?;
    Ok(length)
}

/// Moves the bytes of a file from `end` on to a file of their own. A crash leaves them in both files or in
/// the first.
fn set_tail_aside(path: &Path, end: u64, length: u64) -> io::Result<PathBuf> {
    let to = unused_torn_file(path)?;
    let mut unfinished = to.clone().into_os_string();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let copied = copy_tail(path, end, length, &unfinished).and_then(|()| fs::rename(&unfinished, &to));
    if let Err(e) = copied {
        // The log is unchanged. The next start repeats this.
        let _ = fs::remove_file(&unfinished);
        return Err(e);
    }
    sync_dir_of(path)?;
    let file = open_file(path, OpenOptions::new().write(true))?;
    file.set_len(end)?;
    file.sync_all()?;
    Ok(to)
}

fn copy_tail(path: &Path, end: u64, length: u64, to: &Path) -> io::Result<()> {
    let mut from = open_file(path, File::options().read(true))?;
    from.seek(SeekFrom::Start(end))?;
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    let copied = io::copy(&mut from.take(length - end), &mut copy)?;
    if copied != length - end {
        return Err(io::Error::other(format!("{} changed while it was read", path.display())));
    }
    copy.sync_all()
}

/// Renames a file that has no whole line.
fn set_file_aside(path: &Path) -> io::Result<PathBuf> {
    let to = unused_torn_file(path)?;
    fs::rename(path, &to)?;
    sync_dir_of(path)?;
    Ok(to)
}

/// Returns a number that no line after line `last` exceeds whose file was set aside, now or at an earlier
/// start that could not record it: from the names of the files, and from the number of lines that their bytes
/// can have been. 0 if there is no such file.
fn highest_lost_seq(dir: &Path, last: u64) -> io::Result<u64> {
    let mut highest = 0;
    for path in log_files(dir)?.into_iter().chain(torn_files(dir)?).chain(irregular_entries(dir)?) {
        let Some(first) = first_seq(&path).filter(|first| *first > last) else { continue };
        let metadata = fs::symlink_metadata(&path).map_err(|e| with_path(&path, e))?;
        // Nothing is known about an entry that is no file, but its name cannot be used.
        let length = if is_compressed(&path) { MAX_UNPACKED_LEN } else { metadata.len() };
        let lines = if metadata.is_file() { length.div_ceil(MIN_LINE_LEN) } else { 1 };
        let seq = first - 1 + lines;
        if seq >= MAX_SEQ {
            let message = "the name leaves no number for further lines; move it elsewhere";
            return Err(with_path(&path, io::Error::other(message)));
        }
        highest = highest.max(seq);
    }
    if last >= MAX_SEQ {
        return Err(io::Error::other(format!(
            "the audit log ends with line {last}, the highest number; \
             move its files elsewhere to begin a new one"
        )));
    }
    Ok(highest)
}

/// Returns the empty file that the last rotation created for the next line, if it exists. Other empty files
/// after the last line's, whose names are not the next line's number, are removed.
fn current_file(dir: &Path, last: LineId, last_file: Option<&Path>) -> io::Result<Option<PathBuf>> {
    let next_file = log_file(dir, last.seq + 1);
    let mut current = None;
    for path in log_files(dir)?.into_iter().rev() {
        if last_file == Some(&*path) {
            break;
        }
        if path == next_file {
            current = Some(path);
        } else {
            fs::remove_file(&path).map_err(|e| with_path(&path, e))?;
            sync_dir_of(&path)?;
        }
    }
    Ok(current)
}

/// Returns `None` if the log ends with its last line and no number is skipped.
fn describe_set_aside(remainders: &[Remainder], last: u64, highest: u64) -> Option<String> {
    let skipped = (highest > last).then(|| {
        format!("lines {} to {highest} are missing: lost lines can have had these numbers", last + 1)
    });
    if remainders.is_empty() {
        return skipped;
    }
    let total: u64 = remainders.iter().map(|part| part.length).sum();
    let describe_part = |part: &Remainder| match &part.moved_to {
        Ok(to) => format!("{} of {} were moved to {}", part.length, part.file.display(), to.display()),
        Err(error) => format!("{} of {} stay there: {error}", part.length, part.file.display()),
    };
    let mut parts: Vec<String> = remainders.iter().take(MAX_REPORTED).map(describe_part).collect();
    if let Some(more) = remainders.len().checked_sub(MAX_REPORTED).filter(|more| *more > 0) {
        parts.push(format!("the rest is from {more} more files"));
    }
    let missing =
        skipped.unwrap_or_else(|| "later lines that a crash of the machine destroyed are missing".to_owned());
    Some(format!("{total} bytes after line {last} do not continue it: {missing}; {}", parts.join(", ")))
}

fn describe_gaps(history: &History) -> Option<String> {
    let gaps = history.undeclared_gaps();
    let parts: Vec<String> = gaps.iter().take(MAX_REPORTED).map(|gap| gap.describe()).collect();
    let more = gaps.len().saturating_sub(MAX_REPORTED);
    let more = if more > 0 { format!(" {more} more gaps;") } else { String::new() };
    (!gaps.is_empty()).then(|| {
        format!("lines are missing or were changed {}{more} the chain is broken there", parts.join(" "))
    })
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;

//! Finds the end of the chain when the log is opened, and sets aside what follows it.
//!
//! A crash of the machine can leave any number of zeros or old blocks of the disk after the last synced line.
//! The last whole line is searched backwards through all of a file and then through the files before it, so
//! that the chain never begins again. What follows that line is kept whole in files `N.torn-K`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::files::{first_seq, log_file, log_files, torn_files, unused_torn_file};
use super::line::{LineId, MIN_LINE_LEN};

/// Bytes that are searched at once for newlines.
const BLOCK_LEN: u64 = 64 * 1024;
/// Longer lines are not read. Earlier versions wrote one line for a reload, with the names of up to 20,000
/// agents.
const MAX_OLD_LINE_LEN: u64 = 2 * 1024 * 1024;
/// Files that the report names.
const MAX_REPORTED_FILES: usize = 8;

/// Where the next line goes.
#[derive(Debug)]
pub(super) struct ChainEnd {
    /// The file to append to; it may not exist.
    pub(super) path: PathBuf,
    /// The last line.
    pub(super) last: LineId,
    /// What was set aside, for administrators; `None` if nothing was.
    pub(super) report: Option<String>,
}

/// Bytes after the last whole line.
#[derive(Debug)]
struct Remainder {
    file: PathBuf,
    length: u64,
    /// The file to which they were moved, or why they could not be.
    moved_to: io::Result<PathBuf>,
}

/// Finds the last whole line, and moves everything after it to files `N.torn-K`. Blocking.
///
/// What a full disk has no room to copy stays where it is, and the log continues in a new file.
pub(super) fn recover(dir: &Path) -> io::Result<ChainEnd> {
    let mut remainders = Vec::new();
    let mut found = None;
    for path in log_files(dir)?.into_iter().rev() {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            continue;
        }
        let Some((end, last)) = last_line(&file, length)? else {
            let moved_to = Ok(set_file_aside(&path)?);
            remainders.push(Remainder { file: path, length, moved_to });
            continue;
        };
        let mut ends_with_line = true;
        if end < length {
            let moved_to = set_tail_aside(&path, end, length);
            ends_with_line = moved_to.is_ok();
            remainders.push(Remainder { file: path.clone(), length: length - end, moved_to });
        }
        found = Some((path, last, ends_with_line));
        break;
    }
    let last = match &found {
        Some((_, last, _)) => *last,
        None => LineId::without_digest(highest_lost_seq(dir)?),
    };
    let current = current_file(dir, last, found.as_ref().map(|(path, ..)| &**path))?;
    let last_file = found.and_then(|(path, _, ends_with_line)| ends_with_line.then_some(path));
    let path = current.or(last_file).unwrap_or_else(|| log_file(dir, last.seq + 1));
    let report = (!remainders.is_empty()).then(|| describe(&remainders, last.seq));
    Ok(ChainEnd { path, last, report })
}

/// Returns where the last whole line ends, with its newline, and the line's number and digest.
fn last_line(file: &File, length: u64) -> io::Result<Option<(u64, LineId)>> {
    let mut block = vec![0; BLOCK_LEN.min(length) as usize];
    let mut line = Vec::new();
    // The position of the newline that ends the line whose beginning is searched.
    let mut newline_after = None;
    let mut block_end = length;
    while block_end > 0 {
        let block_start = block_end.saturating_sub(BLOCK_LEN);
        let block = &mut block[..(block_end - block_start) as usize];
        file.read_exact_at(block, block_start)?;
        for at in (0..block.len()).rev().filter(|at| block[*at] == b'\n') {
            let newline = block_start + at as u64;
            if let Some(end) = newline_after.replace(newline)
                && let Some(id) = read_line(file, newline + 1, end, &mut line)?
            {
                return Ok(Some((end + 1, id)));
            }
        }
        block_end = block_start;
    }
    let Some(end) = newline_after else { return Ok(None) };
    Ok(read_line(file, 0, end, &mut line)?.map(|id| (end + 1, id)))
}

/// Returns number and digest of the bytes from `start` to `end`, if they are a whole line.
fn read_line(file: &File, start: u64, end: u64, line: &mut Vec<u8>) -> io::Result<Option<LineId>> {
    let length = end - start;
    if !(MIN_LINE_LEN..=MAX_OLD_LINE_LEN).contains(&length) {
        return Ok(None);
    }
    line.resize(length as usize, 0);
    file.read_exact_at(line, start)?;
    Ok(LineId::of(line))
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
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(end)?;
    file.sync_all()?;
    Ok(to)
}

fn copy_tail(path: &Path, end: u64, length: u64, to: &Path) -> io::Result<()> {
    let mut from = File::open(path)?;
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

/// Returns a number that no lost line exceeds, for a log that has content and not one whole line: from the
/// names of its files, and from the number of lines that their bytes can have been. 0 for an empty log.
fn highest_lost_seq(dir: &Path) -> io::Result<u64> {
    let mut highest = 0;
    for path in log_files(dir)?.into_iter().chain(torn_files(dir)?) {
        let lines = fs::metadata(&path)?.len().div_ceil(MIN_LINE_LEN);
        let before = first_seq(&path).unwrap_or_default().saturating_sub(1);
        highest = highest.max(before.saturating_add(lines));
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
            fs::remove_file(&path)?;
            sync_dir_of(&path)?;
        }
    }
    Ok(current)
}

fn describe(remainders: &[Remainder], last_seq: u64) -> String {
    let total: u64 = remainders.iter().map(|part| part.length).sum();
    let describe_part = |part: &Remainder| match &part.moved_to {
        Ok(to) => format!("{} of {} were moved to {}", part.length, part.file.display(), to.display()),
        Err(error) => format!("{} of {} stay there: {error}", part.length, part.file.display()),
    };
    let mut parts: Vec<String> = remainders.iter().take(MAX_REPORTED_FILES).map(describe_part).collect();
    if let Some(more) = remainders.len().checked_sub(MAX_REPORTED_FILES).filter(|more| *more > 0) {
        parts.push(format!("the rest is from {more} more files"));
    }
    format!(
        "{total} bytes after line {last_seq} have no whole line: {}; \
         later lines that a crash of the machine destroyed are missing",
        parts.join(", ")
    )
}

fn sync_dir_of(path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::ChainedLog;

    fn append(log: &mut ChainedLog, count: usize) {
        for n in 0..count {
            let body = format!("\"detail\":\"{}\"}}", "x".repeat(97 * n % 3000));
            log.append([body.as_bytes()].into_iter()).unwrap();
        }
    }

    #[test]
    fn zeros_after_a_power_cut_tear_no_line_and_restart_no_number() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = ChainedLog::open(dir.path()).unwrap();
        append(&mut log, 100);
        let path = log.path().to_owned();
        let whole = fs::read(&path).unwrap();
        for zeros in [1, 4095, 131_071, 131_072, 131_073, 1 << 20] {
            fs::write(&path, [whole.clone(), vec![0; zeros]].concat()).unwrap();
            let (log, report) = ChainedLog::open(dir.path()).unwrap();
            assert_eq!(log.seq(), 100);
            assert!(report.unwrap().contains(&format!("{zeros} bytes after line 100")));
            assert_eq!(fs::read(&path).unwrap(), whole);
            let torn = path.with_extension("torn-1");
            assert_eq!(fs::read(&torn).unwrap(), vec![0; zeros]);
            fs::remove_file(torn).unwrap();
        }
    }

    #[test]
    fn a_log_without_a_whole_line_does_not_begin_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = log_file(dir.path(), 5000);
        fs::write(&path, vec![0; 300_000]).unwrap();
        let (mut log, report) = ChainedLog::open(dir.path()).unwrap();
        assert!(report.unwrap().starts_with("300000 bytes"));
        // As many lines as the bytes can have been.
        assert!(log.seq() >= 4999 + 300_000 / 100, "{}", log.seq());
        let seq = log.seq();
        let (reopened, report) = ChainedLog::open(dir.path()).unwrap();
        assert_eq!((reopened.seq(), report), (seq, None));
        append(&mut log, 1);
        assert_eq!(ChainedLog::open(dir.path()).unwrap().0.seq(), seq + 1);
        assert_eq!(fs::read(path.with_extension("torn-1")).unwrap(), vec![0; 300_000]);
    }

    #[test]
    fn a_file_without_a_whole_line_is_set_aside_and_the_file_before_continues() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = ChainedLog::open(dir.path()).unwrap();
        append(&mut log, 10);
        let first = log.path().to_owned();
        log.rotate().unwrap();
        fs::write(log.path(), vec![b'x'; 200_000]).unwrap();
        let torn = log.path().with_extension("torn-1");
        let (log, _) = ChainedLog::open(dir.path()).unwrap();
        assert_eq!((log.seq(), log.path()), (10, &*first));
        assert_eq!(fs::read(torn).unwrap(), vec![b'x'; 200_000]);
    }

    #[test]
    fn an_unfinished_copy_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = ChainedLog::open(dir.path()).unwrap();
        append(&mut log, 3);
        let path = log.path().to_owned();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"v\":1,\"se"].concat()).unwrap();
        let unfinished = PathBuf::from(format!("{}.new", path.with_extension("torn-1").display()));
        fs::write(&unfinished, b"{\"v\":").unwrap();
        let (log, report) = ChainedLog::open(dir.path()).unwrap();
        assert!(report.is_some() && log.seq() == 3 && !unfinished.exists());
        assert_eq!(fs::read(path.with_extension("torn-1")).unwrap(), b"{\"v\":1,\"se");
    }

    #[test]
    fn a_line_of_an_earlier_version_may_be_longer() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = ChainedLog::open(dir.path()).unwrap();
        let body = format!("\"detail\":\"{}\"}}", "x".repeat(1_400_000));
        log.append([body.as_bytes()].into_iter()).unwrap();
        let (log, report) = ChainedLog::open(dir.path()).unwrap();
        assert_eq!((log.seq(), report), (1, None));
    }
}

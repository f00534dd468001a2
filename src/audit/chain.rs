//! The audit log's current file: numbered JSON lines, each with the SHA-256 digest of the line before.
//!
//! The kernel has accepted a line before its reply is sent, so a crash of the daemon loses no line.
//! `writer.rs` syncs the file once a second, so a crash of the machine loses at most the lines of the last
//! second, or, with `[audit] sync = "always"`, before each reply.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{log_file, open_file};
use super::line::{LineId, append_line};
use super::recovery::{Findings, recover};
use super::tree::{LogHead, LogTree};

/// Size in bytes at which a new file is started.
const MAX_FILE_SIZE: u64 = 64 * 1024 * 1024;

/// Records about the log itself that wait for a disk with space; further ones are dropped.
const MAX_FIRST_BODIES: usize = 8;

/// The current file and the end of the chain.
#[derive(Debug)]
pub(super) struct ChainedLog {
    dir: PathBuf,
    path: PathBuf,
    file: Arc<File>,
    /// Where the next line begins; all lines before are complete.
    length: u64,
    /// The length at which a new file is started.
    max_length: u64,
    /// Whether a failed write left part of a line after `length`.
    has_partial_line: bool,
    last: LineId,
    tree: LogTree,
    /// Records about the log itself, a few. They are written before any other line.
    first_bodies: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    /// The lines in `buffer`.
    appended: Vec<LineId>,
}

impl ChainedLog {
    /// Finds the end of the chain and sets aside what follows it. The second value describes what was
    /// found.
    pub(super) fn open(dir: &Path) -> io::Result<(ChainedLog, Findings)> {
        let end = recover(dir)?;
        let file = open_file(&end.path, OpenOptions::new().append(true).create(true).mode(0o600))?;
        let length = file.metadata()?.len();
        let (tree, restarted) = LogTree::restore(dir, &end.path, end.last_line)?;
        let findings = Findings { restarted, ..end.findings };
        Ok((
            ChainedLog {
                dir: dir.to_owned(),
                path: end.path,
                file: Arc::new(file),
                length,
                max_length: MAX_FILE_SIZE,
                has_partial_line: false,
                last: end.last,
                tree,
                first_bodies: Vec::new(),
                buffer: Vec::new(),
                appended: Vec::new(),
            },
            findings,
        ))
    }

    /// Returns the path of the current file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of the last line; 0 before the first.
    pub(super) fn seq(&self) -> u64 {
        self.last.seq
    }

    /// Returns the current file.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Returns the length of the current file's whole lines in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns the last record and the tree.
    pub(super) fn head(&self) -> LogHead {
        LogHead { path: self.path.clone(), state: self.tree.state().clone() }
    }

    /// Has `body` written as a line of its own before the next lines.
    pub(super) fn push_first_body(&mut self, body: Vec<u8>) {
        if self.first_bodies.len() < MAX_FIRST_BODIES {
            self.first_bodies.push(body);
        }
    }

    /// Replaces the current file, and returns the previous one.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: Arc<File>) -> Arc<File> {
        std::mem::replace(&mut self.file, file)
    }

    /// Makes the next check start a new file.
    #[cfg(test)]
    pub(super) fn pretend_full(&mut self) {
        self.max_length = self.length;
    }

    /// Whether the current file has reached its maximum size.
    pub(super) fn is_full(&self) -> bool {
        self.length >= self.max_length
    }

    /// Appends either all lines or none. After a failure the file is truncated to its previous length.
    pub(super) fn append<'a>(&mut self, line_bodies: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        if self.has_partial_line {
            self.file.set_len(self.length)?;
            self.has_partial_line = false;
        }
        let mut last = self.last;
        self.buffer.clear();
        self.appended.clear();
        let (buffer, appended) = (&mut self.buffer, &mut self.appended);
        let mut push = |body: &[u8]| {
            last = append_line(buffer, last, body);
            appended.push(last);
        };
        self.first_bodies.iter().for_each(|body| push(body));
        line_bodies.for_each(push);
        if let Err(e) = (&*self.file).write_all(&self.buffer) {
            // A full disk can accept part of a line. It is truncated now, before the next line, or at the
            // next start.
            self.has_partial_line = self.file.set_len(self.length).is_err();
            return Err(e);
        }
        self.length += self.buffer.len() as u64;
        self.last = last;
        self.tree.write_unwritten();
        self.appended.iter().for_each(|line| self.tree.push(*line));
        self.first_bodies.clear();
        Ok(())
    }

    /// Starts a new file, whose directory entry the caller has to sync. On failure the current file
    /// continues to grow. The caller syncs the current file before, unless it was removed or cannot be synced.
    pub(super) fn start_file(&mut self) -> io::Result<()> {
        let path = log_file(&self.dir, self.last.seq + 1);
        self.tree.write_state_or_warn(&path);
        let file = open_file(&path, OpenOptions::new().append(true).create_new(true).mode(0o600))?;
        self.file = Arc::new(file);
        self.path = path;
        (self.length, self.max_length) = (0, MAX_FILE_SIZE);
        self.has_partial_line = false;
        Ok(())
    }

    /// Whether the current file has a line.
    pub(super) fn has_lines(&self) -> bool {
        self.length > 0
    }
}

/// Opens a log, and returns what was set aside.
#[cfg(test)]
pub(super) fn open(dir: &Path) -> (ChainedLog, Option<String>) {
    let (log, findings) = ChainedLog::open(dir).unwrap();
    (log, findings.set_aside)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use data_encoding::HEXLOWER;

    use super::*;
    use crate::audit::files::log_files;
    use crate::digest::sha256;

    fn body(text: &str) -> Vec<u8> {
        format!("\"detail\":\"{text}\"}}").into_bytes()
    }

    fn lines(dir: &Path) -> Vec<String> {
        log_files(dir)
            .unwrap()
            .iter()
            .flat_map(|f| fs::read_to_string(f).unwrap().lines().map(String::from).collect::<Vec<_>>())
            .collect()
    }

    /// Asserts that lines are numbered consecutively and contain their predecessors' digests. Returns their
    /// number.
    fn assert_chained(dir: &Path) -> usize {
        let mut last = "0".repeat(64);
        let lines = lines(dir);
        for (at, line) in lines.iter().enumerate() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["seq"], at as u64 + 1);
            assert_eq!(value["prev"], last);
            last = HEXLOWER.encode(&sha256(line.as_bytes()));
        }
        lines.len()
    }

    #[test]
    fn chain_continues_across_restarts_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let (mut log, recovered) = open(dir.path());
            assert_eq!(recovered, None);
            let bodies = [body("a"), body("b")];
            log.append(bodies.iter().map(Vec::as_slice)).unwrap();
            if round == 1 {
                log.start_file().unwrap();
            }
        }
        assert_eq!(log_files(dir.path()).unwrap().len(), 2);
        assert_eq!(assert_chained(dir.path()), 6);
    }

    #[test]
    fn quarantines_partial_line() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let bodies = [body("a"), body("b")];
        log.append(bodies.iter().map(Vec::as_slice)).unwrap();
        let path = log.path.clone();
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in first + 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, recovered) = open(dir.path());
            assert!(recovered.unwrap().contains(&format!("{} bytes", cut - first)));
            log.append([body("c")].iter().map(Vec::as_slice)).unwrap();
            assert_eq!(assert_chained(dir.path()), 2);
            let quarantine_path = path.with_extension("torn-1");
            assert_eq!(fs::read(&quarantine_path).unwrap(), &whole[first..cut]);
            fs::remove_file(quarantine_path).unwrap();
        }
    }

    #[test]
    fn quarantines_foreign_tail() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        log.append([body("a")].iter().map(Vec::as_slice)).unwrap();
        (&*log.file).write_all(b"not json\n{\"v\":9,\"seq\":7,\"prev\":\"\"}\n\xff\xff\n").unwrap();
        let (mut log, recovered) = open(dir.path());
        assert!(recovered.is_some());
        log.append([body("b")].iter().map(Vec::as_slice)).unwrap();
        assert_eq!(assert_chained(dir.path()), 2);
    }

    #[test]
    fn full_disk_leaves_only_whole_lines() {
        // Writes to /dev/full fail with ENOSPC, like those to a full disk.
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        log.append([body("a")].iter().map(Vec::as_slice)).unwrap();
        let full_disk = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let working_file = log.replace_file(Arc::new(full_disk));
        let error = log.append([body("b")].iter().map(Vec::as_slice)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENOSPC as i32));
        log.file = working_file;
        log.append([body("c")].iter().map(Vec::as_slice)).unwrap();
        assert_eq!(assert_chained(dir.path()), 2);
    }

    #[test]
    fn first_body_waits_for_space_and_precedes_all_others() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let full_disk = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let working_file = log.replace_file(Arc::new(full_disk));
        log.push_first_body(body("first"));
        assert!(log.append(std::iter::empty()).is_err());
        log.replace_file(working_file);
        for _ in 0..2 {
            log.append([body("later")].iter().map(Vec::as_slice)).unwrap();
        }
        let is_first: Vec<bool> = lines(dir.path()).iter().map(|line| line.contains("first")).collect();
        assert_eq!(is_first, [true, false, false]);
        assert_eq!(assert_chained(dir.path()), 3);
    }
}

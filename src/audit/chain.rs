//! The audit log's files: numbered JSON lines, each with the SHA-256 digest of the line before.
//!
//! The kernel has accepted a line before its reply is sent, so a crash of the daemon loses no line.
//! `writer.rs` syncs the file once a second, so a crash of the machine loses at most the lines of the last
//! second.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

/// Version of the line format, the member `v`.
const FORMAT_VERSION: u32 = 1;
/// Size in bytes at which a new file is started.
const MAX_FILE_SIZE: u64 = 64 * 1024 * 1024;
/// Upper bound of a line's length, in bytes.
const MAX_LINE_LEN: u64 = 64 * 1024;
/// The digest in the first line, which has no predecessor.
const GENESIS_DIGEST: [u8; 32] = [0; 32];

/// The current file and the end of the chain.
#[derive(Debug)]
pub(super) struct ChainedLog {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    /// Where the next line begins; all lines before are complete.
    length: u64,
    /// Whether a failed write left part of a line after `length`.
    has_partial_line: bool,
    seq: u64,
    last_digest: [u8; 32],
    buffer: Vec<u8>,
}

impl ChainedLog {
    /// Finds the end of the chain and moves an incomplete last line to a file `*.torn-N`. The second value
    /// describes what was moved, if anything.
    pub(super) fn open(dir: &Path) -> io::Result<(ChainedLog, Option<String>)> {
        let mut recovered = None;
        let (mut seq, mut last_digest) = (0, GENESIS_DIGEST);
        let mut path = dir.join(file_name(1));
        // The last file is empty if the daemon stopped between creating and writing it. Then the end of the
        // chain is in the file before.
        for candidate in log_files(dir)?.into_iter().rev() {
            let tail = LogTail::scan(&candidate)?;
            if tail.partial_len > 0 {
                let quarantine_path = quarantine_tail(&candidate, tail.length)?;
                recovered = Some(format!(
                    "{} ended with {} bytes of an incomplete line; they were moved to {}",
                    candidate.display(),
                    tail.partial_len,
                    quarantine_path.display()
                ));
            }
            if path == dir.join(file_name(1)) {
                path = candidate.clone();
            }
            if let Some((tail_seq, tail_digest)) = tail.last_line {
                (seq, last_digest) = (tail_seq, tail_digest);
                break;
            }
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let length = file.metadata()?.len();
        Ok((
            ChainedLog {
                dir: dir.to_owned(),
                path,
                file,
                length,
                has_partial_line: false,
                seq,
                last_digest,
                buffer: Vec::new(),
            },
            recovered,
        ))
    }

    /// Returns the path of the current file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of the last line; 0 before the first.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Returns another handle of the current file.
    pub(super) fn clone_file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Replaces the current file.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        self.file = file;
    }

    /// Whether the current file has reached its maximum size.
    pub(super) fn is_full(&self) -> bool {
        self.length >= MAX_FILE_SIZE
    }

    /// Appends either all lines or none. After a failure the file is truncated to its previous length.
    pub(super) fn append<'a>(&mut self, line_bodies: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        if self.has_partial_line {
            self.file.set_len(self.length)?;
            self.has_partial_line = false;
        }
        let (mut seq, mut last_digest) = (self.seq, self.last_digest);
        self.buffer.clear();
        for body in line_bodies {
            seq += 1;
            let start = self.buffer.len();
            let mut prefix = String::with_capacity(128);
            // Writing to a String cannot fail.
            let _ = write!(
                prefix,
                "{{\"v\":{FORMAT_VERSION},\"seq\":{seq},\"prev\":\"{}\",",
                HEXLOWER.encode_display(&last_digest)
            );
            self.buffer.extend_from_slice(prefix.as_bytes());
            self.buffer.extend_from_slice(body);
            last_digest = sha256(&self.buffer[start..]);
            self.buffer.push(b'\n');
        }
        if let Err(e) = self.file.write_all(&self.buffer) {
            // A full disk can accept part of a line. It is truncated now, before the next line, or at the
            // next start.
            self.has_partial_line = self.file.set_len(self.length).is_err();
            return Err(e);
        }
        self.length += self.buffer.len() as u64;
        (self.seq, self.last_digest) = (seq, last_digest);
        Ok(())
    }

    /// Starts a new file. On failure the current file continues to grow.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let path = self.dir.join(file_name(self.seq + 1));
        self.file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        self.path = path;
        self.length = 0;
        File::open(&self.dir)?.sync_all()
    }
}

/// Where a file's last complete line ends.
struct LogTail {
    length: u64,
    partial_len: u64,
    last_line: Option<(u64, [u8; 32])>,
}

impl LogTail {
    fn scan(path: &Path) -> io::Result<LogTail> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let window_start = length.saturating_sub(2 * MAX_LINE_LEN);
        file.seek(SeekFrom::Start(window_start))?;
        let mut tail = Vec::new();
        file.take(2 * MAX_LINE_LEN).read_to_end(&mut tail)?;
        // Search backwards for the last line that has the log's format.
        let mut end = tail.len();
        loop {
            let line_end = tail[..end].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            if line_end == 0 {
                return Ok(LogTail {
                    length: window_start,
                    partial_len: length - window_start,
                    last_line: None,
                });
            }
            let line_start = tail[..line_end - 1].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let line = &tail[line_start..line_end - 1];
            if let Some(seq) = parse_seq(line) {
                let valid_length = window_start + line_end as u64;
                return Ok(LogTail {
                    length: valid_length,
                    partial_len: length - valid_length,
                    last_line: Some((seq, sha256(line))),
                });
            }
            end = line_end - 1;
        }
    }
}

/// Returns the number of a line, or `None` if it does not have the log's format.
pub(super) fn parse_seq(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct ChainFields {
        v: u32,
        seq: u64,
        #[serde(rename = "prev")]
        _prev: String,
    }
    let fields: ChainFields = serde_json::from_slice(line).ok()?;
    (fields.v == FORMAT_VERSION && fields.seq > 0).then_some(fields.seq)
}

/// Moves everything after `length` to a new file `*.torn-N` in the same directory.
fn quarantine_tail(path: &Path, length: u64) -> io::Result<PathBuf> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut partial = vec![0; (file.metadata()?.len() - length).min(16 * 1024 * 1024) as usize];
    file.read_exact_at(&mut partial, length)?;
    let quarantine_path = (1..1000)
        .map(|n| path.with_extension(format!("torn-{n}")))
        .find(|candidate| !candidate.exists())
        .ok_or_else(|| {
            io::Error::other("999 quarantined tails (*.torn-N) exist already; inspect and remove them")
        })?;
    let mut quarantine_file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&quarantine_path)?;
    quarantine_file.write_all(&partial)?;
    quarantine_file.sync_all()?;
    file.set_len(length)?;
    file.sync_all()?;
    Ok(quarantine_path)
}

fn file_name(first_seq: u64) -> String {
    format!("{first_seq:020}.jsonl")
}

/// Returns the log's files, oldest first.
pub(super) fn log_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let is_log_file = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| {
            n.len() == 26 && n.ends_with(".jsonl") && n.as_bytes()[..20].iter().all(u8::is_ascii_digit)
        });
        if is_log_file {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut last = HEXLOWER.encode(&GENESIS_DIGEST);
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
            let (mut log, recovered) = ChainedLog::open(dir.path()).unwrap();
            assert_eq!(recovered, None);
            let bodies = [body("a"), body("b")];
            log.append(bodies.iter().map(Vec::as_slice)).unwrap();
            if round == 1 {
                log.rotate().unwrap();
            }
        }
        assert_eq!(log_files(dir.path()).unwrap().len(), 2);
        assert_eq!(assert_chained(dir.path()), 6);
    }

    #[test]
    fn quarantines_partial_line() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = ChainedLog::open(dir.path()).unwrap();
        let bodies = [body("a"), body("b")];
        log.append(bodies.iter().map(Vec::as_slice)).unwrap();
        let path = log.path.clone();
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in first + 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, recovered) = ChainedLog::open(dir.path()).unwrap();
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
        let (mut log, _) = ChainedLog::open(dir.path()).unwrap();
        log.append([body("a")].iter().map(Vec::as_slice)).unwrap();
        log.file.write_all(b"not json\n{\"v\":9,\"seq\":7,\"prev\":\"\"}\n\xff\xff\n").unwrap();
        let (mut log, recovered) = ChainedLog::open(dir.path()).unwrap();
        assert!(recovered.is_some());
        log.append([body("b")].iter().map(Vec::as_slice)).unwrap();
        assert_eq!(assert_chained(dir.path()), 2);
    }

    #[test]
    fn full_disk_leaves_only_whole_lines() {
        // Writes to /dev/full fail with ENOSPC, like those to a full disk.
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = ChainedLog::open(dir.path()).unwrap();
        log.append([body("a")].iter().map(Vec::as_slice)).unwrap();
        let working_file =
            std::mem::replace(&mut log.file, OpenOptions::new().append(true).open("/dev/full").unwrap());
        let error = log.append([body("b")].iter().map(Vec::as_slice)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENOSPC as i32));
        log.file = working_file;
        log.append([body("c")].iter().map(Vec::as_slice)).unwrap();
        assert_eq!(assert_chained(dir.path()), 2);
    }
}

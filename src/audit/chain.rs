//! The audit log on disk: JSON lines, numbered, each with the SHA-256 of the line before.
//!
//! A line is with the kernel before its reply leaves, so a crash of the daemon loses nothing. The disk is asked to keep
//! it once a second, for the sake of a crash of the machine (`writer.rs`).

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

/// Format of the lines.
const VERSION: u32 = 1;
/// A file this large is followed by another.
const FILE_MOST: u64 = 64 * 1024 * 1024;
/// Longer than any line of ours.
const LINE_MOST: u64 = 64 * 1024;
/// What the first line has in place of a digest.
const NOTHING_BEFORE: [u8; 32] = [0; 32];

/// The file being written, and the end of the chain.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    /// Where the next line begins: all before are whole.
    length: u64,
    /// Whether part of a line stands behind `length`, left by a write that failed.
    torn: bool,
    seq: u64,
    last: [u8; 32],
    buffer: Vec<u8>,
}

impl Log {
    /// Finds the end of the chain, setting aside what a crash tore.
    pub(super) fn open(dir: &Path) -> io::Result<(Log, Option<String>)> {
        let mut recovered = None;
        let (mut seq, mut last) = (0, NOTHING_BEFORE);
        let mut path = dir.join(name(1));
        // The last file may be empty, if the daemon ended between making and writing it: look at the one before.
        for candidate in files(dir)?.into_iter().rev() {
            let end = End::find(&candidate)?;
            if end.torn > 0 {
                let aside = set_aside(&candidate, end.length)?;
                recovered = Some(format!(
                    "{} ended in {} bytes of no whole line; they are kept in {}",
                    candidate.display(),
                    end.torn,
                    aside.display()
                ));
            }
            if path == dir.join(name(1)) {
                path = candidate.clone();
            }
            if let Some((number, digest)) = end.last {
                (seq, last) = (number, digest);
                break;
            }
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let length = file.metadata()?.len();
        Ok((
            Log { dir: dir.to_owned(), path, file, length, torn: false, seq, last, buffer: Vec::new() },
            recovered,
        ))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Number of the last line; 0 before the first.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Another handle on the file being written.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Writes to another file from now on.
    #[cfg(test)]
    pub(super) fn redirect(&mut self, file: File) {
        self.file = file;
    }

    /// Whether it is time for another file.
    pub(super) fn is_full(&self) -> bool {
        self.length >= FILE_MOST
    }

    /// Appends lines: all of them, or none. After a failure the file ends where it ended before.
    pub(super) fn append<'a>(&mut self, bodies: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        let (mut seq, mut last) = (self.seq, self.last);
        self.buffer.clear();
        for body in bodies {
            seq += 1;
            let start = self.buffer.len();
            let mut head = String::with_capacity(128);
            // Writing to a String does not fail.
            let _ = write!(
                head,
                "{{\"v\":{VERSION},\"seq\":{seq},\"prev\":\"{}\",",
                HEXLOWER.encode_display(&last)
            );
            self.buffer.extend_from_slice(head.as_bytes());
            self.buffer.extend_from_slice(body);
            last = sha256(&self.buffer[start..]);
            self.buffer.push(b'\n');
        }
        if let Err(e) = self.file.write_all(&self.buffer) {
            // A full disk takes part of a line. It is cut off now, or before the next line, or at the next start.
            self.torn = self.file.set_len(self.length).is_err();
            return Err(e);
        }
        self.length += self.buffer.len() as u64;
        (self.seq, self.last) = (seq, last);
        Ok(())
    }

    /// Goes on in a new file. On failure the old one simply grows.
    pub(super) fn turn_over(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let path = self.dir.join(name(self.seq + 1));
        self.file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        self.path = path;
        self.length = 0;
        File::open(&self.dir)?.sync_all()
    }
}

/// Where a file's last whole line ends.
struct End {
    length: u64,
    torn: u64,
    last: Option<(u64, [u8; 32])>,
}

impl End {
    fn find(path: &Path) -> io::Result<End> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(2 * LINE_MOST);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.take(2 * LINE_MOST).read_to_end(&mut tail)?;
        // From the end back to the first line that is one of ours.
        let mut end = tail.len();
        loop {
            let whole = tail[..end].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            if whole == 0 {
                return Ok(End { length: from, torn: length - from, last: None });
            }
            let start = tail[..whole - 1].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let line = &tail[start..whole - 1];
            if let Some(seq) = number(line) {
                let length_ = from + whole as u64;
                return Ok(End { length: length_, torn: length - length_, last: Some((seq, sha256(line))) });
            }
            end = whole - 1;
        }
    }
}

/// The number of a line, if it is one of ours.
pub(super) fn number(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Head {
        v: u32,
        seq: u64,
        #[serde(rename = "prev")]
        _prev: String,
    }
    let head: Head = serde_json::from_slice(line).ok()?;
    (head.v == VERSION && head.seq > 0).then_some(head.seq)
}

/// Moves what follows `length` into a file beside.
fn set_aside(path: &Path, length: u64) -> io::Result<PathBuf> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut rest = vec![0; (file.metadata()?.len() - length).min(16 * 1024 * 1024) as usize];
    file.read_exact_at(&mut rest, length)?;
    let aside = (1..1000)
        .map(|n| path.with_extension(format!("torn-{n}")))
        .find(|aside| !aside.exists())
        .ok_or_else(|| {
            io::Error::other("a thousand torn ends are kept already; look at them and move them away")
        })?;
    let mut kept = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    kept.write_all(&rest)?;
    kept.sync_all()?;
    file.set_len(length)?;
    file.sync_all()?;
    Ok(aside)
}

fn name(first: u64) -> String {
    format!("{first:020}.jsonl")
}

/// The log's files, oldest first.
pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let ours = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| {
            n.len() == 26 && n.ends_with(".jsonl") && n.as_bytes()[..20].iter().all(u8::is_ascii_digit)
        });
        if ours {
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
        files(dir)
            .unwrap()
            .iter()
            .flat_map(|f| fs::read_to_string(f).unwrap().lines().map(String::from).collect::<Vec<_>>())
            .collect()
    }

    /// Each line is numbered and names the digest of the one before.
    fn assert_chained(dir: &Path) -> usize {
        let mut last = HEXLOWER.encode(&NOTHING_BEFORE);
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
    fn the_chain_goes_on_over_restarts_and_files() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let (mut log, recovered) = Log::open(dir.path()).unwrap();
            assert_eq!(recovered, None);
            let bodies = [body("a"), body("b")];
            log.append(bodies.iter().map(Vec::as_slice)).unwrap();
            if round == 1 {
                log.turn_over().unwrap();
            }
        }
        assert_eq!(files(dir.path()).unwrap().len(), 2);
        assert_eq!(assert_chained(dir.path()), 6);
    }

    #[test]
    fn every_torn_end_is_set_aside_and_the_chain_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        let bodies = [body("a"), body("b")];
        log.append(bodies.iter().map(Vec::as_slice)).unwrap();
        let path = log.path.clone();
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in first + 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, recovered) = Log::open(dir.path()).unwrap();
            assert!(recovered.unwrap().contains(&format!("{} bytes", cut - first)));
            log.append([body("c")].iter().map(Vec::as_slice)).unwrap();
            assert_eq!(assert_chained(dir.path()), 2);
            let aside = path.with_extension("torn-1");
            assert_eq!(fs::read(&aside).unwrap(), &whole[first..cut]);
            fs::remove_file(aside).unwrap();
        }
    }

    #[test]
    fn a_foreign_end_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append([body("a")].iter().map(Vec::as_slice)).unwrap();
        log.file.write_all(b"not json\n{\"v\":9,\"seq\":7,\"prev\":\"\"}\n\xff\xff\n").unwrap();
        let (mut log, recovered) = Log::open(dir.path()).unwrap();
        assert!(recovered.is_some());
        log.append([body("b")].iter().map(Vec::as_slice)).unwrap();
        assert_eq!(assert_chained(dir.path()), 2);
    }

    #[test]
    fn a_full_disk_leaves_whole_lines_and_is_told() {
        // /dev/full is a disk that is always full.
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append([body("a")].iter().map(Vec::as_slice)).unwrap();
        let good =
            std::mem::replace(&mut log.file, OpenOptions::new().append(true).open("/dev/full").unwrap());
        let error = log.append([body("b")].iter().map(Vec::as_slice)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENOSPC as i32));
        log.file = good;
        log.append([body("c")].iter().map(Vec::as_slice)).unwrap();
        assert_eq!(assert_chained(dir.path()), 2);
    }
}

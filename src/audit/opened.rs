//! Opens the log's files for reading. What a compressed file has is decompressed into memory, so that positions in it
//! are those of the plain file.
//!
//! The process keeps the content of one compressed file at most: a page of a query is one of many of the same file, and
//! who needs another one waits until all readers of that one are done.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::files::{open_file, with_path};
use crate::mutex::lock;
use crate::verify::audit::{GzReader, MAX_UNPACKED_LEN, compressed_file, is_compressed};

/// A content that nobody has read for this time is dropped.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// A reader waits at most so long for those of another file.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// A file of the log that is open for reading.
#[derive(Debug)]
pub(super) struct LogFile {
    file: Arc<File>,
    /// Whether it is the content of a compressed file.
    is_unpacked: bool,
}

/// Which file a content is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The content of a compressed file.
struct Unpacked {
    identity: Identity,
    file: Arc<File>,
    readers: usize,
    used_at: Instant,
}

static UNPACKED: Mutex<Option<Unpacked>> = Mutex::new(None);
static RELEASED: Condvar = Condvar::new();

/// Opens a file of the log for reading. A file that was compressed since it was listed is found under its other name.
/// Returns `None` if it was removed or moved away since then. A thread must not have two of them open.
pub(super) fn open_log(path: &Path) -> io::Result<Option<LogFile>> {
    if !is_compressed(path)
        && let Some(file) = open_if_present(path)?
    {
        return Ok(Some(LogFile { file: Arc::new(file), is_unpacked: false }));
    }
    let path = compressed_file(path);
    let Some(packed) = open_if_present(&path)? else { return Ok(None) };
    unpacked(&packed).map(Some).map_err(|e| with_path(&path, e))
}

/// As [`open_log`]; a file that is not there is an error.
pub(super) fn open_present_log(path: &Path) -> io::Result<LogFile> {
    open_log(path)?.ok_or_else(|| with_path(path, io::ErrorKind::NotFound.into()))
}

/// Frees the content of a compressed file that nobody has read for a while.
pub(super) fn drop_idle() {
    if let Ok(mut kept) = UNPACKED.try_lock() {
        drop(kept.take_if(|kept| kept.readers == 0 && kept.used_at.elapsed() > MAX_IDLE));
    }
}

fn open_if_present(path: &Path) -> io::Result<Option<File>> {
    match open_file(path, File::options().read(true)) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The content of a compressed file: the one that is there, or a new one once nobody reads the other.
fn unpacked(packed: &File) -> io::Result<LogFile> {
    let identity = Identity::of(packed)?;
    let mut kept = lock(&UNPACKED);
    let begun = Instant::now();
    while kept.as_ref().is_some_and(|kept| kept.identity != identity && kept.readers > 0) {
        let Some(rest) = MAX_WAIT.checked_sub(begun.elapsed()) else {
            let text = "others read another compressed file of the audit log; try again";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        };
        (kept, _) = RELEASED.wait_timeout(kept, rest).unwrap_or_else(PoisonError::into_inner);
    }
    if kept.as_ref().is_none_or(|kept| kept.identity != identity) {
        // The memory of the other one is free before this one needs some.
        *kept = None;
        let file = Arc::new(unpack(packed)?);
        *kept = Some(Unpacked { identity, file, readers: 0, used_at: Instant::now() });
    }
    let unpacked = kept.as_mut().ok_or(io::ErrorKind::NotFound)?;
    unpacked.readers += 1;
    Ok(LogFile { file: unpacked.file.clone(), is_unpacked: true })
}

/// Decompresses a file into memory: a full disk, or one that is read-only, makes no part of the log unreadable.
fn unpack(packed: &File) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"hostbadge-audit", MFdFlags::MFD_CLOEXEC)?);
    io::copy(&mut GzReader::new(packed, MAX_UNPACKED_LEN), &mut file)?;
    // An index beside the file knows it by its length and this time.
    file.set_modified(packed.metadata()?.modified()?)?;
    Ok(file)
}

impl Identity {
    fn of(file: &File) -> io::Result<Identity> {
        let metadata = file.metadata()?;
        Ok(Identity {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Deref for LogFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        if !self.is_unpacked {
            return;
        }
        // It is the content that is kept: no other one takes its place while it has readers.
        if let Some(kept) = lock(&UNPACKED).as_mut() {
            kept.readers = kept.readers.saturating_sub(1);
            kept.used_at = Instant::now();
        }
        RELEASED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;
    use crate::audit::compression::{compress, unhurried};
    use crate::audit::files::log_file;

    fn compressed(dir: &Path, seq: u64, text: &str) -> std::path::PathBuf {
        let path = log_file(dir, seq);
        fs::write(&path, text).unwrap();
        compress(&path, &mut unhurried()).unwrap();
        path
    }

    fn content(file: &LogFile) -> String {
        let mut text = String::new();
        let mut file: &File = file;
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_file_is_found_by_either_name_and_another_one_waits_for_its_readers() {
        let dir = tempfile::tempdir().unwrap();
        let one = compressed(dir.path(), 1, "one\n");
        let two = compressed(dir.path(), 2, "two\n");
        let first = open_log(&one).unwrap().unwrap();
        let same = open_log(&compressed_file(&one)).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first.file, &same.file), "it is decompressed once");
        assert_eq!(content(&first), "one\n");
        let (done, waited) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let second = open_log(&two).unwrap().unwrap();
            done.send(()).unwrap();
            content(&second)
        });
        assert!(waited.try_recv().is_err());
        drop(first);
        assert_eq!(content(&same), "one\n");
        drop(same);
        assert_eq!(thread.join().unwrap(), "two\n");
        assert!(open_log(&log_file(dir.path(), 3)).unwrap().is_none());
        fs::write(compressed_file(&one), "no gzip").unwrap();
        let error = open_log(&one).unwrap_err();
        assert!(error.to_string().contains(".jsonl.gz: it is no gzip file"), "{error}");
    }
}

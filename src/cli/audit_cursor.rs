//! The file with the number of the last record that an export has delivered.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::error::CliError;
use super::files::{file_error, write_file};

/// Version of the file's format.
const VERSION: u32 = 1;
/// Largest file that is read, in bytes.
const MAX_SIZE: u64 = 4096;

/// A cursor file that is open for one export.
#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    seq: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct CursorFile {
    version: u32,
    /// The number of the last record that was delivered.
    seq: u64,
}

impl Cursor {
    /// Reads the file; without one, the export begins with the first record.
    pub(super) fn open(path: &Path) -> Result<Cursor, CliError> {
        let seq = match read(path) {
            Ok(seq) => seq,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(file_error(path, &e)),
        };
        Ok(Cursor { path: path.to_owned(), seq })
    }

    /// The number of the last record that was delivered; 0 before the first.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Checks that the log, whose last record has the number `last`, has the cursor's record or had it.
    ///
    /// # Errors
    /// The log ends before it. What is written from now on would be taken for delivered.
    pub(super) fn check_within(&self, last: u64) -> Result<(), CliError> {
        if self.seq <= last {
            return Ok(());
        }
        Err(CliError::Local(format!(
            "{}: record {} was delivered, and the audit log ends with record {last}: the cursor is of another log, or \
             the log has lost records; remove the cursor to export everything again",
            self.path.display(),
            self.seq
        )))
    }

    /// Notes that all records up to this number are delivered. On disk when this returns.
    pub(super) fn advance(&mut self, seq: u64) -> Result<(), CliError> {
        if seq <= self.seq {
            return Ok(());
        }
        let text = serde_json::to_string(&CursorFile { version: VERSION, seq }).map_err(CliError::local)?;
        write_file(&self.path, format!("{text}\n").as_bytes(), 0o600)?;
        self.seq = seq;
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<u64> {
    let mut text = Vec::new();
    // Never through a link, and without waiting for a FIFO.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() {
        file.take(MAX_SIZE).read_to_end(&mut text)?;
    }
    let cursor: Result<CursorFile, _> = crate::json::from_object(&text);
    match cursor {
        Ok(cursor) if cursor.version == VERSION => Ok(cursor.seq),
        _ => Err(io::Error::other(
            "it is not a cursor of hostbadge audit export; remove it to export everything again",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_cursor_only_advances_and_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor");
        let mut cursor = Cursor::open(&path).unwrap();
        assert_eq!(cursor.seq(), 0);
        cursor.advance(7).unwrap();
        cursor.advance(5).unwrap();
        assert_eq!(Cursor::open(&path).unwrap().seq(), 7);
        for bad in ["", "{}", "7", "{\"version\":2,\"seq\":1}", "{\"version\":1,\"seq\":-1}"] {
            fs::write(&path, bad).unwrap();
            assert!(Cursor::open(&path).is_err(), "{bad}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Cursor::open(&path).is_err());
    }

    #[test]
    fn a_link_and_a_fifo_are_no_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let [target, link, fifo] = ["target", "link", "fifo"].map(|name| dir.path().join(name));
        fs::write(&target, "{\"version\":1,\"seq\":7}").unwrap();
        assert_eq!(Cursor::open(&target).unwrap().seq(), 7);
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(Cursor::open(&link).is_err());
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Cursor::open(&fifo).is_err());
    }

    #[test]
    fn a_cursor_beyond_the_end_of_the_log_is_refused() {
        let cursor = Cursor { path: "c".into(), seq: 7 };
        assert!(cursor.check_within(7).is_ok() && cursor.check_within(8).is_ok());
        assert!(cursor.check_within(6).is_err());
    }
}

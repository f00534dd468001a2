//! The file with the number of the last record that an export has delivered.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

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
    if fs::symlink_metadata(path)?.is_file() {
        File::open(path)?.take(MAX_SIZE).read_to_end(&mut text)?;
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
}

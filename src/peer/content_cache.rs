//! The contents of files and units that agents name, as they are now.
//!
//! A request compares what is on the disk at that moment: it follows the path of a file, which costs a few system
//! calls, and has only a file read that has changed. The files of a unit are looked for on a blocking thread, at
//! most once in a second.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Sha256Digest;
use super::reader::{Readers, Request};
use super::root_file::{FileDigest, FileError, RootFile};
use super::sys::{self, FileId};
use super::unit_files::{UnitFilesError, unit_digest};
use crate::mutex::lock;

/// Largest file, in bytes.
const MAX_FILE_SIZE: u64 = 64 * 1024 * 1024;
/// Digests that are remembered; all are read again when there are more.
const MAX_FILES: usize = 16_384;
/// Files that are read at once.
const MAX_READERS: usize = 4;
/// How long a reader may take for a file, and a request waits for all of its own.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How old the digest of a unit may be.
const UNIT_TTL: Duration = Duration::from_secs(1);
/// Units that are remembered; agents name at most as many as there are agents.
const MAX_UNITS: usize = 10_000;

/// The contents of files and units that agents name, as far as they are known.
#[derive(Debug)]
pub struct ContentCache {
    readers: Readers,
    places: Semaphore,
    digests: Mutex<HashMap<FileId, FileDigest>>,
    units: Mutex<HashMap<String, (Instant, UnitResult)>>,
}

type UnitResult = Result<Sha256Digest, UnitFilesError>;

impl Default for ContentCache {
    fn default() -> Self {
        ContentCache::with_readers(Readers::default())
    }
}

impl ContentCache {
    pub(super) fn with_readers(readers: Readers) -> ContentCache {
        ContentCache {
            readers,
            places: Semaphore::new(MAX_READERS),
            digests: Mutex::default(),
            units: Mutex::default(),
        }
    }

    /// Returns the content of a file that only root can change, and has it read if that is not known.
    ///
    /// # Errors
    /// A [`FileError`], at the latest after 10 s.
    pub async fn file_digest(&self, path: &Path) -> Result<FileDigest, FileError> {
        let file = RootFile::open(path)?;
        if let Some(known) = self.get(&file.id) {
            return Ok(known);
        }
        let read = tokio::time::timeout(READ_TIMEOUT, self.read_file(path, &file)).await;
        read.unwrap_or(Err(FileError::Temporary))
    }

    /// Returns the content of a file if it is known; `None` if the file has to be read.
    ///
    /// # Errors
    /// A [`FileError`].
    pub fn known_file_digest(&self, path: &Path) -> Result<Option<FileDigest>, FileError> {
        RootFile::open(path).map(|file| self.get(&file.id))
    }

    async fn read_file(&self, path: &Path, file: &RootFile) -> Result<FileDigest, FileError> {
        if file.id.size > MAX_FILE_SIZE {
            return Err(FileError::TooLarge);
        }
        let place = self.places.acquire().await.map_err(|_| FileError::Temporary)?;
        // Another request may have been for the same file.
        if let Some(known) = self.get(&file.id) {
            return Ok(known);
        }
        let mount_table = File::open("/proc/self/mountinfo").map_err(|_| FileError::Temporary)?;
        let request = Request {
            size: file.id.size,
            mount_id: sys::mount_id(file.file.as_fd()).map_err(FileError::Kernel)?,
            own_namespace: true,
        };
        let read = self.readers.digest(&request, file.file.as_fd(), mount_table.as_fd(), READ_TIMEOUT);
        let digest = read.await?;
        drop(place);
        // Neither the content nor what the path names has changed meanwhile.
        if RootFile::open(path)?.id != file.id {
            return Err(FileError::Temporary);
        }
        let mut digests = lock(&self.digests);
        if digests.len() >= MAX_FILES {
            digests.clear();
        }
        digests.insert(file.id, digest);
        Ok(digest)
    }

    fn get(&self, id: &FileId) -> Option<FileDigest> {
        lock(&self.digests).get(id).copied()
    }

    /// Returns the digest over the files of a system unit, as they were at most a second ago.
    ///
    /// # Errors
    /// A [`UnitFilesError`].
    pub async fn unit_digest(&self, unit: &str) -> UnitResult {
        if let Some((_, result)) = self.known_unit(unit).filter(|(at, _)| at.elapsed() < UNIT_TTL) {
            return result;
        }
        let (name, at) = (unit.to_owned(), Instant::now());
        let read = tokio::task::spawn_blocking(move || unit_digest(&name)).await;
        let result = read.unwrap_or(Err(UnitFilesError::Missing));
        let mut units = lock(&self.units);
        if units.len() >= MAX_UNITS {
            units.clear();
        }
        units.insert(unit.to_owned(), (at, result.clone()));
        result
    }

    /// Returns the digest of a unit that was returned last.
    pub fn known_unit_digest(&self, unit: &str) -> Option<UnitResult> {
        self.known_unit(unit).map(|(_, result)| result)
    }

    fn known_unit(&self, unit: &str) -> Option<(Instant, UnitResult)> {
        lock(&self.units).get(unit).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_of_a_file_is_noticed_at_the_next_request() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir_in("/var/lib").unwrap();
        let path = dir.path().join("main.py");
        std::fs::write(&path, "one").unwrap();
        let cache = ContentCache::default();
        assert_eq!(cache.known_file_digest(&path), Ok(None));
        let one = cache.file_digest(&path).await.unwrap();
        assert_eq!(one.sha256.0, crate::digest::sha256(b"one"));
        assert_eq!(cache.known_file_digest(&path), Ok(Some(one)));
        std::fs::write(&path, "two").unwrap();
        assert_eq!(cache.file_digest(&path).await.unwrap().sha256.0, crate::digest::sha256(b"two"));
        // Replaced by another file at the path.
        std::fs::write(dir.path().join("new"), "three").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(cache.file_digest(&path).await.unwrap().sha256.0, crate::digest::sha256(b"three"));
        std::fs::File::create(&path).unwrap().set_len(MAX_FILE_SIZE + 1).unwrap();
        assert_eq!(cache.file_digest(&path).await, Err(FileError::TooLarge));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(cache.file_digest(&path).await, Err(FileError::Missing));
    }
}

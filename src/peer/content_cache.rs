//! The contents of files and units that agents name, as they are now.
//!
//! A request compares what is on the disk at that moment: the paths are followed on a blocking thread, since
//! a disk or a file server may be slow, and a file is read only if its inode, size or times are new. The
//! files of a unit are looked for at most once in a second.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
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
/// Files that are remembered.
const MAX_FILES: usize = 16_384;
/// Units that are remembered; agents name at most as many as there are agents.
const MAX_UNITS: usize = 10_000;
/// Blocking threads that follow paths at once.
const MAX_WALKS: usize = 4;
/// Files that are read at once.
const MAX_READS: usize = 4;
/// How long a request waits for the contents of files or of a unit, and a reader may take for one.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How old the digest of a unit may be.
const UNIT_TTL: Duration = Duration::from_secs(1);

/// The contents of files and units that agents name, as far as they are known.
#[derive(Debug)]
pub struct ContentCache {
    readers: Readers,
    /// For those that follow paths. A thread that hangs keeps its own.
    walks: Arc<Semaphore>,
    /// For those that read files.
    reads: Semaphore,
    digests: Mutex<HashMap<FileId, FileDigest>>,
    /// What was found last.
    files: Mutex<HashMap<PathBuf, FileResult>>,
    units: Mutex<HashMap<String, (Instant, UnitResult)>>,
}

type FileResult = Result<FileDigest, FileError>;
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
            walks: Arc::new(Semaphore::new(MAX_WALKS)),
            reads: Semaphore::new(MAX_READS),
            digests: Mutex::default(),
            files: Mutex::default(),
            units: Mutex::default(),
        }
    }

    /// Returns the contents of files that only root can change, in the order of `paths`, and has those read
    /// that are not known. After 10 s, what is missing is [`FileError::Temporary`].
    pub async fn file_digests(&self, paths: &[&Path]) -> Vec<FileResult> {
        let deadline = Instant::now() + TIMEOUT;
        let owned: Vec<PathBuf> = paths.iter().map(|path| (*path).to_owned()).collect();
        let open = move || owned.iter().map(|path| RootFile::open(path)).collect::<Vec<_>>();
        let Some(opened) = self.walk(open).await else { return vec![Err(FileError::Temporary); paths.len()] };
        let mut results = Vec::with_capacity(paths.len());
        for (path, file) in paths.iter().zip(opened) {
            let result = match file {
                Ok(file) => self.digest(path, &file, deadline).await,
                Err(error) => Err(error),
            };
            remember(&self.files, MAX_FILES, path.to_path_buf(), result.clone());
            results.push(result);
        }
        results
    }

    /// Returns what the last request found of a file; `None` if no request has asked for it.
    pub fn known_file_digest(&self, path: &Path) -> Option<FileResult> {
        lock(&self.files).get(path).cloned()
    }

    async fn digest(&self, path: &Path, file: &RootFile, deadline: Instant) -> FileResult {
        if let Some(known) = self.known(&file.id) {
            return Ok(known);
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(remaining, self.read(path, file)).await.unwrap_or(Err(FileError::Temporary))
    }

    async fn read(&self, path: &Path, file: &RootFile) -> FileResult {
        if file.id.size > MAX_FILE_SIZE {
            return Err(FileError::TooLarge);
        }
        let turn = self.reads.acquire().await.map_err(|_| FileError::Temporary)?;
        // Another request may have been for the same file.
        if let Some(known) = self.known(&file.id) {
            return Ok(known);
        }
        let mount_table = File::open("/proc/self/mountinfo").map_err(|_| FileError::Temporary)?;
        let request = Request {
            size: file.id.size,
            mount_id: sys::mount_id(file.file.as_fd()).map_err(FileError::Kernel)?,
            own_namespace: true,
        };
        let digest = self.readers.digest(&request, file.file.as_fd(), mount_table.as_fd(), TIMEOUT).await?;
        drop(turn);
        // Neither the content nor what the path names has changed meanwhile.
        let again = path.to_owned();
        let now = self.walk(move || RootFile::open(&again)).await.ok_or(FileError::Temporary)??;
        if now.id != file.id {
            return Err(FileError::Temporary);
        }
        remember(&self.digests, MAX_FILES, file.id, digest);
        Ok(digest)
    }

    fn known(&self, id: &FileId) -> Option<FileDigest> {
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
        let Some(result) = self.walk(move || unit_digest(&name)).await else {
            return Err(UnitFilesError::Slow);
        };
        remember(&self.units, MAX_UNITS, unit.to_owned(), (at, result.clone()));
        result
    }

    /// Returns the digest of a unit that was returned last.
    pub fn known_unit_digest(&self, unit: &str) -> Option<UnitResult> {
        self.known_unit(unit).map(|(_, result)| result)
    }

    fn known_unit(&self, unit: &str) -> Option<(Instant, UnitResult)> {
        lock(&self.units).get(unit).cloned()
    }

    /// Runs what may wait for a disk on a blocking thread; `None` if it takes longer than 10 s.
    async fn walk<T: Send + 'static>(&self, walk: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let started = async {
            let turn = self.walks.clone().acquire_owned().await.ok()?;
            let walk = move || {
                let _turn = turn;
                walk()
            };
            tokio::task::spawn_blocking(walk).await.ok()
        };
        tokio::time::timeout(TIMEOUT, started).await.ok()?
    }
}

/// Inserts a result. A map that is full is emptied first, which costs each other entry one more look.
fn remember<K: Eq + Hash, V>(map: &Mutex<HashMap<K, V>>, max: usize, key: K, value: V) {
    let mut map = lock(map);
    if map.len() >= max && !map.contains_key(&key) {
        map.clear();
    }
    map.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    async fn file_digest(cache: &ContentCache, path: &Path) -> FileResult {
        cache.file_digests(&[path]).await.swap_remove(0)
    }

    #[tokio::test]
    async fn paths_are_followed_on_a_few_threads_only() {
        let cache = ContentCache::default();
        // A thread whose disk does not answer keeps its permit.
        let held = cache.walks.clone().acquire_many_owned(MAX_WALKS as u32).await.unwrap();
        let mut waiting = pin!(file_digest(&cache, Path::new("/no/such/file")));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(held);
        assert_eq!(waiting.await, Err(FileError::Missing));
    }

    #[tokio::test]
    async fn a_change_of_a_file_is_noticed_at_the_next_request() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir_in("/var/lib").unwrap();
        let path = dir.path().join("main.py");
        std::fs::write(&path, "one").unwrap();
        let cache = ContentCache::default();
        assert_eq!(cache.known_file_digest(&path), None);
        let one = file_digest(&cache, &path).await.unwrap();
        assert_eq!(one.sha256.0, crate::digest::sha256(b"one"));
        assert_eq!(cache.known_file_digest(&path), Some(Ok(one)));
        std::fs::write(&path, "two").unwrap();
        assert_eq!(file_digest(&cache, &path).await.unwrap().sha256.0, crate::digest::sha256(b"two"));
        // Replaced by another file at the path.
        std::fs::write(dir.path().join("new"), "three").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(file_digest(&cache, &path).await.unwrap().sha256.0, crate::digest::sha256(b"three"));
        std::fs::File::create(&path).unwrap().set_len(MAX_FILE_SIZE + 1).unwrap();
        assert_eq!(file_digest(&cache, &path).await, Err(FileError::TooLarge));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file_digest(&cache, &path).await, Err(FileError::Missing));
    }
}

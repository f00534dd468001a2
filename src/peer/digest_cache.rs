//! Digests of executables: those that were computed, and the reads in progress.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::DigestError;
use super::content_cache::ContentCache;
use super::executable::Executable;
use super::read_turns::ReadTurns;
use super::reader::Readers;
use super::sha256_digest::Sha256Digest;
use super::sys::FileId;
use crate::mutex::lock;

/// Executables above this size, in bytes, have no digest, so that a caller cannot keep a reader busy for
/// minutes.
const MAX_FILE_SIZE: u64 = 2 * 1024 * 1024 * 1024;
const MAX_CACHED_DIGESTS: usize = 4096;
/// A request waits this long for a digest. The read may continue, and the next request finds its result in
/// the cache.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A reader may take this long, and a second more for each [`BYTES_PER_SECOND`] of the file.
const MIN_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A file that could not be read is not read in the background again for this time.
const FAILURE_TTL: Duration = Duration::from_secs(60);
/// A slow disk under load, in bytes a second.
const BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// Cache of computed digests, at most 4096, and the readers that compute them. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct DigestCache(Arc<CacheState>);

#[derive(Debug, Default)]
struct CacheState {
    digests: Mutex<HashMap<FileId, Sha256Digest>>,
    /// Reads in progress, by user and file: all requests for a file wait for the same read. A user's own,
    /// since the result depends on the namespaces of the process that is read.
    reads: Mutex<HashMap<(u32, FileId), ReadResult>>,
    /// When reads failed, by user and file, so that a digest that no condition needs is not tried for each
    /// request.
    failed: Mutex<HashMap<(u32, FileId), Instant>>,
    turns: ReadTurns,
    readers: Readers,
    contents: ContentCache,
}

/// `None` until the read has ended.
type ReadResult = watch::Receiver<Option<Result<Sha256Digest, DigestError>>>;

impl DigestCache {
    /// An empty cache whose digests these readers compute.
    pub fn with_readers(readers: Readers) -> DigestCache {
        let contents = ContentCache::with_readers(readers.clone());
        DigestCache(Arc::new(CacheState { readers, contents, ..CacheState::default() }))
    }

    /// The contents of files and units, which the same readers read.
    pub fn contents(&self) -> &ContentCache {
        &self.0.contents
    }

    /// Returns the digest of an executable if it was computed before. Otherwise starts to read the file in
    /// the background, unless its user already waits for another one, so that a later request may find it.
    pub(super) fn known(&self, exe: &Arc<Executable>) -> Option<Sha256Digest> {
        let known = exe.digest().or_else(|| self.get(exe.id()).map(|digest| exe.set_digest(digest)));
        if known.is_none() && !self.has_failed(exe) && self.0.turns.is_idle(exe.uid()) {
            // The read puts its result into the cache.
            let _ = self.join_read(exe);
        }
        known
    }

    /// Whether the digest of an executable was computed before.
    pub(super) fn has(&self, exe: &Executable) -> bool {
        exe.digest().is_some() || self.get(exe.id()).is_some()
    }

    /// Whether a read of this file has failed shortly before.
    fn has_failed(&self, exe: &Executable) -> bool {
        lock(&self.0.failed).get(&(exe.uid(), *exe.id())).is_some_and(|at| at.elapsed() < FAILURE_TTL)
    }

    /// Returns the digest of an executable, and has it read if it is not known.
    ///
    /// # Errors
    /// A [`DigestError`], at the latest after 10 s.
    pub(super) async fn digest(&self, exe: &Arc<Executable>) -> Result<Sha256Digest, DigestError> {
        if let Some(digest) = exe.digest() {
            return Ok(digest);
        }
        let digest = match self.get(exe.id()) {
            Some(digest) => digest,
            None => self.wait_for_read(exe).await?,
        };
        Ok(exe.set_digest(digest))
    }

    async fn wait_for_read(&self, exe: &Arc<Executable>) -> Result<Sha256Digest, DigestError> {
        let mut read = self.join_read(exe)?;
        let ended = tokio::time::timeout(DIGEST_TIMEOUT, read.wait_for(Option::is_some)).await;
        let result = match ended.map_err(|_| DigestError::Slow)?.as_deref() {
            Ok(Some(result)) => result.clone(),
            // The task of the read was dropped without a result.
            _ => Err(DigestError::NoReader),
        };
        // The process may have executed another program meanwhile.
        result.and_then(|digest| if exe.is_running() { Ok(digest) } else { Err(DigestError::Changed) })
    }

    fn get(&self, id: &FileId) -> Option<Sha256Digest> {
        lock(&self.0.digests).get(id).copied()
    }

    /// Returns the read of an executable, which is started if there is none.
    fn join_read(&self, exe: &Arc<Executable>) -> Result<ReadResult, DigestError> {
        if exe.id().size > MAX_FILE_SIZE {
            return Err(DigestError::TooLarge);
        }
        let key = (exe.uid(), *exe.id());
        match lock(&self.0.reads).entry(key) {
            Entry::Occupied(read) => Ok(read.get().clone()),
            Entry::Vacant(place) => {
                let (sender, receiver) = watch::channel(None);
                place.insert(receiver.clone());
                let (cache, exe) = (self.clone(), exe.clone());
                tokio::spawn(async move {
                    let entry = ReadEntry { cache: &cache, key };
                    let result = cache.read(&exe).await;
                    // A request that comes now finds the digest in the cache.
                    drop(entry);
                    sender.send_replace(Some(result));
                });
                Ok(receiver)
            }
        }
    }

    async fn read(&self, exe: &Executable) -> Result<Sha256Digest, DigestError> {
        let turn = self.0.turns.wait(exe.uid()).await?;
        // Another user's read may have been for the same file.
        if let Some(digest) = self.get(exe.id()) {
            return Ok(digest);
        }
        let deadline = MIN_READ_TIMEOUT + Duration::from_secs(exe.id().size / BYTES_PER_SECOND);
        let result = exe.read(&self.0.readers, deadline).await;
        if result != Err(DigestError::NoReader) {
            self.0.turns.report(exe.uid(), result != Err(DigestError::Slow));
        }
        drop(turn);
        if result.is_err() {
            let mut failed = lock(&self.0.failed);
            if failed.len() >= MAX_CACHED_DIGESTS {
                failed.clear();
            }
            failed.insert((exe.uid(), *exe.id()), Instant::now());
        }
        let digest = result?;
        let mut digests = lock(&self.0.digests);
        // One user can fill the cache with new files in half an hour. Clearing it costs every other
        // executable one more read, and the pace of `read_turns.rs` bounds how often.
        if digests.len() >= MAX_CACHED_DIGESTS {
            digests.clear();
        }
        digests.insert(*exe.id(), digest);
        Ok(digest)
    }
}

/// Removes a read from the reads in progress when it ends, also when its task is dropped.
struct ReadEntry<'a> {
    cache: &'a DigestCache,
    key: (u32, FileId),
}

impl Drop for ReadEntry<'_> {
    fn drop(&mut self) {
        lock(&self.cache.0.reads).remove(&self.key);
    }
}

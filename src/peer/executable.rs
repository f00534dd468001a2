//! The executable of a process and its SHA-256 digest.
//!
//! The digest is computed from the open `/proc/PID/exe`. A file renamed over the executable, or a path that
//! names another file in the caller's mount namespace, therefore has no effect. Digests are cached by mount,
//! device, inode, size, mtime and ctime.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use serde::{Serialize, Serializer};
use tokio::sync::Semaphore;

use super::sys::{self, FileId};

/// Executables above this size, in bytes, have no digest, so that a caller cannot keep a reader busy for
/// minutes.
const MAX_FILE_SIZE: u64 = 2 * 1024 * 1024 * 1024;
const MAX_CACHED_DIGESTS: usize = 4096;
/// Limits concurrent reads, so that unknown callers cannot fill the disk's request queue.
const MAX_CONCURRENT_READS: usize = 2;
/// A request waits this long for a digest. The read continues, and the next request finds its result in the
/// cache.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(10);

/// SHA-256 digest of an executable. Displayed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest(
    /// The digest's bytes.
    pub [u8; 32],
);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        data_encoding::HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::str::FromStr for Sha256Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Sha256Digest)
            .ok_or(ParseDigestError)
    }
}

/// The text is not a SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 hexadecimal digits, as sha256sum prints them")]
pub struct ParseDigestError;

/// The executable of one process at the time of one snapshot.
#[derive(Debug)]
pub struct Executable {
    /// Target of the link `/proc/PID/exe`.
    pub path: PathBuf,
    id: FileId,
    /// Stays open until the digest is known, because only this descriptor is certain to be the running file.
    file: Mutex<Option<File>>,
    digest: OnceLock<Sha256Digest>,
}

impl Executable {
    /// Opens `exe` below the `/proc` directory of a process. Returns `None` if permission is denied or if the
    /// file is no longer the one that the snapshot identified as `id`.
    pub fn open(process: BorrowedFd<'_>, id: FileId) -> Option<Executable> {
        let path = PathBuf::from(readlinkat(process, "exe").ok()?);
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file: OwnedFd = openat(process, "exe", flags, Mode::empty()).ok()?;
        let file = File::from(file);
        let is_same_file = sys::file_id(std::os::fd::AsFd::as_fd(&file), c"").ok()? == id;
        is_same_file.then(|| Executable { path, id, file: Mutex::new(Some(file)), digest: OnceLock::new() })
    }

    /// Returns the digest if it was computed before.
    pub fn cached_digest(&self) -> Option<Sha256Digest> {
        self.digest.get().copied()
    }

    /// Returns the digest if it is known without reading the file.
    pub fn known_digest(&self, cache: &DigestCache) -> Option<Sha256Digest> {
        self.cached_digest().or_else(|| cache.get(&self.id).map(|digest| self.set_digest(digest)))
    }

    /// Returns the digest, and reads the file if the digest is not cached. Returns `None` if reading fails,
    /// the file is too large, or the read takes longer than 10 s.
    pub async fn digest(&self, cache: &DigestCache) -> Option<Sha256Digest> {
        if let Some(digest) = self.known_digest(cache) {
            return Some(digest);
        }
        if self.id.size > MAX_FILE_SIZE {
            return None;
        }
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.try_clone().ok()?;
        let digest = tokio::time::timeout(DIGEST_TIMEOUT, cache.compute(file, self.id)).await.ok()??;
        Some(self.set_digest(digest))
    }

    fn set_digest(&self, digest: Sha256Digest) -> Sha256Digest {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        *self.digest.get_or_init(|| digest)
    }
}

/// Cache of computed digests, at most 4096. Clones share the cache.
#[derive(Clone, Debug)]
pub struct DigestCache {
    entries: Arc<Mutex<HashMap<FileId, Sha256Digest>>>,
    read_permits: Arc<Semaphore>,
}

impl Default for DigestCache {
    fn default() -> Self {
        DigestCache { entries: Arc::default(), read_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)) }
    }
}

impl DigestCache {
    fn get(&self, id: &FileId) -> Option<Sha256Digest> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    /// Reads `file` on a blocking thread and caches the digest, unless the file changed during the read.
    async fn compute(&self, file: File, id: FileId) -> Option<Sha256Digest> {
        let permit = self.read_permits.clone().acquire_owned().await.ok()?;
        // Another request may have computed it while this one waited for a permit.
        if let Some(digest) = self.get(&id) {
            return Some(digest);
        }
        let entries = self.entries.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let digest = hash_file(&file, id.size)?;
            let unchanged = sys::file_id(std::os::fd::AsFd::as_fd(&file), c"").ok()? == id;
            if !unchanged {
                return None;
            }
            let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
            // Clearing is acceptable because it is rare: only a host with thousands of executables gets here.
            if entries.len() >= MAX_CACHED_DIGESTS {
                entries.clear();
            }
            entries.insert(id, digest);
            Some(digest)
        });
        task.await.ok()?
    }
}

fn hash_file(file: &File, size: u64) -> Option<Sha256Digest> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    let mut reader = file.take(size + 1);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => context.update(&buffer[..length]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    context.finish().as_ref().try_into().ok().map(Sha256Digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_sha256sum_output() {
        let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(hex.parse::<Sha256Digest>().unwrap().to_string(), hex);
        assert_eq!(hex.to_uppercase().parse::<Sha256Digest>().unwrap().to_string(), hex);
        assert!("9f86".parse::<Sha256Digest>().is_err());
        assert!("z".repeat(64).parse::<Sha256Digest>().is_err());
    }
}

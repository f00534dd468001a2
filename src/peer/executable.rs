//! Which program a process runs, and its digest.
//!
//! The digest is of the open `/proc/PID/exe`, so a file that was renamed over, or a path that means something else in
//! the caller's mount namespace, changes nothing. It is kept by device, inode, size, mtime and ctime.

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

/// No interpreter or agent is larger; beyond, the digest is given as unknown.
const MAX_FILE_SIZE: u64 = 2 * 1024 * 1024 * 1024;
/// How many digests are kept.
const MAX_CACHED_DIGESTS: usize = 4096;
/// How many files are read at once, so that strangers cannot fill the disk's queue.
const MAX_CONCURRENT_READS: usize = 2;
/// How long a caller waits for a digest. The reading goes on, and the next request finds its result.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(10);

/// SHA-256 of an executable. Shown as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

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
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Sha256Digest)
            .ok_or("a SHA-256 digest is 64 hexadecimal digits, as sha256sum prints them")
    }
}

/// The executable of one process at one moment.
#[derive(Debug)]
pub struct Executable {
    pub path: PathBuf,
    id: FileId,
    /// Held open until the digest is known, for it alone is certain to be the file that runs.
    file: Mutex<Option<File>>,
    digest: OnceLock<Sha256Digest>,
}

impl Executable {
    /// Opens `exe` below a process's directory. None where we lack the right, or it is not the file seen before.
    pub fn open(process: BorrowedFd<'_>, id: FileId) -> Option<Executable> {
        let path = PathBuf::from(readlinkat(process, "exe").ok()?);
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file: OwnedFd = openat(process, "exe", flags, Mode::empty()).ok()?;
        let file = File::from(file);
        let is_same_file = sys::file_id(std::os::fd::AsFd::as_fd(&file), c"").ok()? == id;
        is_same_file.then(|| Executable { path, id, file: Mutex::new(Some(file)), digest: OnceLock::new() })
    }

    /// The digest, if it is known already.
    pub fn cached_digest(&self) -> Option<Sha256Digest> {
        self.digest.get().copied()
    }

    /// The digest, read from the file where it is not known yet. None where that fails or takes too long.
    pub async fn digest(&self, cache: &DigestCache) -> Option<Sha256Digest> {
        if let Some(digest) = self.cached_digest() {
            return Some(digest);
        }
        if let Some(digest) = cache.get(&self.id) {
            return Some(self.set_digest(digest));
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

/// Digests of files read before. Cheap to clone.
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

    /// Reads `file` off the road and keeps the digest, unless the file changed under the reading.
    async fn compute(&self, file: File, id: FileId) -> Option<Sha256Digest> {
        let permit = self.read_permits.clone().acquire_owned().await.ok()?;
        // Somebody else may have read it while we waited.
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
            // Dropping everything is crude and rare: a host with thousands of executables reads them again.
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

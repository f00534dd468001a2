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
const LARGEST: u64 = 2 * 1024 * 1024 * 1024;
/// How many digests are kept.
const KEPT: usize = 4096;
/// How many files are read at once, so that strangers cannot fill the disk's queue.
const READERS: usize = 2;
/// How long a caller waits for a digest. The reading goes on, and the next request finds its result.
const PATIENCE: Duration = Duration::from_secs(10);

/// SHA-256 of an executable. Shown as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        data_encoding::HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::str::FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Digest)
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
    digest: OnceLock<Digest>,
}

impl Executable {
    /// Opens `exe` below a process's directory. None where we lack the right, or it is not the file seen before.
    pub fn open(process: BorrowedFd<'_>, id: FileId) -> Option<Executable> {
        let path = PathBuf::from(readlinkat(process, "exe").ok()?);
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file: OwnedFd = openat(process, "exe", flags, Mode::empty()).ok()?;
        let file = File::from(file);
        let same = sys::file_id(std::os::fd::AsFd::as_fd(&file), c"").ok()? == id;
        same.then(|| Executable { path, id, file: Mutex::new(Some(file)), digest: OnceLock::new() })
    }

    /// The digest, if it is known already.
    pub fn known_digest(&self) -> Option<Digest> {
        self.digest.get().copied()
    }

    /// The digest, read from the file where it is not known yet. None where that fails or takes too long.
    pub async fn digest(&self, digests: &Digests) -> Option<Digest> {
        if let Some(digest) = self.known_digest() {
            return Some(digest);
        }
        if let Some(digest) = digests.get(&self.id) {
            return Some(self.keep(digest));
        }
        if self.id.size > LARGEST {
            return None;
        }
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.try_clone().ok()?;
        let digest = tokio::time::timeout(PATIENCE, digests.read(file, self.id)).await.ok()??;
        Some(self.keep(digest))
    }

    fn keep(&self, digest: Digest) -> Digest {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        *self.digest.get_or_init(|| digest)
    }
}

/// Digests of files read before. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Digests {
    known: Arc<Mutex<HashMap<FileId, Digest>>>,
    readers: Arc<Semaphore>,
}

impl Default for Digests {
    fn default() -> Self {
        Digests { known: Arc::default(), readers: Arc::new(Semaphore::new(READERS)) }
    }
}

impl Digests {
    fn get(&self, id: &FileId) -> Option<Digest> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    /// Reads `file` off the road and keeps the digest, unless the file changed under the reading.
    async fn read(&self, file: File, id: FileId) -> Option<Digest> {
        let permit = self.readers.clone().acquire_owned().await.ok()?;
        // Somebody else may have read it while we waited.
        if let Some(digest) = self.get(&id) {
            return Some(digest);
        }
        let known = self.known.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let digest = digest(&file, id.size)?;
            let unchanged = sys::file_id(std::os::fd::AsFd::as_fd(&file), c"").ok()? == id;
            if !unchanged {
                return None;
            }
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            // Dropping everything is crude and rare: a host with thousands of executables reads them again.
            if known.len() >= KEPT {
                known.clear();
            }
            known.insert(id, digest);
            Some(digest)
        });
        reading.await.ok()?
    }
}

fn digest(file: &File, size: u64) -> Option<Digest> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    let mut bounded = file.take(size + 1);
    loop {
        match bounded.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => context.update(&buffer[..length]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    context.finish().as_ref().try_into().ok().map(Digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_sha256sum_prints_them() {
        let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(hex.parse::<Digest>().unwrap().to_string(), hex);
        assert_eq!(hex.to_uppercase().parse::<Digest>().unwrap().to_string(), hex);
        assert!("9f86".parse::<Digest>().is_err());
        assert!("z".repeat(64).parse::<Digest>().is_err());
    }
}

//! The executable of a process and its SHA-256 digest.
//!
//! The digest is computed from `/proc/PID/exe` itself. A file renamed over the executable, or a path that
//! names another file in the caller's mount namespace, therefore has no effect. Digests are cached by mount,
//! device, inode, size, mtime and ctime.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::fcntl::{OFlag, openat, readlink, readlinkat};
use nix::sys::stat::Mode;

use super::DigestError;
use super::reader::{Readers, Request};
use super::sha256_digest::Sha256Digest;
use super::sys::{self, FileId};
use crate::digest::sha256;

/// The executable of one process at the time of one snapshot. It is not open: only a condition on its digest
/// has it read.
#[derive(Debug)]
pub struct Executable {
    /// Target of the link `/proc/PID/exe`.
    pub path: PathBuf,
    id: FileId,
    uid: u32,
    /// `/proc/PID` of the process.
    process: Arc<OwnedFd>,
    digest: OnceLock<Sha256Digest>,
}

impl Executable {
    /// The executable of the process whose `/proc` directory is `process`, and whose effective user is `uid`.
    /// Asks nothing of the file system that it is on. Returns `None` if permission is denied or if the file
    /// is no longer the one that the snapshot identified as `id`.
    pub fn from_process(process: &Arc<OwnedFd>, id: FileId, uid: u32) -> Option<Executable> {
        let path = PathBuf::from(readlinkat(&**process, "exe").ok()?);
        let exe = Executable { path, id, uid, process: process.clone(), digest: OnceLock::new() };
        exe.is_running().then_some(exe)
    }

    /// This test's own executable under another path.
    #[cfg(test)]
    pub(super) fn of_test(path: PathBuf) -> Executable {
        let process =
            nix::fcntl::open("/proc/self", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let id = sys::file_id(process.as_fd(), c"exe").unwrap();
        Executable { path, id, uid: 0, process: Arc::new(process), digest: OnceLock::new() }
    }

    /// Identifies the file.
    pub(super) fn id(&self) -> &FileId {
        &self.id
    }

    /// A digest of what distinguishes the file from another one at the same path, also after a start of the host:
    /// the numbers of mounts and devices may be others then.
    pub(super) fn file_digest(&self) -> [u8; 8] {
        let FileId { inode, size, mtime, ctime, .. } = self.id;
        digest_of([inode, size, mtime.0 as u64, mtime.1.into(), ctime.0 as u64, ctime.1.into()])
    }

    /// A digest of what identifies the file until the host is started again, also after its name was removed: that
    /// changes the ctime.
    pub(super) fn lasting_digest(&self) -> [u8; 8] {
        let FileId { device: (major, minor), inode, size, mtime, .. } = self.id;
        digest_of([major.into(), minor.into(), inode, size, mtime.0 as u64, mtime.1.into()])
    }

    /// The user of the process.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns the digest if it was set.
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.digest.get().copied()
    }

    /// Keeps the digest of this file.
    pub(super) fn set_digest(&self, digest: Sha256Digest) -> Sha256Digest {
        *self.digest.get_or_init(|| digest)
    }

    /// Whether the process still runs this file, unmodified.
    pub(super) fn is_running(&self) -> bool {
        sys::file_id(self.process.as_fd(), c"exe") == Ok(self.id)
    }

    /// Has a reader compute the digest. Nothing here waits for the file system: O_PATH opens no file, and the
    /// reader is another process.
    pub(super) async fn read(
        &self,
        readers: &Readers,
        deadline: Duration,
    ) -> Result<Sha256Digest, DigestError> {
        let open =
            |name: &str, flags: OFlag| openat(&*self.process, name, flags | OFlag::O_CLOEXEC, Mode::empty());
        let file = open("exe", OFlag::O_PATH).map_err(|_| DigestError::Changed)?;
        let is_same_file = || sys::file_id(file.as_fd(), c"") == Ok(self.id);
        if !is_same_file() {
            return Err(DigestError::Changed);
        }
        let mount_table = open("mountinfo", OFlag::O_RDONLY).map_err(|_| DigestError::Changed)?;
        let request = Request {
            size: self.id.size,
            mount_id: sys::mount_id(file.as_fd()).map_err(|_| DigestError::Unreadable)?,
            own_namespace: self.is_in_own_user_namespace(),
        };
        let digest = readers.digest(&request, file.as_fd(), mount_table.as_fd(), deadline).await?;
        if is_same_file() { Ok(digest.sha256) } else { Err(DigestError::Changed) }
    }

    /// Whether the process is in the daemon's user namespace: in another one, its user can be privileged and
    /// mount file systems.
    fn is_in_own_user_namespace(&self) -> bool {
        let own = readlink("/proc/self/ns/user");
        own.is_ok() && own == readlinkat(&*self.process, "ns/user")
    }
}

/// The first 64 bits of the SHA-256 digest of these numbers.
fn digest_of(numbers: [u64; 6]) -> [u8; 8] {
    let mut bytes = [0; 48];
    for (chunk, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        chunk.copy_from_slice(&number.to_be_bytes());
    }
    let digest = sha256(&bytes);
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn removing_the_name_of_a_file_changes_its_version_and_not_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        fs::write(&path, "program").unwrap();
        let file = fs::File::open(&path).unwrap();
        let executable = || Executable {
            id: sys::file_id(file.as_fd(), c"").unwrap(),
            ..Executable::of_test(path.clone())
        };
        let before = executable();
        let digests = |id: FileId| {
            let executable = Executable { id, ..executable() };
            (executable.file_digest(), executable.lasting_digest())
        };
        let later = FileId { ctime: (before.id.ctime.0 + 1, 0), ..before.id };
        assert_ne!(digests(before.id).0, digests(later).0);
        assert_eq!(digests(before.id).1, digests(later).1);
        fs::remove_file(&path).unwrap();
        assert_eq!(executable().lasting_digest(), before.lasting_digest());
        let other = FileId { device: (before.id.device.0, before.id.device.1 + 1), ..before.id };
        assert_ne!(digests(before.id).1, digests(other).1);
        for id in [
            FileId { inode: before.id.inode + 1, ..before.id },
            FileId { size: before.id.size + 1, ..before.id },
            FileId { mtime: (before.id.mtime.0, before.id.mtime.1 + 1), ..before.id },
        ] {
            assert_ne!(digests(before.id).1, digests(id).1);
        }
    }
}

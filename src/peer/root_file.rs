//! Files that only root, or the daemon's own user, can change.
//!
//! The daemon opens no file that a user's program may serve: an open(2) of it could hang for ever. So a path
//! is followed from the root, one directory at a time, with O_PATH, and only as long as no other user can
//! change what is there or mount a file system on it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::sys::{self, FileId, Ownership};
use super::{DigestError, Sha256Digest};

/// A file, opened with O_PATH, that no other user can change.
#[derive(Debug)]
pub(super) struct RootFile {
    pub(super) file: OwnedFd,
    pub(super) id: FileId,
}

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// SHA-256 of the content.
    pub sha256: Sha256Digest,
    /// Whether the file has fs-verity, so that the kernel compares each page that it reads, and not even root
    /// can change the content.
    pub has_verity: bool,
}

/// Why the content of a file is not known. The text follows the path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("does not exist")]
    Missing,
    /// Another user can change the file, or replace it.
    #[error("can be changed by others: {} {reason}; only root may change it and each directory above it", .path.display())]
    NotRoots {
        /// The file, or a directory above it.
        path: PathBuf,
        /// Who may change it.
        reason: String,
    },
    /// The path is a link, or leads through one.
    #[error("leads through the symbolic link {}; name the file itself", .0.display())]
    Link(PathBuf),
    /// It is a directory, a device or the like.
    #[error("is not a regular file")]
    NotRegular,
    /// The daemon may not look it up.
    #[error("cannot be looked up ({0})")]
    Kernel(Errno),
    /// It has more than 64 MiB.
    #[error("is larger than 64 MiB")]
    TooLarge,
    /// It is on FUSE or the like.
    #[error("is on a file system ({0}) that is not known to store its content itself")]
    UserServed(String),
    /// A reader may not read it, or reading failed.
    #[error("cannot be read; make it readable for all users")]
    Unreadable,
    /// It was changed meanwhile, or there is no reader, or reading took too long.
    #[error("cannot be read now; retry")]
    Temporary,
}

/// Checks that the daemon may rely on a file: no user but root, or that of this process, can change it.
///
/// # Errors
/// A [`FileError`].
pub fn check_root_file(path: &Path) -> Result<(), FileError> {
    RootFile::open(path).map(drop)
}

impl From<DigestError> for FileError {
    fn from(error: DigestError) -> FileError {
        match error {
            DigestError::TooLarge => FileError::TooLarge,
            DigestError::UserServed(fs_type) | DigestError::ForeignNamespace(fs_type) => {
                FileError::UserServed(fs_type)
            }
            error if error.is_temporary() => FileError::Temporary,
            _ => FileError::Unreadable,
        }
    }
}

impl RootFile {
    /// Follows an absolute path. Waits for no file system that another user could serve.
    pub(super) fn open(path: &Path) -> Result<RootFile, FileError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut so_far = PathBuf::from("/");
        let mut current = open("/", flags | OFlag::O_DIRECTORY, Mode::empty()).map_err(FileError::Kernel)?;
        let mut kind = check(&current, &so_far)?;
        for component in path.components().skip(1) {
            let Component::Normal(name) = component else { return Err(FileError::Missing) };
            if kind != libc::S_IFDIR {
                return Err(FileError::Missing);
            }
            so_far.push(name);
            current = openat(&current, name, flags, Mode::empty()).map_err(|errno| match errno {
                Errno::ENOENT | Errno::ENOTDIR => FileError::Missing,
                errno => FileError::Kernel(errno),
            })?;
            kind = check(&current, &so_far)?;
        }
        if kind != libc::S_IFREG {
            return Err(FileError::NotRegular);
        }
        let id = sys::file_id(current.as_fd(), c"").map_err(FileError::Kernel)?;
        Ok(RootFile { file: current, id })
    }
}

/// Returns the type of a file or directory that no other user can change.
fn check(file: &OwnedFd, path: &Path) -> Result<u32, FileError> {
    let Ownership { mode, uid, gid } = sys::ownership(file.as_fd()).map_err(FileError::Kernel)?;
    let kind = mode & libc::S_IFMT;
    if kind == libc::S_IFLNK {
        return Err(FileError::Link(path.to_owned()));
    }
    let (own_uid, own_gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let reason = if uid != 0 && uid != own_uid {
        format!("is owned by uid {uid}")
    } else if mode & 0o002 != 0 {
        "is writable by all users".to_owned()
    } else if mode & 0o020 != 0 && gid != 0 && gid != own_gid {
        // An entry of an access control list shows in these bits too.
        format!("is writable by group {gid}, or by an access control list")
    } else {
        return Ok(kind);
    };
    Err(FileError::NotRoots { path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Not below `/tmp`, into which everyone writes.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/var/lib").unwrap()
    }

    #[test]
    fn a_file_is_opened_only_where_no_other_user_can_change_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = directory();
        let (below, file) = (dir.path().join("a"), dir.path().join("a/main.py"));
        fs::create_dir(&below).unwrap();
        assert_eq!(RootFile::open(&file).unwrap_err(), FileError::Missing);
        fs::write(&file, "print()").unwrap();
        assert_eq!(RootFile::open(&file).unwrap().id.size, 7);
        assert_eq!(RootFile::open(&below).unwrap_err(), FileError::NotRegular);
        assert_eq!(RootFile::open(&file.join("x")).unwrap_err(), FileError::Missing);
        assert_eq!(RootFile::open(&below.join("../a/main.py")).unwrap_err(), FileError::Missing);
        for path in [&file, &below] {
            let before = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
            let error = RootFile::open(&file).unwrap_err();
            let expected = format!("{} is writable by all users", path.display());
            assert!(error.to_string().contains(&expected), "{error}");
            fs::set_permissions(path, Permissions::from_mode(0o775)).unwrap();
            std::os::unix::fs::chown(path, Some(0), Some(4711)).unwrap();
            assert!(RootFile::open(&file).unwrap_err().to_string().contains("writable by group 4711"));
            std::os::unix::fs::chown(path, Some(4711), Some(0)).unwrap();
            assert!(RootFile::open(&file).unwrap_err().to_string().contains("is owned by uid 4711"));
            std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
            fs::set_permissions(path, before).unwrap();
        }
        assert!(RootFile::open(&file).is_ok());
        symlink(&below, dir.path().join("link")).unwrap();
        symlink(&file, below.join("link.py")).unwrap();
        for link in ["link/main.py", "a/link.py"] {
            let error = RootFile::open(&dir.path().join(link)).unwrap_err();
            assert!(matches!(error, FileError::Link(_)), "{link}: {error}");
        }
        let in_tmp = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        assert!(matches!(RootFile::open(in_tmp.path()).unwrap_err(), FileError::NotRoots { .. }));
    }
}

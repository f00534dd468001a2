//! Why the digest of an executable is not known.

use std::time::Duration;

/// Why the digest of a process's executable is not known. The text follows "this process would be agent …,
/// but".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The daemon may not read `/proc/PID/exe`.
    #[error(
        "its executable cannot be read, so its digest is not known; \
         an administrator can install the drop-in executables.conf, see hostbadged(8)"
    )]
    NoPermission,
    /// The reader may not read the file, or reading failed.
    #[error(
        "its executable cannot be read, so its digest is not known; make the file readable for all users"
    )]
    Unreadable,
    /// The file has more than 2 GiB.
    #[error("its executable is larger than 2 GiB, so its digest is not computed")]
    TooLarge,
    /// The file system is not one of those that are known to store their content themselves.
    #[error(
        "its executable is on a file system ({0}) that is not known to store its content itself, as FUSE is; \
         install it on another one, such as ext4 or xfs"
    )]
    UserServed(String),
    /// The file is on a file system that was mounted in another user namespace, on top of another one.
    #[error(
        "its executable is on a file system ({0}) that was mounted in another user namespace, \
         on top of one that its own user may serve; install it on a disk"
    )]
    ForeignNamespace(String),
    /// The file is on no mount of the process's mount namespace.
    #[error(
        "its executable is on no mount of its mount namespace, as a file in memory is; install it on a disk"
    )]
    NotMounted,
    /// The list of mounts exceeds the reader's bounds.
    #[error("its mount namespace has too many mounts to find the file system of its executable")]
    TooManyMounts,
    /// The process executed another program, or the file was written to.
    #[error("its executable changed while it was read; retry")]
    Changed,
    /// The request has waited long enough. The read may go on, for the next request.
    #[error("its executable takes longer than 10 s to read; retry")]
    Slow,
    /// Too many other executables of this user wait to be read.
    #[error("too many other executables of its user wait to be read; retry")]
    Busy,
    /// A read for this user did not end in time.
    #[error(
        "an executable of its user could not be read in time; the next one is read in {} s",
        .0.as_secs() + 1
    )]
    Blocked(Duration),
    /// There is no process that could read the file.
    #[error(
        "the process that reads executables is not available; \
         see \"systemctl status hostbadge-reader.socket\""
    )]
    NoReader,
}

impl DigestError {
    /// Whether the same request may succeed later without a change of the process or its executable.
    pub fn is_temporary(&self) -> bool {
        match self {
            DigestError::Changed
            | DigestError::Slow
            | DigestError::Busy
            | DigestError::Blocked(_)
            | DigestError::NoReader => true,
            DigestError::NoPermission
            | DigestError::Unreadable
            | DigestError::TooLarge
            | DigestError::UserServed(_)
            | DigestError::ForeignNamespace(_)
            | DigestError::NotMounted
            | DigestError::TooManyMounts => false,
        }
    }
}

//! One lookup, and the local files that lookups read.

use std::os::unix::fs::MetadataExt;

use nix::unistd::{Group, User};

use super::lookup_error::LookupError;
use super::table::Name;

/// The files of the name service "files". Their change makes names be looked up again at once.
const LOCAL_FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// Looks a name up with getpwnam_r(3) or getgrnam_r(3); `None` if there is no such name. Blocking: the name
/// service may query a directory server.
///
/// # Errors
/// Why the name service gave no answer. glibc reports a missing name without an error, so ENOENT is an error
/// too: modules of directory servers return it if their server does not run.
pub(super) fn lookup(name: &Name) -> Result<Option<u32>, LookupError> {
    let number = match name {
        Name::User(name) => User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())),
        Name::Group(name) => Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())),
    };
    Ok(number?)
}

/// A version of the local files: device, inode, size, mtime and ctime of each. `None` where a file is
/// missing.
pub(super) type LocalVersion = [Option<(u64, u64, u64, (i64, i64), (i64, i64))>; 2];

/// The version of the local files now.
pub(super) fn local_version() -> LocalVersion {
    LOCAL_FILES.map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        let (mtime, ctime) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        Some((meta.dev(), meta.ino(), meta.size(), mtime, ctime))
    })
}

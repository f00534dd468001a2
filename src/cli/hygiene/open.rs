//! Opens files without following links, and nothing but regular files.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Finds a file below a directory, or at a path, without opening it: a device is not touched, and the last part of
/// the path may be a link, which is found itself.
pub(super) fn find(dir: Option<&File>, name: &OsStr) -> io::Result<File> {
    let path = dir.map_or_else(|| PathBuf::from(name), |dir| own_path(dir).join(name));
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

/// Opens a regular file that was found.
pub(super) fn open(found: &File) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(own_path(found))
}

/// The names in a directory that was found, in alphabetical order, at most `max`; whether there are more.
pub(super) fn names(found: &File, max: usize) -> io::Result<(Vec<std::ffi::OsString>, bool)> {
    let mut names = Vec::new();
    for entry in fs::read_dir(own_path(found))? {
        if names.len() >= max {
            return Ok((names, true));
        }
        names.push(entry?.file_name());
    }
    names.sort();
    Ok((names, false))
}

/// The path of an open file of this process.
fn own_path(file: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

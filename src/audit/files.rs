//! Names of the audit log's files: `N.jsonl` has the lines from number N on, `N.jsonl.gz` the same compressed, and
//! `N.torn-K` what was set aside from it. Only regular files with such names are used.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::verify::audit::{beside, compressed_file, is_log_name, log_file_name};

pub(super) use crate::verify::audit::first_seq;

/// Prefix of the extension of what was set aside.
const TORN_PREFIX: &str = "torn-";

/// Returns the path of the file that begins with line `first_seq`.
pub(super) fn log_file(dir: &Path, first_seq: u64) -> PathBuf {
    dir.join(log_file_name(first_seq))
}

/// Returns the log's files, oldest first. Of a file that is there compressed too, as a crash leaves it, the compressed
/// one is left out.
pub(super) fn log_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = entries(dir, |path, is_file| is_file && is_log_name(path))?;
    // The plain name stands before the longer one of the compressed file.
    files.dedup_by_key(|path| first_seq(path));
    Ok(files)
}

/// Returns the files with what was set aside, in no particular order within a log file.
pub(super) fn torn_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_torn = |extension: &str| extension.starts_with(TORN_PREFIX);
    entries(dir, |path, is_file| is_file && path.extension().and_then(OsStr::to_str).is_some_and(is_torn))
}

/// Returns what has the name of a log file and is a directory, a symbolic link, a FIFO or the like.
pub(super) fn irregular_entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    entries(dir, |path, is_file| !is_file && is_log_name(path))
}

/// Opens a log file. Never waits for a FIFO, and follows no symbolic link. An error names the file.
pub(super) fn open_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let file = options.custom_flags(flags.bits()).open(path).map_err(|e| with_path(path, e))?;
    if file.metadata().map_err(|e| with_path(path, e))?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other(format!("{} is not a regular file", path.display())))
}

/// Has the kernel write the directory of a file to the disk, after the file was created, renamed or removed.
pub(super) fn sync_dir_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Removes a file of the log, also where it is there compressed as well.
pub(super) fn remove_log_file(path: &Path) -> io::Result<()> {
    let packed = compressed_file(path);
    if path != packed {
        match fs::remove_file(&packed) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(with_path(&packed, e)),
            _ => {}
        }
    }
    fs::remove_file(path).map_err(|e| with_path(path, e))
}

/// Removes the files in `dir` that belong to a log file and have this extension.
pub(super) fn remove_with_extension(dir: &Path, extension: &str) -> io::Result<()> {
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        if path.extension().is_some_and(|found| found == extension) && first_seq(&path).is_some() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Puts the path before an error's text.
pub(super) fn with_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Returns the first unused name for what is set aside from `log_file`.
pub(super) fn unused_torn_file(log_file: &Path) -> io::Result<PathBuf> {
    for n in 1..u32::MAX {
        let candidate = beside(log_file, &format!("{TORN_PREFIX}{n}"));
        match fs::symlink_metadata(&candidate) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(candidate),
            Err(e) => return Err(with_path(&candidate, e)),
            Ok(_) => {}
        }
    }
    Err(io::Error::other("all names N.torn-K exist already; inspect and remove these files"))
}

/// Returns the entries with a number whose name and kind match, sorted.
fn entries(dir: &Path, matches: impl Fn(&Path, bool) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for item in fs::read_dir(dir).map_err(|e| with_path(dir, e))? {
        let item = item.map_err(|e| with_path(dir, e))?;
        let path = item.path();
        // The type is that of the entry itself: links are not followed.
        if first_seq(&path).is_none() {
            continue;
        }
        match item.file_type() {
            Ok(file_type) if matches(&path, file_type.is_file()) => paths.push(path),
            Ok(_) => {}
            // An administrator has moved it away since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(with_path(&path, e)),
        }
    }
    paths.sort();
    Ok(paths)
}

//! The files of an audit log's directory: `N.jsonl` with the records from number N on, and `N.checkpoints` beside it.
//! The daemon, which writes them, takes their names from here.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Highest number of a record. It is above all that a host can write, it is exact in JSON readers that know
/// only doubles, and the number after it does not overflow. No reader of such numbers takes a higher one.
pub const MAX_SEQ: u64 = 1 << 53;
/// Extension of the files that have records.
pub const LOG_EXTENSION: &str = "jsonl";
/// Extension of the files beside them.
pub const CHECKPOINTS_EXTENSION: &str = "checkpoints";
/// Digits of N.
const NUMBER_LEN: usize = 20;

/// One file of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The number in its name.
    pub(super) first_seq: u64,
    pub(super) length: u64,
}

impl Segment {
    /// The name for messages.
    pub(super) fn name(&self) -> String {
        file_name(&self.path)
    }
}

/// The name of the file that begins with this record.
pub fn log_file_name(first_seq: u64) -> String {
    format!("{first_seq:0NUMBER_LEN$}.{LOG_EXTENSION}")
}

/// The file of checkpoints beside a file of the log.
pub fn checkpoints_file(log_file: &Path) -> PathBuf {
    log_file.with_extension(CHECKPOINTS_EXTENSION)
}

/// The number in a file's name, whatever its extension; `None` if the daemon does not give such a name.
pub fn first_seq(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    let is_number = stem.len() == NUMBER_LEN && stem.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| stem.parse().ok()).flatten();
    number.filter(|number| (1..=MAX_SEQ).contains(number))
}

/// The files with records, oldest first, and the names of what has such a name and is no regular file.
pub(super) fn segments(dir: &Path) -> io::Result<(Vec<Segment>, Vec<String>)> {
    let (mut segments, mut irregular) = (Vec::new(), Vec::new());
    for path in named(dir, LOG_EXTENSION)? {
        let metadata = fs::symlink_metadata(&path).map_err(|e| with_path(&path, &e))?;
        if !metadata.is_file() {
            irregular.push(file_name(&path));
            continue;
        }
        let Some(first_seq) = first_seq(&path) else { continue };
        segments.push(Segment { path, first_seq, length: metadata.len() });
    }
    segments.sort_by_key(|segment| segment.first_seq);
    Ok((segments, irregular))
}

/// The files of a directory that have a number and this extension, sorted.
pub(super) fn named(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for item in fs::read_dir(dir).map_err(|e| with_path(dir, &e))? {
        let path = item.map_err(|e| with_path(dir, &e))?.path();
        if path.extension().and_then(OsStr::to_str) == Some(extension) && first_seq(&path).is_some() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a directory has files of an audit log. One that cannot be read has none.
pub fn has_log_files(dir: &Path) -> bool {
    named(dir, LOG_EXTENSION).is_ok_and(|paths| !paths.is_empty())
}

/// Opens a file for reading. It never waits for a FIFO, and follows no symbolic link.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(|e| with_path(path, &e))?;
    match file.metadata().map_err(|e| with_path(path, &e))?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{} is not a regular file", path.display()))),
    }
}

/// The last component of a path, for messages.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

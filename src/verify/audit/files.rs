//! The files of an audit log's directory: `N.jsonl` with the records from number N on, or `N.jsonl.gz` with the same
//! compressed, and `N.checkpoints` beside it. The daemon, which writes them, takes their names from here.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::gzip::GzReader;

/// Highest number of a record. It is above all that a host can write, it is exact in JSON readers that know
/// only doubles, and the number after it does not overflow. No reader of such numbers takes a higher one.
pub const MAX_SEQ: u64 = 1 << 53;
/// Extension of the files that have records.
pub const LOG_EXTENSION: &str = "jsonl";
/// What the name of a compressed file ends in after that.
const COMPRESSED_ENDING: &str = ".gz";
/// The most bytes that a compressed file may have when it is decompressed. The daemon starts a new file at 64 MiB, and
/// compresses none that has more than this.
pub const MAX_UNPACKED_LEN: u64 = 72 << 20;
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
    beside(log_file, CHECKPOINTS_EXTENSION)
}

/// The file with this extension beside a file of the log, whether that is compressed or not.
pub fn beside(log_file: &Path, extension: &str) -> PathBuf {
    match is_compressed(log_file) {
        true => log_file.with_extension("").with_extension(extension),
        false => log_file.with_extension(extension),
    }
}

/// The name of the same file where it is compressed.
pub fn compressed_file(log_file: &Path) -> PathBuf {
    beside(log_file, &format!("{LOG_EXTENSION}{COMPRESSED_ENDING}"))
}

/// Whether a file has the name of a compressed file of the log.
pub fn is_compressed(path: &Path) -> bool {
    plain_name(path).is_some_and(|name| name.ends_with(&format!(".{LOG_EXTENSION}")))
}

/// Whether a file has the name of a file of the log, compressed or not.
pub fn is_log_name(path: &Path) -> bool {
    path.extension().and_then(OsStr::to_str) == Some(LOG_EXTENSION) || is_compressed(path)
}

/// The name without the ending of a compressed file.
fn plain_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(COMPRESSED_ENDING)
}

/// The number in a file's name, whatever its extension; `None` if the daemon does not give such a name.
pub fn first_seq(path: &Path) -> Option<u64> {
    let stem = match is_compressed(path) {
        true => Path::new(plain_name(path)?).file_stem()?.to_str()?,
        false => path.file_stem()?.to_str()?,
    };
    let is_number = stem.len() == NUMBER_LEN && stem.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| stem.parse().ok()).flatten();
    number.filter(|number| (1..=MAX_SEQ).contains(number))
}

/// The files with records, oldest first, and the names of what has such a name and is no regular file. Of a file that
/// is there compressed too, as a crash leaves it, the compressed one does not count.
pub(super) fn segments(dir: &Path) -> io::Result<(Vec<Segment>, Vec<String>)> {
    let (mut segments, mut irregular) = (Vec::new(), Vec::new());
    for mut path in matching(dir, is_log_name)? {
        let mut metadata = fs::symlink_metadata(&path);
        if metadata.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            // It was compressed since it was listed.
            path = compressed_file(&path);
            metadata = fs::symlink_metadata(&path);
        }
        let metadata = metadata.map_err(|e| with_path(&path, &e))?;
        if !metadata.is_file() {
            irregular.push(file_name(&path));
            continue;
        }
        let Some(first_seq) = first_seq(&path) else { continue };
        segments.push(Segment { path, first_seq, length: metadata.len() });
    }
    segments.sort_by(|one, other| one.path.cmp(&other.path));
    segments.dedup_by_key(|segment| segment.first_seq);
    Ok((segments, irregular))
}

/// The files of a directory that have a number and this extension, sorted.
pub(super) fn named(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    matching(dir, |path| path.extension().and_then(OsStr::to_str) == Some(extension))
}

fn matching(dir: &Path, matches: impl Fn(&Path) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for item in fs::read_dir(dir).map_err(|e| with_path(dir, &e))? {
        let path = item.map_err(|e| with_path(dir, &e))?.path();
        if matches(&path) && first_seq(&path).is_some() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a directory has files of an audit log. One that cannot be read has none.
pub fn has_log_files(dir: &Path) -> bool {
    matching(dir, is_log_name).is_ok_and(|paths| !paths.is_empty())
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

/// Opens a file with records, and decompresses it while it is read. A file that was compressed since it was listed is
/// found under its other name.
pub(super) fn open_records(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let unpacked = |file| Box::new(GzReader::new(file, MAX_UNPACKED_LEN));
    if is_compressed(path) {
        return Ok(unpacked(open(path)?));
    }
    match open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match open(&compressed_file(path)) {
            Ok(file) => Ok(unpacked(file)),
            Err(_) => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// The last component of a path, for messages.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_file_has_the_number_and_the_neighbours_of_the_plain_one() {
        let plain = Path::new("d").join(log_file_name(17));
        let packed = compressed_file(&plain);
        assert_eq!(packed, Path::new("d/00000000000000000017.jsonl.gz"));
        for path in [&plain, &packed] {
            assert_eq!(first_seq(path), Some(17));
            assert_eq!(checkpoints_file(path), Path::new("d/00000000000000000017.checkpoints"));
            assert_eq!(compressed_file(path), packed);
            assert!(is_log_name(path));
        }
        assert!(is_compressed(&packed) && !is_compressed(&plain));
        for name in ["17.jsonl.gz", "00000000000000000017.gz", "00000000000000000017.torn-1.gz", ".jsonl.gz"]
        {
            let path = Path::new("d").join(name);
            assert!(!is_log_name(&path) || first_seq(&path).is_none(), "{name}");
        }
    }
}

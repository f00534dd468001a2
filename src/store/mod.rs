//! State on disk.
//!
//! Small state lives in versioned JSON files that are replaced whole: written beside the old one, synced, renamed,
//! directory synced. A reader therefore sees the old state or the new one, never a mixture. This room knows nothing
//! of what it stores.

mod lock;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

pub use lock::DirLock;

/// No state file of ours comes near this; a larger one is not ours.
const LARGEST: u64 = 4 * 1024 * 1024;

/// What can be wrong with a state file. Each text tells an administrator what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: torn or not ours ({why}); put it back from a backup, or move it away to start with a new identity", path = path.display())]
    Torn { path: PathBuf, why: String },
    #[error("{path}: written in format {found}, this program reads format {known}; install the release that wrote it", path = path.display())]
    Version { path: PathBuf, found: u64, known: u64 },
    #[error("{path}: others than the daemon may write here (uid {uid}, mode {mode:o}); chown it to the daemon's user and chmod go-w it", path = path.display())]
    Open { path: PathBuf, uid: u32, mode: u32 },
    #[error("{path}: in use by another hostbadged{holder}; one directory serves one daemon", path = path.display())]
    Locked { path: PathBuf, holder: String },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }
}

/// Reads a state file of format `version`. `None` where there is none yet.
///
/// The file is a JSON object with a `version` member beside the members of `T`.
pub fn read<T: DeserializeOwned>(path: &Path, version: u64) -> Result<Option<T>, Error> {
    read_any(path, version..=version, |_, state| serde_json::from_value(state))
}

/// Reads a state file of one of the formats `known`, which `parse` is told with the members beside `version`.
/// What is written afterwards is of the newest.
pub fn read_any<T>(
    path: &Path,
    known: RangeInclusive<u64>,
    parse: impl FnOnce(u64, serde_json::Value) -> serde_json::Result<T>,
) -> Result<Option<T>, Error> {
    let torn = |why: String| Error::Torn { path: path.to_owned(), why };
    let Some(text) = bytes(path)? else { return Ok(None) };
    let mut value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| torn(e.to_string()))?;
    let found = value.as_object_mut().and_then(|object| object.remove("version"));
    let Some(found) = found.and_then(|v| v.as_u64()) else { return Err(torn("no version".into())) };
    if !known.contains(&found) {
        return Err(Error::Version { path: path.to_owned(), found, known: *known.end() });
    }
    parse(found, value).map(Some).map_err(|e| torn(e.to_string()))
}

/// A state file as it is. `None` where there is none yet.
pub fn bytes(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    // What is no regular file must not keep the daemon waiting for a writer.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    let torn = |why: String| Error::Torn { path: path.to_owned(), why };
    if !file.metadata().map_err(Error::io(path))?.is_file() {
        return Err(torn("no regular file".into()));
    }
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(Error::io(path))?;
    match text.len() as u64 > LARGEST {
        true => Err(torn(format!("larger than {LARGEST} bytes"))),
        false => Ok(Some(text)),
    }
}

/// Replaces a state file: mode 0600, on disk when this returns.
pub fn write<T: Serialize>(path: &Path, version: u64, state: &T) -> Result<(), Error> {
    replace(path, &text(path, version, state)?, 0o600).map_err(Error::io(path))
}

/// What a state file is to hold; `path` is for the error.
pub fn text<T: Serialize>(path: &Path, version: u64, state: &T) -> Result<Vec<u8>, Error> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        version: u64,
        #[serde(flatten)]
        state: &'a T,
    }
    serde_json::to_vec_pretty(&Versioned { version, state })
        .map_err(|e| Error::Torn { path: path.to_owned(), why: e.to_string() })
}

/// Replaces a file whole: temporary file, fsync, rename, fsync of the directory.
pub fn replace(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let fresh = path.with_file_name(name);
    // A leftover of a crash would otherwise stand in the way of create_new, which refuses a planted link.
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(text)?;
        // The umask may have taken away what a reader needs.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    if let Err(e) = written {
        let _ = fs::remove_file(&fresh);
        return Err(e);
    }
    File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a directory where it is missing, with exactly `mode` whatever the umask; missing parents get 0755.
pub fn ensure_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let made = |path: &Path, mode| match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e),
    };
    let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| !dir.exists()).collect();
    missing.retain(|dir| !dir.as_os_str().is_empty());
    for dir in missing.into_iter().rev() {
        made(dir, 0o755).map_err(Error::io(dir))?;
    }
    made(path, mode).map_err(Error::io(path))?;
    let meta = fs::metadata(path).map_err(Error::io(path))?;
    let strangers = meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw();
    match strangers || meta.mode() & 0o022 != 0 {
        false => Ok(()),
        true => Err(Error::Open { path: path.to_owned(), uid: meta.uid(), mode: meta.mode() & 0o7777 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
    }

    fn sample() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.json");
        write(&path, 1, &Sample { name: "a".into() }).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, path) = sample();
        assert_eq!(read(&path, 1).unwrap(), Some(Sample { name: "a".into() }));
        assert_eq!(read::<Sample>(&path.with_extension("none"), 1).unwrap(), None);
    }

    #[test]
    fn every_truncation_is_torn_and_never_half_read() {
        let (_dir, path) = sample();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(read::<Sample>(&path, 1), Err(Error::Torn { .. })), "{length} bytes");
        }
    }

    #[test]
    fn a_later_format_is_named_as_such() {
        let (_dir, path) = sample();
        write(&path, 2, &Sample { name: "b".into() }).unwrap();
        let error = read::<Sample>(&path, 1).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("format 1"), "{error}");
    }

    #[test]
    fn one_of_several_formats_is_read_and_told_apart() {
        let (_dir, path) = sample();
        let parse =
            |format, state| serde_json::from_value::<Sample>(state).map(|sample| (format, sample.name));
        assert_eq!(read_any(&path, 1..=2, parse).unwrap(), Some((1, "a".into())));
        write(&path, 2, &Sample { name: "b".into() }).unwrap();
        assert_eq!(read_any(&path, 1..=2, parse).unwrap(), Some((2, "b".into())));
        write(&path, 3, &Sample { name: "c".into() }).unwrap();
        let error = read_any(&path, 1..=2, parse).unwrap_err().to_string();
        assert!(error.contains("format 3") && error.contains("format 2"), "{error}");
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let (dir, path) = sample();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("sample.json.tmp")).unwrap();
        write(&path, 1, &Sample { name: "c".into() }).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(read(&path, 1).unwrap(), Some(Sample { name: "c".into() }));
    }
}

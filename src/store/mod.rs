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

use crate::error_class::ErrorClass;

pub use lock::DirLock;

/// No state file of ours comes near this; a larger one is not ours.
const MAX_STATE_FILE_SIZE: u64 = 4 * 1024 * 1024;

/// What can be wrong with a state file. Each text tells an administrator what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: torn or not ours ({reason}); put it back from a backup, or move it away to start with a new identity", path = path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("{path}: written in format {found}, this program reads format {supported}; install the release that wrote it", path = path.display())]
    UnsupportedVersion { path: PathBuf, found: u64, supported: u64 },
    #[error("{path}: others than the daemon may write here (uid {uid}, mode {mode:o}); chown it to the daemon's user and chmod go-w it", path = path.display())]
    InsecurePermissions { path: PathBuf, uid: u32, mode: u32 },
    #[error("{path}: in use by another hostbadged{holder}; one directory serves one daemon", path = path.display())]
    Locked { path: PathBuf, holder: String },
}

impl Error {
    /// What this failure means for the caller of a request that needed the file.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::Io { .. } | Error::Locked { .. } => ErrorClass::Unavailable,
            Error::Corrupt { .. } | Error::UnsupportedVersion { .. } | Error::InsecurePermissions { .. } => {
                ErrorClass::Internal
            }
        }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }
}

/// Reads a state file of format `version`. `None` where there is none yet.
///
/// The file is a JSON object with a `version` member beside the members of `T`.
pub fn read<T: DeserializeOwned>(path: &Path, version: u64) -> Result<Option<T>, Error> {
    read_versions(path, version..=version, |_, state| serde_json::from_value(state))
}

/// Reads a state file of one of the formats `known`, which `parse` is told with the members beside `version`.
/// What is written afterwards is of the newest.
pub fn read_versions<T>(
    path: &Path,
    supported: RangeInclusive<u64>,
    parse: impl FnOnce(u64, serde_json::Value) -> serde_json::Result<T>,
) -> Result<Option<T>, Error> {
    let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), reason };
    let Some(raw) = read_raw(path)? else { return Ok(None) };
    let mut value: serde_json::Value = serde_json::from_slice(&raw).map_err(|e| corrupt(e.to_string()))?;
    let version = value.as_object_mut().and_then(|object| object.remove("version"));
    let Some(version) = version.and_then(|v| v.as_u64()) else { return Err(corrupt("no version".into())) };
    if !supported.contains(&version) {
        return Err(Error::UnsupportedVersion {
            path: path.to_owned(),
            found: version,
            supported: *supported.end(),
        });
    }
    parse(version, value).map(Some).map_err(|e| corrupt(e.to_string()))
}

/// A state file as it is. `None` where there is none yet.
pub fn read_raw(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    // What is no regular file must not keep the daemon waiting for a writer.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), reason };
    if !file.metadata().map_err(Error::io(path))?.is_file() {
        return Err(corrupt("no regular file".into()));
    }
    let mut raw = Vec::new();
    file.take(MAX_STATE_FILE_SIZE + 1).read_to_end(&mut raw).map_err(Error::io(path))?;
    match raw.len() as u64 > MAX_STATE_FILE_SIZE {
        true => Err(corrupt(format!("larger than {MAX_STATE_FILE_SIZE} bytes"))),
        false => Ok(Some(raw)),
    }
}

/// Replaces a state file: mode 0600, on disk when this returns.
pub fn write<T: Serialize>(path: &Path, version: u64, state: &T) -> Result<(), Error> {
    write_atomic(path, &to_bytes(path, version, state)?, 0o600).map_err(Error::io(path))
}

/// What a state file is to hold; `path` is for the error.
pub fn to_bytes<T: Serialize>(path: &Path, version: u64, state: &T) -> Result<Vec<u8>, Error> {
    #[derive(Serialize)]
    struct VersionedState<'a, T> {
        version: u64,
        #[serde(flatten)]
        state: &'a T,
    }
    serde_json::to_vec_pretty(&VersionedState { version, state })
        .map_err(|e| Error::Corrupt { path: path.to_owned(), reason: e.to_string() })
}

/// Replaces a file whole: temporary file, fsync, rename, fsync of the directory.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temp_path = path.with_file_name(name);
    // A leftover of a crash would otherwise stand in the way of create_new, which refuses a planted link.
    match fs::remove_file(&temp_path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp_path)?;
        file.write_all(contents)?;
        // The umask may have taken away what a reader needs.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temp_path, path)
    })();
    if let Err(e) = result {
        let _ = fs::remove_file(&temp_path);
        return Err(e);
    }
    File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a directory where it is missing, with exactly `mode` whatever the umask; missing parents get 0755.
pub fn ensure_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let create_dir = |path: &Path, mode| match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e),
    };
    let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| !dir.exists()).collect();
    missing.retain(|dir| !dir.as_os_str().is_empty());
    for dir in missing.into_iter().rev() {
        create_dir(dir, 0o755).map_err(Error::io(dir))?;
    }
    create_dir(path, mode).map_err(Error::io(path))?;
    let meta = fs::metadata(path).map_err(Error::io(path))?;
    let foreign_owner = meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw();
    match foreign_owner || meta.mode() & 0o022 != 0 {
        false => Ok(()),
        true => Err(Error::InsecurePermissions {
            path: path.to_owned(),
            uid: meta.uid(),
            mode: meta.mode() & 0o7777,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct TestState {
        name: String,
    }

    fn write_test_state() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.json");
        write(&path, 1, &TestState { name: "a".into() }).unwrap();
        (dir, path)
    }

    #[test]
    fn written_state_reads_back() {
        let (_dir, path) = write_test_state();
        assert_eq!(read(&path, 1).unwrap(), Some(TestState { name: "a".into() }));
        assert_eq!(read::<TestState>(&path.with_extension("none"), 1).unwrap(), None);
    }

    #[test]
    fn truncated_files_are_corrupt() {
        let (_dir, path) = write_test_state();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(read::<TestState>(&path, 1), Err(Error::Corrupt { .. })), "{length} bytes");
        }
    }

    #[test]
    fn newer_format_is_reported() {
        let (_dir, path) = write_test_state();
        write(&path, 2, &TestState { name: "b".into() }).unwrap();
        let error = read::<TestState>(&path, 1).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("format 1"), "{error}");
    }

    #[test]
    fn all_supported_formats_are_read() {
        let (_dir, path) = write_test_state();
        let parse =
            |format, state| serde_json::from_value::<TestState>(state).map(|sample| (format, sample.name));
        assert_eq!(read_versions(&path, 1..=2, parse).unwrap(), Some((1, "a".into())));
        write(&path, 2, &TestState { name: "b".into() }).unwrap();
        assert_eq!(read_versions(&path, 1..=2, parse).unwrap(), Some((2, "b".into())));
        write(&path, 3, &TestState { name: "c".into() }).unwrap();
        let error = read_versions(&path, 1..=2, parse).unwrap_err().to_string();
        assert!(error.contains("format 3") && error.contains("format 2"), "{error}");
    }

    #[test]
    fn planted_symlink_is_not_followed() {
        let (dir, path) = write_test_state();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("sample.json.tmp")).unwrap();
        write(&path, 1, &TestState { name: "c".into() }).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(read(&path, 1).unwrap(), Some(TestState { name: "c".into() }));
    }
}

//! State files: versioned JSON, replaced atomically; databases; and the lock of the state directory.
//!
//! A file is replaced by writing a temporary file beside it, fsync, rename, and fsync of the directory, so
//! readers see either the old or the new content, also after a crash. What grows row by row is in a database:
//! this is the only module that uses SQLite.

mod atomic;
mod columns;
mod credential_rows;
mod database;
mod lock;
mod revocation_rows;
mod status_rows;

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use crate::error_class::ErrorClass;

pub use atomic::{remove_temp_files, write_atomic};
pub use credential_rows::{CompartmentRow, CredentialRow, CredentialRows};
pub use lock::DirLock;
pub use revocation_rows::{GuardedChange, RevocationDatabase, RevocationRow, RevocationRows, TokenRow};
pub use status_rows::{StatusChange, StatusDatabase, StatusListRow, StatusSubjectRow, StatusTokenRow};

/// Upper bound on the size of a state file in bytes, well above what hostbadge writes.
const MAX_STATE_FILE_SIZE: u64 = 8 * 1024 * 1024;

/// Why a state file or directory cannot be used. Each message says what an administrator can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A file that is not a state file, or is incomplete or damaged.
    #[error(
        "{path}: corrupt ({reason}); restore it from a backup, or move it away to start with a new identity",
        path = path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a format that this release does not read.
    #[error(
        "{path}: written in format {found}, this program reads format {supported}; install the release that \
         wrote it{way_back}",
        path = path.display(),
        way_back = way_back(copy.as_deref())
    )]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: u64,
        /// The newest format that this release reads.
        supported: u64,
        /// A copy in the supported format, from before the newer release changed it.
        copy: Option<PathBuf>,
    },
    /// A directory that users other than root and the daemon's may write to.
    #[error(
        "{path}: other users than the daemon's may write here (uid {uid}, mode {mode:o}); chown it to the \
         daemon's user and chmod go-w it",
        path = path.display()
    )]
    InsecurePermissions {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Another daemon uses the directory.
    #[error(
        "{path}: in use by another hostbadged{holder}; each daemon needs its own directory",
        path = path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other daemon's pid as ` (pid N)`; empty if it is unknown.
        holder: String,
    },
}

/// How an administrator returns to the older release for good.
fn way_back(copy: Option<&Path>) -> String {
    let Some(copy) = copy else { return String::new() };
    format!(
        ", or go back for good: replace it by {}, which lacks every change since, and accept it as the present \
         state with \"hostbadge credential accept\"",
        copy.display()
    )
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

/// Reads a state file of format `version`; `None` if it does not exist.
///
/// The file is a JSON object with a member `version` beside the members of `T`.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::UnsupportedVersion`] or [`Error::Io`].
pub fn read<T: DeserializeOwned>(path: &Path, version: u64) -> Result<Option<T>, Error> {
    read_versions(path, version..=version, |_, state| serde_json::from_value(state))
}

/// Reads a state file of one of the `supported` formats; `None` if it does not exist.
///
/// `parse` gets the format and the object without `version`.
///
/// # Errors
/// As [`read`].
pub fn read_versions<T>(
    path: &Path,
    supported: RangeInclusive<u64>,
    parse: impl FnOnce(u64, serde_json::Value) -> serde_json::Result<T>,
) -> Result<Option<T>, Error> {
    let Some(raw) = read_raw(path)? else { return Ok(None) };
    parse_versions(path, &raw, supported, parse).map(Some)
}

/// As [`read_versions`], for the bytes of the file at `path`, which were read before.
///
/// # Errors
/// [`Error::Corrupt`] or [`Error::UnsupportedVersion`].
pub fn parse_versions<T>(
    path: &Path,
    raw: &[u8],
    supported: RangeInclusive<u64>,
    parse: impl FnOnce(u64, serde_json::Value) -> serde_json::Result<T>,
) -> Result<T, Error> {
    let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), reason };
    let mut value: serde_json::Value = serde_json::from_slice(raw).map_err(|e| corrupt(e.to_string()))?;
    let version = value.as_object_mut().and_then(|object| object.remove("version"));
    let Some(version) = version.and_then(|v| v.as_u64()) else { return Err(corrupt("no version".into())) };
    if !supported.contains(&version) {
        return Err(Error::UnsupportedVersion {
            path: path.to_owned(),
            found: version,
            supported: *supported.end(),
            copy: None,
        });
    }
    parse(version, value).map_err(|e| corrupt(e.to_string()))
}

/// The bytes of a state file; `None` if it does not exist.
///
/// # Errors
/// [`Error::Corrupt`] for a file that is not regular or larger than 4 MiB, [`Error::Io`] if it cannot be
/// read.
pub fn read_raw(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), reason };
    if !file.metadata().map_err(Error::io(path))?.is_file() {
        return Err(corrupt("not a regular file".into()));
    }
    let mut raw = Vec::new();
    file.take(MAX_STATE_FILE_SIZE + 1).read_to_end(&mut raw).map_err(Error::io(path))?;
    if raw.len() as u64 > MAX_STATE_FILE_SIZE {
        return Err(corrupt(format!("larger than {MAX_STATE_FILE_SIZE} bytes")));
    }
    Ok(Some(raw))
}

/// Replaces a state file atomically, with mode 0600. The content is on disk when this returns.
///
/// # Errors
/// [`Error::Io`] if it cannot be written; the old content is then unchanged, unless only the directory's
/// fsync failed.
pub fn write<T: Serialize>(path: &Path, version: u64, state: &T) -> Result<(), Error> {
    write_atomic(path, &to_bytes(path, version, state)?, 0o600).map_err(Error::io(path))
}

/// The content of a state file of format `version`; `path` is for the error.
///
/// # Errors
/// [`Error::Corrupt`] if the state cannot be serialized.
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

/// Creates a directory if it is missing, with exactly `mode`, whatever the umask; missing parents get 0755.
///
/// # Errors
/// [`Error::InsecurePermissions`] if users other than root and the daemon's may write to it, [`Error::Io`] if
/// it cannot be created.
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
    if foreign_owner || meta.mode() & 0o022 != 0 {
        return Err(Error::InsecurePermissions {
            path: path.to_owned(),
            uid: meta.uid(),
            mode: meta.mode() & 0o7777,
        });
    }
    Ok(())
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
}

//! A directory in memory that only this user can read: for the tokens of a command, and for the socket of the two
//! processes that run it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::geteuid;

use crate::cli::error::CliError;
use crate::cli::files::{file_error, random_suffix};

/// File systems in memory. Their files are on no disk.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// A directory of this process, which is removed with all files in it when this is dropped.
#[derive(Debug)]
pub(super) struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Makes one where the user's directories in memory are: `XDG_RUNTIME_DIR`, `/run` for root, or `/dev/shm`.
    ///
    /// # Errors
    /// [`CliError::Local`] if none of these is in memory and can be written.
    pub(super) fn create() -> Result<PrivateDir, CliError> {
        let name = format!("hostbadge-run-{}", random_suffix().map_err(CliError::local)?);
        for above in places() {
            let path = above.join(&name);
            if is_in_memory(&above) && DirBuilder::new().mode(0o700).create(&path).is_ok() {
                return Ok(PrivateDir(path));
            }
        }
        let tried: Vec<String> = places().iter().map(|place| place.display().to_string()).collect();
        Err(CliError::Local(format!(
            "no directory in memory (tmpfs) can be written; tried {}",
            tried.join(", ")
        )))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The place of a token: below the private directory, or at an absolute path in memory.
///
/// # Errors
/// [`CliError::Local`] if the path has parts that lead elsewhere, or is on a disk.
pub(super) fn token_path(private: &Path, named: &Path) -> Result<PathBuf, CliError> {
    let is_plain = named.components().count() == 1 && named.file_name().is_some();
    match (named.is_absolute(), is_plain) {
        (true, _) => {
            if fs::symlink_metadata(named).is_ok() {
                return Err(CliError::Local(format!("{}: exists already; name a new file", named.display())));
            }
            let above = named.parent().unwrap_or(named);
            fs::metadata(above).map_err(|e| file_error(above, &e))?;
            if !is_in_memory(above) {
                let text =
                    format!("{}: not in memory (tmpfs); a token is written to no disk", named.display());
                return Err(CliError::Local(text));
            }
            Ok(named.to_owned())
        }
        (false, true) => Ok(private.join(named)),
        (false, false) => Err(CliError::Local(format!(
            "{}: name a file without a directory, which is in ${}, or an absolute path",
            named.display(),
            super::environment::DIR_VARIABLE
        ))),
    }
}

fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    let is_own = |dir: &Path| {
        let metadata: io::Result<fs::Metadata> = fs::metadata(dir);
        metadata.is_ok_and(|dir| dir.uid() == geteuid().as_raw() && dir.mode() & 0o022 == 0)
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    places.extend(runtime.filter(|dir| dir.is_absolute() && is_own(dir)));
    if geteuid().is_root() {
        places.push("/run".into());
    }
    places.push("/dev/shm".into());
    places
}

fn is_in_memory(dir: &Path) -> bool {
    let kind = statfs(dir).map(|found| found.filesystem_type());
    kind.is_ok_and(|kind| kind == TMPFS_MAGIC || kind.0 == RAMFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_in_memory_and_removed_with_its_files() {
        let dir = PrivateDir::create().unwrap();
        let path = dir.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        assert!(is_in_memory(&path));
        fs::write(path.join("token"), "x").unwrap();
        assert_eq!(token_path(&path, Path::new("token")).unwrap(), path.join("token"));
        let other = PathBuf::from("/dev/shm/hostbadge-other");
        assert_eq!(token_path(&path, &other).unwrap(), other);
        fs::write(path.join("taken"), "x").unwrap();
        assert!(token_path(&path, &path.join("taken")).is_err());
        for refused in ["a/b", "../a", "..", "", "/proc/x", "/dev/shm/none/x"] {
            assert!(token_path(&path, Path::new(refused)).is_err(), "{refused}");
        }
        drop(dir);
        assert!(!path.exists());
    }
}

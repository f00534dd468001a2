//! A file with a token that is replaced at each renewal, for `hostbadge token --watch`.
//!
//! Each token is a new file with the name, and the process that renews it has a lock (`flock(2)`) on the
//! present one. Only a file with a token of hostbadge is replaced, and only the file that this process wrote
//! is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::error::CliError;
use super::files::{TempFile, file_error};
use super::output::note;

/// A longer file is no token.
const MAX_TOKEN_SIZE: u64 = 64 * 1024;

/// A file that this process renews.
#[derive(Debug)]
pub(super) struct WatchedFile {
    path: PathBuf,
    /// The file at the path: of this process, or left by one that was killed.
    current: Option<Flock<File>>,
    was_written: bool,
}

impl WatchedFile {
    /// Locks the file, if it exists. Nothing is created.
    ///
    /// # Errors
    /// [`CliError::Local`] if another process renews it, or if it holds something other than a token of
    /// hostbadge.
    pub(super) fn claim(path: &Path) -> Result<WatchedFile, CliError> {
        let refused = |reason: &str| CliError::Local(format!("{}: {reason}", path.display()));
        let is_foreign = || {
            refused(
                "this file is not of hostbadge token --watch, and stays; move it away or choose another name",
            )
        };
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let current = None;
                return Ok(WatchedFile { path: path.to_owned(), current, was_written: false });
            }
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(is_foreign()),
            opened => opened.map_err(|e| file_error(path, &e))?,
        };
        if !file.metadata().map_err(|e| file_error(path, &e))?.is_file() {
            return Err(is_foreign());
        }
        let file = lock(file).map_err(|()| refused("another process renews this file"))?;
        let mut text = String::new();
        let read = (&*file).take(MAX_TOKEN_SIZE).read_to_string(&mut text);
        if read.is_err() || !is_own_token(text.trim()) {
            return Err(is_foreign());
        }
        Ok(WatchedFile { path: path.to_owned(), current: Some(file), was_written: false })
    }

    /// Replaces the token, with mode 0600.
    ///
    /// # Errors
    /// [`CliError::File`] if it cannot be written: the present token stays. [`CliError::Local`] if another
    /// program has put a file of its own in its place.
    pub(super) fn replace(&mut self, token: &str) -> Result<(), CliError> {
        let failed = |e: io::Error| file_error(&self.path, &e);
        let temp = TempFile::create(&self.path, format!("{token}\n").as_bytes(), 0o600).map_err(failed)?;
        let locked = temp.file().try_clone().map_err(failed)?;
        let locked = lock(locked).map_err(|()| failed(io::Error::other("cannot lock the new file")))?;
        match fs::symlink_metadata(&self.path) {
            Ok(found) if self.is_current(&found) => temp.rename(&self.path).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                temp.rename_new(&self.path).map_err(|e| match e.kind() {
                    io::ErrorKind::AlreadyExists => self.replaced(),
                    _ => failed(e),
                })?;
            }
            Err(e) => return Err(failed(e)),
            Ok(_) => return Err(self.replaced()),
        }
        (self.current, self.was_written) = (Some(locked), true);
        Ok(())
    }

    /// Removes the file, if this process wrote it.
    pub(super) fn remove(self) {
        let is_own =
            self.was_written && fs::symlink_metadata(&self.path).is_ok_and(|found| self.is_current(&found));
        if is_own && let Err(e) = fs::remove_file(&self.path) {
            note(format_args!("hostbadge: {}", file_error(&self.path, &e)));
        }
    }

    fn is_current(&self, found: &fs::Metadata) -> bool {
        let current = self.current.as_ref().and_then(|file| file.metadata().ok());
        current.is_some_and(|current| (current.dev(), current.ino()) == (found.dev(), found.ino()))
    }

    fn replaced(&self) -> CliError {
        CliError::Local(format!(
            "{}: another program has replaced the file, which stays",
            self.path.display()
        ))
    }
}

fn lock(file: File) -> Result<Flock<File>, ()> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| ())
}

/// Whether a text is a JWT with the claim that only tokens of hostbadge have.
fn is_own_token(text: &str) -> bool {
    let claims = || {
        let (_, rest) = text.split_once('.')?;
        let (claims, _) = rest.split_once('.')?;
        let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
        serde_json::from_slice::<Value>(&claims).ok()
    };
    claims().is_some_and(|claims| claims["hostbadge"].is_object())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn token(jti: &str) -> String {
        let claims = format!("{{\"jti\":\"{jti}\",\"hostbadge\":{{}}}}");
        format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    #[test]
    fn only_one_process_renews_a_file_and_only_its_own_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let (mut first, mut late) = (WatchedFile::claim(&path).unwrap(), WatchedFile::claim(&path).unwrap());
        first.replace(&token("1")).unwrap();
        first.replace(&token("2")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), token("2"));
        let error = late.replace(&token("3")).unwrap_err().to_string();
        assert!(error.contains("another program has replaced the file"), "{error}");
        late.remove();
        let error = WatchedFile::claim(&path).unwrap_err().to_string();
        assert!(error.contains("another process renews this file"), "{error}");
        drop(first);
        // A killed process left its token.
        WatchedFile::claim(&path).unwrap().remove();
        let mut next = WatchedFile::claim(&path).unwrap();
        next.replace(&token("4")).unwrap();
        next.remove();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn foreign_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("token"), dir.path().join("link"));
        let foreign = format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(b"{\"jti\":\"1\"}"));
        for text in ["", "mine", "a.b.c", &foreign] {
            fs::write(&path, text).unwrap();
            let error = WatchedFile::claim(&path).unwrap_err().to_string();
            assert!(error.contains("is not of hostbadge token --watch"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        symlink(&path, &link).unwrap();
        WatchedFile::claim(&link).unwrap_err();
        WatchedFile::claim(dir.path()).unwrap_err();
        fs::remove_file(&path).unwrap();
        let mut watched = WatchedFile::claim(&path).unwrap();
        watched.replace(&token("1")).unwrap();
        fs::remove_file(&path).unwrap();
        watched.replace(&token("2")).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        watched.replace(&token("3")).unwrap_err();
        watched.remove();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}

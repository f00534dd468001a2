//! A directory whose files are replaced all at once, for `hostbadge certificate --watch`.
//!
//! ```text
//! DIR/cert.pem  -> ..data/cert.pem        made once, and so for each file
//! DIR/..data    -> ..hostbadge-0123abcd   replaced by rename(2) at each renewal
//! DIR/..hostbadge-0123abcd/cert.pem       one generation of the files
//! ```
//!
//! A program that opens `DIR/..data` once and reads below it, or reads one file, sees files of one
//! generation. The generation before the present one is kept, for programs that are reading it.
//!
//! The directory can hold other files. Only links of this form and generations of this name are replaced or
//! removed; a name in use by anything else is refused. A lock (`flock(2)`) on the directory excludes a second
//! process; the kernel releases it when the process ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::error::CliError;
use super::files::{file_error, random_suffix, sync_parent};
use super::output::note;

/// The link to the present generation.
const DATA: &str = "..data";
/// The same link before it gets its name.
const NEW_DATA: &str = "..data_tmp";
/// Prefix of the directories of generations.
const GENERATION: &str = "..hostbadge-";

/// A directory for files that are written once: created if only itself is missing, and refused if other users
/// may write to it.
pub(super) fn prepare_dir(path: &Path) -> Result<(), CliError> {
    create_dir(path)?;
    check_owner(path)
}

/// A locked directory.
#[derive(Debug)]
pub(super) struct LinkedDir {
    path: PathBuf,
    lock: Flock<File>,
    /// Names of all files that this command can write.
    names: &'static [&'static str],
    /// Those of them that this process writes; the others may be in use by something else.
    used: &'static [&'static str],
    was_made: bool,
    /// The present generation, if this process has written one.
    current: Option<PathBuf>,
}

impl LinkedDir {
    /// Locks a directory, which is created if only itself is missing.
    ///
    /// # Errors
    /// [`CliError::Local`] if another process has it, if others may write to it, or if one of the `used`
    /// names is in use by something else. Nothing is changed then.
    pub(super) fn claim(
        path: &Path,
        names: &'static [&'static str],
        used: &'static [&'static str],
    ) -> Result<LinkedDir, CliError> {
        let was_made = create_dir(path)?;
        let claimed = (|| {
            check_owner(path)?;
            let (path, lock) = (path.to_owned(), lock(path)?);
            let dir = LinkedDir { path, lock, names, used, was_made, current: None };
            dir.check_names()?;
            Ok(dir)
        })();
        if claimed.is_err() && was_made {
            let _ = fs::remove_dir(path);
        }
        claimed
    }

    /// Replaces all files at once by these, with mode 0600, each of a used name. A name without a file gets
    /// none.
    ///
    /// # Errors
    /// [`CliError::File`] if a file cannot be written: the present generation stays. [`CliError::Local`] if
    /// another program has changed the directory.
    pub(super) fn replace(&mut self, files: &[(&'static str, &[u8])]) -> Result<(), CliError> {
        self.check_replaced()?;
        self.check_names()?;
        let suffix = random_suffix().map_err(|e| file_error(&self.path, &e))?;
        let generation = self.path.join(format!("{GENERATION}{suffix}"));
        if let Err(e) = self.write_generation(&generation, files) {
            self.remove_generation(&generation);
            return Err(file_error(&generation, &e));
        }
        let previous = self.current.replace(generation);
        let linked = self.link_names(files).map_err(|e| file_error(&self.path, &e));
        self.remove_generations(|found| Some(found) == previous.as_deref());
        linked
    }

    /// Removes what this process wrote, and the directory if this process made it and it is empty.
    pub(super) fn remove(self) {
        let removed = self.check_replaced().and_then(|()| {
            if self.current.is_none() {
                return Ok(());
            }
            let links = self.names.iter().copied().filter(|name| self.is_own_link(name)).chain([DATA]);
            for name in links {
                let path = self.path.join(name);
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file_error(&path, &e)),
                    _ => {}
                }
            }
            self.remove_generations(|_| false);
            Ok(())
        });
        if let Err(e) = removed {
            note(format_args!("hostbadge: {e}"));
        }
        if self.was_made {
            let _ = fs::remove_dir(&self.path);
        }
    }

    /// Writes a generation and lets the link refer to it.
    fn write_generation(&self, dir: &Path, files: &[(&'static str, &[u8])]) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(dir)?;
        for (name, text) in files {
            let options = OpenOptions::new().write(true).create_new(true).mode(0o600).clone();
            let mut file = options.open(dir.join(name))?;
            file.write_all(text)?;
            file.sync_all()?;
        }
        File::open(dir)?.sync_all()?;
        let new_data = self.path.join(NEW_DATA);
        // Of a process that was killed; `check_names` has seen that it is such a link.
        let _ = fs::remove_file(&new_data);
        symlink(dir.file_name().unwrap_or_default(), &new_data)?;
        fs::rename(&new_data, self.path.join(DATA))?;
        // The files are in use now, whether or not their directory is on the disk.
        let _ = sync_parent(&self.path.join(DATA));
        Ok(())
    }

    /// Makes the links of these files, in their order, and removes those of other names.
    fn link_names(&self, files: &[(&'static str, &[u8])]) -> io::Result<()> {
        for (name, _) in files {
            if !self.is_own_link(name) {
                symlink(Path::new(DATA).join(name), self.path.join(name))?;
            }
        }
        let is_written = |name: &str| files.iter().any(|(written, _)| *written == name);
        for name in self.names.iter().filter(|name| !is_written(name) && self.is_own_link(name)) {
            fs::remove_file(self.path.join(name))?;
        }
        Ok(())
    }

    /// Removes the generations that are neither the present one nor to be kept.
    fn remove_generations(&self, is_kept: impl Fn(&Path) -> bool) {
        let present = fs::read_link(self.path.join(DATA)).map(|data| self.path.join(data)).ok();
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let is_generation = name.as_encoded_bytes().starts_with(GENERATION.as_bytes());
            if is_generation && Some(&path) != present.as_ref() && !is_kept(&path) {
                self.remove_generation(&path);
            }
        }
    }

    /// Removes the files of a generation by name, and its directory if nothing else is in it.
    fn remove_generation(&self, dir: &Path) {
        for name in self.names {
            let _ = fs::remove_file(dir.join(name));
        }
        let _ = fs::remove_dir(dir);
    }

    /// Whether the name is a link as this module makes them.
    fn is_own_link(&self, name: &str) -> bool {
        fs::read_link(self.path.join(name)).is_ok_and(|target| target == Path::new(DATA).join(name))
    }

    /// No name may be in use by anything that this module did not make. The form of the links also is that of
    /// Kubernetes' volumes, so the name of the generation decides.
    fn check_names(&self) -> Result<(), CliError> {
        for name in [DATA, NEW_DATA] {
            let is_own =
                |target: &Path| target.as_os_str().as_encoded_bytes().starts_with(GENERATION.as_bytes());
            self.check_name(name, |path| fs::read_link(path).is_ok_and(|target| is_own(&target)))?;
        }
        self.used.iter().try_for_each(|name| self.check_name(name, |_| self.is_own_link(name)))
    }

    fn check_name(&self, name: &str, is_own: impl Fn(&Path) -> bool) -> Result<(), CliError> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(file_error(&path, &e)),
            Ok(_) if is_own(&path) => Ok(()),
            Ok(_) => Err(CliError::Local(format!(
                "{}: this file is not of hostbadge certificate --watch, and stays; move it away or choose \
                 another directory",
                path.display()
            ))),
        }
    }

    /// The lock is on the directory that was opened, which must still be the one at the path.
    fn check_replaced(&self) -> Result<(), CliError> {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let opened = self.lock.metadata().map(identity).map_err(|e| file_error(&self.path, &e))?;
        match fs::metadata(&self.path).map(identity) {
            Ok(found) if found == opened => Ok(()),
            _ => Err(CliError::Local(format!(
                "{}: the directory was removed or replaced while it was in use",
                self.path.display()
            ))),
        }
    }
}

/// Creates the directory, and not those above it, whose absence is more likely a mistake in the path. Returns
/// whether it was missing.
fn create_dir(path: &Path) -> Result<bool, CliError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(CliError::Local(format!(
            "{}: the directory above it does not exist; create it first if the path is right",
            path.display()
        ))),
        Err(e) => Err(file_error(path, &e)),
    }
}

/// Other users must not be able to replace the files.
fn check_owner(path: &Path) -> Result<(), CliError> {
    let metadata = fs::metadata(path).map_err(|e| file_error(path, &e))?;
    let is_foreign = metadata.uid() != 0 && metadata.uid() != geteuid().as_raw();
    if is_foreign || metadata.mode() & 0o022 != 0 {
        return Err(CliError::Local(format!(
            "{}: other users may write here (uid {}, mode {:o}); choose a directory of this user that no others \
             may write to",
            path.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        )));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<Flock<File>, CliError> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path);
    let dir = opened.map_err(|e| file_error(path, &e))?;
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => {
            CliError::Local(format!("{}: another process renews the files here", path.display()))
        }
        errno => file_error(path, &errno.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NAMES: &[&str] = &["a", "b"];

    fn read(dir: &Path) -> String {
        ["a", "b"].map(|name| fs::read_to_string(dir.join(name)).unwrap_or_default()).concat()
    }

    fn count(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn files_are_replaced_together_and_removed_by_who_wrote_them() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tls");
        let mut dir = LinkedDir::claim(&path, NAMES, NAMES).unwrap();
        dir.replace(&[("a", b"1"), ("b", b"1")]).unwrap();
        let opened = fs::canonicalize(path.join(DATA)).unwrap();
        dir.replace(&[("a", b"2"), ("b", b"2")]).unwrap();
        assert_eq!((read(&path), read(&opened)), ("22".into(), "11".into()), "one generation is kept");
        let error = LinkedDir::claim(&path, NAMES, NAMES).unwrap_err().to_string();
        assert!(error.contains("another process renews the files here"), "{error}");
        dir.replace(&[("a", b"3"), ("b", b"3")]).unwrap();
        assert!(!opened.exists());
        fs::write(path.join("mine"), "").unwrap();
        dir.remove();
        assert_eq!((count(&path), path.join("mine").exists()), (1, true));
        fs::remove_file(path.join("mine")).unwrap();
        LinkedDir::claim(&path, NAMES, NAMES).unwrap().remove();
        assert!(path.exists(), "it was there before");
    }

    #[test]
    fn what_a_killed_process_left_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = LinkedDir::claim(root.path(), NAMES, NAMES).unwrap();
        dir.replace(&[("a", b"1"), ("b", b"1")]).unwrap();
        symlink("..hostbadge-x", root.path().join(NEW_DATA)).unwrap();
        drop(dir);
        // A process that writes nothing removes nothing.
        LinkedDir::claim(root.path(), NAMES, NAMES).unwrap().remove();
        assert_eq!(read(root.path()), "11");
        let mut dir = LinkedDir::claim(root.path(), NAMES, NAMES).unwrap();
        dir.replace(&[("a", b"2")]).unwrap();
        assert_eq!((read(root.path()).as_str(), root.path().join("b").is_symlink()), ("2", false));
        dir.remove();
        assert_eq!(count(root.path()), 0);
    }

    #[test]
    fn foreign_files_and_wrong_directories_are_refused_unchanged() {
        let root = tempfile::tempdir().unwrap();
        for (name, target) in
            [("a", None), ("b", Some("elsewhere")), (DATA, Some("..2026_11_26")), (NEW_DATA, None)]
        {
            let path = root.path().join(name);
            match target {
                None => fs::write(&path, "mine").unwrap(),
                Some(target) => symlink(target, &path).unwrap(),
            }
            let error = LinkedDir::claim(root.path(), NAMES, NAMES).unwrap_err().to_string();
            assert!(error.contains("is not of hostbadge certificate --watch"), "{error}");
            assert!(path.symlink_metadata().is_ok());
            fs::remove_file(path).unwrap();
        }
        let shared = root.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        for refused in [LinkedDir::claim(&shared, NAMES, NAMES).map(drop), prepare_dir(&shared)] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("other users may write here"), "{error}");
        }
        fs::remove_dir(shared).unwrap();
        let error = LinkedDir::claim(&root.path().join("typo/tls"), NAMES, NAMES).unwrap_err().to_string();
        assert!(error.contains("the directory above it does not exist"), "{error}");
        assert_eq!(count(root.path()), 0);
    }

    #[test]
    fn files_that_another_program_put_in_the_way_later_stay() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = LinkedDir::claim(root.path(), NAMES, NAMES).unwrap();
        dir.replace(&[("a", b"1")]).unwrap();
        fs::remove_file(root.path().join("a")).unwrap();
        fs::write(root.path().join("a"), "mine").unwrap();
        dir.replace(&[("a", b"2")]).unwrap_err();
        dir.remove();
        assert_eq!(fs::read_to_string(root.path().join("a")).unwrap(), "mine");
        assert_eq!(count(root.path()), 1);
    }
}

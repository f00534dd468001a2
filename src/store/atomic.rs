//! Atomic replacement of a file, by any number of writers at once.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Writers of one file at once; a further one gets an error.
const MAX_WRITERS: u32 = 16;

/// Replaces a file atomically: writes a temporary file, fsync, rename, fsync of the directory.
///
/// The temporary file is `<name>.N.tmp` in the same directory, with the least N that no other writer has:
/// each writer locks its own. A file that is not locked is of a writer that crashed, possibly with key
/// material; the next writer removes it, so that such files do not accumulate. Of several writers at once,
/// the last one's content stays, as a whole.
///
/// # Errors
/// The kernel's error of the step that failed. The old content is then unchanged, unless it was the last
/// step.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let (temp_path, mut file) = create_temp_file(path, mode)?;
    let result = (|| {
        file.write_all(contents)?;
        // The umask may have removed permissions.
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

/// Removes the temporary files that writers left in a directory when they crashed. The caller has locked the
/// directory against other writers.
///
/// # Errors
/// The directory cannot be read, or a file in it cannot be removed.
pub fn remove_temp_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_temp_name(&entry.file_name().to_string_lossy()) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether this is the name of a temporary file of a state file: `x.json.N.tmp`, or `x.json.tmp` of earlier
/// releases.
fn is_temp_name(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".tmp") else { return false };
    let without_number = stem.rsplit_once('.').filter(|(_, n)| n.parse::<u32>().is_ok());
    without_number.map_or(stem, |(stem, _)| stem).ends_with(".json")
}

fn temp_path(path: &Path, n: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{n}.tmp"));
    path.with_file_name(name)
}

/// A new locked file, under a name that no other writer uses.
fn create_temp_file(path: &Path, mode: u32) -> io::Result<(PathBuf, Flock<File>)> {
    for n in 0..MAX_WRITERS {
        let temp_path = temp_path(path, n);
        remove_if_abandoned(&temp_path)?;
        // `create_new` fails if the name exists, so it does not follow a symbolic link.
        let file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp_path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        };
        // Before it was locked, another writer may have taken it for an abandoned one.
        if let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            && is_at(&file, &temp_path)
        {
            return Ok((temp_path, file));
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{MAX_WRITERS} others are writing this file")))
}

/// Removes the file of a writer that crashed: its lock ended with the process.
fn remove_if_abandoned(temp_path: &Path) -> io::Result<()> {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(temp_path) else { return Ok(()) };
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(()) };
    // While the lock is held, no other writer removes this file, or uses it.
    if is_at(&file, temp_path) { fs::remove_file(temp_path) } else { Ok(()) }
}

/// Whether a file is the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (file.dev(), file.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn concurrent_writers_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        std::thread::scope(|scope| {
            for writer in 0..8u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        write_atomic(path, &[writer; 10_000], 0o600).unwrap();
                        let text = fs::read(path).unwrap();
                        assert!(text.len() == 10_000 && text.iter().all(|byte| *byte == text[0]));
                    }
                });
            }
        });
        assert_eq!(names(dir.path()), ["state.json"]);
    }

    #[test]
    fn files_of_crashed_writers_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(temp_path(&path, 0), "of a crash").unwrap();
        let (other, _file) = create_temp_file(&path, 0o600).unwrap();
        assert_eq!(other, temp_path(&path, 0));
        // The file of a writer that has not ended is left alone.
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(names(dir.path()), ["state.json", "state.json.0.tmp"]);
        for name in ["ca.json.tmp", "ca.json.1.tmp", "notes.tmp", "leaves.json.damaged-1", "x.json.d.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("dir.json.tmp")).unwrap();
        remove_temp_files(dir.path()).unwrap();
        assert_eq!(
            names(dir.path()),
            ["dir.json.tmp", "leaves.json.damaged-1", "notes.tmp", "state.json", "x.json.d.tmp"]
        );
    }

    #[test]
    fn planted_files_are_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, temp_path(&path, 0)).unwrap();
        nix::unistd::mkfifo(&temp_path(&path, 1), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(temp_path(&path, 2)).unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(
            (fs::read(&victim).unwrap(), fs::read(&path).unwrap()),
            (b"precious".into(), b"new".into())
        );
    }

    #[test]
    fn number_of_writers_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let writers: Vec<_> = (0..MAX_WRITERS).map(|_| create_temp_file(&path, 0o600).unwrap()).collect();
        assert!(write_atomic(&path, b"x", 0o600).unwrap_err().to_string().contains("16 others"));
        drop(writers);
        write_atomic(&path, b"x", 0o600).unwrap();
    }
}

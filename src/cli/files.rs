//! Bounded reads of files and standard input, and output to a file or standard output.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use data_encoding::HEXLOWER;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use ring::rand::{SecureRandom, SystemRandom};

use super::error::CliError;
use super::output::{is_null_device, is_stdout, is_stdout_discarded, print_bytes};

/// Largest token, key set or PCR file that is read, in bytes.
pub(super) const MAX_INPUT_SIZE: usize = 1024 * 1024;

/// Where a subcommand writes its document.
#[derive(Args, Debug)]
pub(super) struct OutputArgs {
    /// Write to FILE instead of standard output; "-" is standard output. A regular file is replaced
    /// atomically, a character device or FIFO is written to, and anything else is refused, such as a link to
    /// a file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl OutputArgs {
    /// Whether the document goes to a file, which leaves standard output free for a summary.
    pub(super) fn is_file(&self) -> bool {
        self.output.as_deref().is_some_and(|file| file != Path::new("-"))
    }

    /// Whether the output discards what is written, as `/dev/null` does.
    pub(super) fn is_discarded(&self) -> bool {
        match &self.output {
            Some(file) if self.is_file() => fs::metadata(file).is_ok_and(|found| is_null_device(&found)),
            _ => is_stdout_discarded(),
        }
    }

    /// Writes the document, to a file with permissions `mode`.
    pub(super) fn write(&self, text: &[u8], mode: u32) -> Result<ExitCode, CliError> {
        write_output(self.output.as_deref(), text, mode)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes a document to a file with permissions `mode`, or to standard output without a file or for "-".
pub(super) fn write_output(file: Option<&Path>, text: &[u8], mode: u32) -> Result<(), CliError> {
    match file {
        Some(file) if file != Path::new("-") => write_file(file, text, mode),
        _ => print_bytes(text),
    }
}

/// Replaces a regular file atomically, or creates it, with permissions `mode`. Writes to a character device,
/// a FIFO or an open file below `/proc`, such as `/dev/stdout`; these are never replaced.
pub(super) fn write_file(path: &Path, text: &[u8], mode: u32) -> Result<(), CliError> {
    let refused = |reason: &str| CliError::Local(format!("{}: {reason}", path.display()));
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => replace_file(path, text, mode),
        Err(e) => Err(file_error(path, &e)),
        Ok(found) if found.is_file() => replace_file(path, text, mode),
        Ok(found) if found.is_dir() => Err(refused("is a directory; name a file")),
        Ok(found) if is_written_to(&found) => write_to_open(path, text),
        Ok(found) if found.is_symlink() => match fs::metadata(path) {
            Ok(target) if is_stdout(&target) => print_bytes(text),
            Ok(target) if is_written_to(&target) || is_open_file(path) => write_to_open(path, text),
            // Followed, a link that another user made in a shared directory could name any file of this one.
            _ => Err(refused("is a symbolic link; name the file itself")),
        },
        Ok(_) => Err(refused("is neither a regular file, a character device nor a FIFO")),
    }
}

/// Replaces a file by a new one with this content, atomically. The content is on disk when this returns.
fn replace_file(path: &Path, text: &[u8], mode: u32) -> Result<(), CliError> {
    let file = TempFile::create(path, text, mode).map_err(|e| file_error(path, &e))?;
    file.rename(path).and_then(|()| sync_parent(path)).map_err(|e| file_error(path, &e))
}

/// A new file beside the one that it will replace. Dropped before that, it is removed.
pub(super) struct TempFile {
    path: PathBuf,
    file: File,
    is_named: bool,
}

impl TempFile {
    /// Writes a file with a name of its own in the directory of `target`.
    pub(super) fn create(target: &Path, text: &[u8], mode: u32) -> io::Result<TempFile> {
        let name = target.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
        let path = target.with_file_name(format!(".{}.{}", name.to_string_lossy(), random_suffix()?));
        // Never an existing file, and never the target of a link.
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        let mut temp = TempFile { path, file, is_named: true };
        temp.file.write_all(text)?;
        // The umask may have removed permissions.
        temp.file.set_permissions(Permissions::from_mode(mode))?;
        temp.file.sync_all()?;
        Ok(temp)
    }

    /// Gives the file its final name, in place of a file that has it.
    pub(super) fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.is_named = false;
        Ok(())
    }

    /// Gives the file its final name; fails if a file has it.
    pub(super) fn rename_new(self, target: &Path) -> io::Result<()> {
        fs::hard_link(&self.path, target)
    }

    /// Exchanges the file with the one at `target`, atomically: this one has then what was there. Not every file
    /// system can.
    pub(super) fn exchange(&self, target: &Path) -> io::Result<()> {
        Ok(renameat2(AT_FDCWD, &self.path, AT_FDCWD, target, RenameFlags::RENAME_EXCHANGE)?)
    }

    /// Leaves the file under the name that it has now.
    pub(super) fn keep(mut self) -> PathBuf {
        self.is_named = false;
        self.path.clone()
    }

    /// The name that the file has now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.is_named {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// 16 random hexadecimal digits for the name of a file.
pub(super) fn random_suffix() -> io::Result<String> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(HEXLOWER.encode(&bytes))
}

/// Has the kernel write the directory of a file to the disk. A directory that may be written and not read
/// cannot be opened, and is left to the kernel.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match File::open(parent.unwrap_or(Path::new("."))) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened?.sync_all(),
    }
}

/// An error about a file of the user.
pub(super) fn file_error(path: &Path, error: &io::Error) -> CliError {
    CliError::File(format!("{}: {error}", path.display()))
}

fn is_written_to(file: &fs::Metadata) -> bool {
    file.file_type().is_char_device() || file.file_type().is_fifo()
}

/// Whether the path is a link of `/proc` to an open file of this process, such as `/dev/fd/3`.
fn is_open_file(path: &Path) -> bool {
    path.parent().and_then(|parent| fs::canonicalize(parent).ok()).is_some_and(|dir| dir.starts_with("/proc"))
}

/// Writes to what is there. The kernel creates and truncates nothing.
fn write_to_open(path: &Path, text: &[u8]) -> Result<(), CliError> {
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path);
    opened.and_then(|mut file| file.write_all(text)).map_err(|e| file_error(path, &e))
}

/// Reads a file of at most `max_len` bytes.
pub(super) fn read_file(path: &Path, max_len: usize) -> Result<Vec<u8>, CliError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| CliError::Local(format!("{name}: {e}")))?;
    read_bounded(file, &name, max_len)
}

/// Reads standard input, at most `max_len` bytes.
pub(super) fn read_stdin(max_len: usize) -> Result<Vec<u8>, CliError> {
    read_bounded(io::stdin(), "standard input", max_len)
}

fn read_bounded(source: impl Read, name: &str, max_len: usize) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    source
        .take(max_len as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|e| CliError::Local(format!("{name}: {e}")))?;
    if text.len() > max_len {
        return Err(CliError::Local(format!("{name}: larger than {max_len} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn regular_files_are_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (file, neighbour) = (dir.path().join("doc"), dir.path().join("doc.tmp"));
        fs::write(&file, "old").unwrap();
        fs::write(&neighbour, "mine").unwrap();
        let old_inode = fs::metadata(&file).unwrap().ino();
        write_file(&file, b"new", 0o640).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_ne!(fs::metadata(&file).unwrap().ino(), old_inode);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(&neighbour).unwrap(), "mine");

        for target in [file.as_path(), Path::new("not there"), dir.path()] {
            let link = dir.path().join("link");
            symlink(target, &link).unwrap();
            let error = write_file(&link, b"x", 0o600).unwrap_err().to_string();
            assert!(error.contains("is a symbolic link; name the file itself"), "{error}");
            fs::remove_file(link).unwrap();
        }
        assert!(write_file(dir.path(), b"x", 0o600).unwrap_err().to_string().contains("is a directory"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
    }

    #[test]
    fn devices_and_open_files_are_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("null");
        symlink("/dev/null", &link).unwrap();
        write_file(&link, b"x", 0o600).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        let (path, fifo) = (dir.path().join("open"), dir.path().join("fifo"));
        let open = File::create(&path).unwrap();
        let name = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        write_file(Path::new(&name), b"into it", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "into it");

        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
        write_file(&fifo, b"through it", 0o600).unwrap();
        let mut received = String::new();
        (&reader).read_to_string(&mut received).unwrap();
        assert_eq!(received, "through it");
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    }
}

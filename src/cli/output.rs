//! Standard output and standard error.
//!
//! `println!` panics if standard output fails, as on a full disk or a closed pipe, so this module has the
//! only writes of the command. Each is flushed and checked: what a subcommand prints is its result, and
//! without it the subcommand has failed.

use std::fmt::Display;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::CliError;

/// Device number of `/dev/null` on Linux.
const NULL_DEVICE: u64 = libc::makedev(1, 3);

/// Whether descriptor 1 was closed when the process started.
static WAS_STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// The C library calls this before `main`. Later, a closed descriptor cannot be told from `/dev/null`: the
/// runtime opens that in its place, so that no file or socket becomes descriptor 0, 1 or 2.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;

extern "C" fn look_at_stdout() {
    // SAFETY: F_GETFD reads a flag of a descriptor, and no memory of this process.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    WAS_STDOUT_CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// Fails if standard output was closed when the process started, as by `>&-`: what the daemon issues for it
/// would be lost. `/dev/null` is accepted, because a user who names it wants that.
pub(super) fn require_stdout() -> Result<(), CliError> {
    match WAS_STDOUT_CLOSED.load(Ordering::Relaxed) {
        true => Err(CliError::Output(io::Error::other(
            "it is closed, so the result would be lost; nothing was requested. Redirect it to a file, or to \
             /dev/null if the result is not needed",
        ))),
        false => Ok(()),
    }
}

/// Writes a line to standard output.
pub(super) fn print_line(line: impl Display) -> Result<(), CliError> {
    print_bytes(format!("{line}\n").as_bytes())
}

/// Writes to standard output.
pub(super) fn print_bytes(text: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).map_err(CliError::Output)
}

/// Writes a line to standard error. A failure is ignored: there is no other place to report it.
pub(super) fn note(line: impl Display) {
    note_unterminated(format_args!("{line}\n"));
}

/// Writes text to standard error, such as a question, and ignores a failure.
pub(super) fn note_unterminated(text: impl Display) {
    let _ = io::stderr().lock().write_all(text.to_string().as_bytes());
}

/// Whether standard output discards what is written. The runtime replaces a closed one by `/dev/null`.
pub(super) fn is_stdout_discarded() -> bool {
    stdout_file().metadata().is_ok_and(|stdout| is_null_device(&stdout))
}

/// Whether a file is `/dev/null`.
pub(super) fn is_null_device(file: &Metadata) -> bool {
    file.file_type().is_char_device() && file.rdev() == NULL_DEVICE
}

/// Whether a file is the one that standard output writes to.
pub(super) fn is_stdout(file: &Metadata) -> bool {
    stdout_file().metadata().is_ok_and(|stdout| (stdout.dev(), stdout.ino()) == (file.dev(), file.ino()))
}

/// Has the kernel write to the disk what was printed, where standard output is a file.
pub(super) fn sync_stdout() -> Result<(), CliError> {
    let file = stdout_file();
    if file.metadata().map_err(CliError::Output)?.is_file() {
        file.sync_all().map_err(CliError::Output)?;
    }
    Ok(())
}

fn stdout_file() -> ManuallyDrop<File> {
    // SAFETY: the runtime keeps descriptor 1 open for the whole life of the process, and `ManuallyDrop` keeps
    // this file from closing it.
    ManuallyDrop::new(unsafe { File::from_raw_fd(io::stdout().as_raw_fd()) })
}

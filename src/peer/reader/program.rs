//! The reader's program: `hostbadged --read-executable`, with its socket as standard input. It reads no
//! configuration, no state and no TPM.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::sys::resource::{Resource, setrlimit};

use super::mount;
use super::protocol::{self, ReaderError, Request, Response};
use crate::peer::root_file::FileDigest;
use crate::peer::{Sha256Digest, sys};

/// The only argument of a reader.
pub const READER_ARGUMENT: &str = "--read-executable";

/// Serves one request on standard input and returns the exit status of the process.
pub fn serve_reader() -> ExitCode {
    let result = confine().and_then(|()| {
        let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        serve(&socket)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "hostbadged: a reader of executables: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Gives up what the process inherited and does not need: capabilities, and the right to gain any, to write
/// files and to start processes.
fn confine() -> std::io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_dumpable(false)?;
    sys::drop_capabilities()?;
    for limit in [Resource::RLIMIT_CORE, Resource::RLIMIT_FSIZE, Resource::RLIMIT_NPROC] {
        // The unit of a reader sets these limits and denies the call.
        let _ = setrlimit(limit, 0, 0);
    }
    Ok(())
}

/// Receives a request on `socket` and answers it.
pub(super) fn serve(mut socket: &UnixStream) -> std::io::Result<()> {
    let (request, executable, mount_table) = protocol::receive(socket)?;
    let response = digest(&request, &executable, mount_table);
    socket.write_all(&protocol::encode_response(&response))
}

fn digest(request: &Request, executable: &OwnedFd, mount_table: OwnedFd) -> Response {
    let table = BufReader::with_capacity(64 * 1024, File::from(mount_table));
    mount::find_type(table, request.mount_id)
        .and_then(|fs_type| mount::check_type(&fs_type, request.own_namespace))
        .map_err(ReaderError::Mount)?;
    let file = open(executable).map_err(|_| ReaderError::Unreadable)?;
    let sha256 = hash(&file, request.size)?;
    Ok(FileDigest { sha256, has_verity: sys::has_verity(file.as_fd()) })
}

/// Opens the file of an O_PATH descriptor, which is the running one whatever its path names now.
fn open(executable: &OwnedFd) -> std::io::Result<File> {
    let path = format!("/proc/self/fd/{}", executable.as_raw_fd());
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn hash(file: &File, size: u64) -> Result<Sha256Digest, ReaderError> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    let mut length = 0;
    // A byte more than expected shows that the file has grown.
    let mut reader = file.take(size.saturating_add(1));
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                context.update(&buffer[..count]);
                length += count as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(ReaderError::Unreadable),
        }
    }
    if length != size {
        return Err(ReaderError::Changed);
    }
    context.finish().as_ref().try_into().map(Sha256Digest).map_err(|_| ReaderError::Unreadable)
}

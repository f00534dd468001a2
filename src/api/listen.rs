//! Creates listening Unix sockets.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{Backlog, getsockopt, listen, setsockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

/// Connections that may wait to be accepted: enough for all clients that connect at once after a restart. A
/// process that connects without blocking gets EAGAIN above it. net.core.somaxconn limits it too (4096 by
/// default).
pub const FULL_BACKLOG: i32 = 4096;
/// The same while one uid connects faster than it may. Its connections fill any queue, and each connection of
/// another uid waits for those before it; above this length it waits in connect(2), where callers take turns.
pub const SHORT_BACKLOG: i32 = 256;

/// Name and permissions of a socket.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// File name below the run directory, without `.sock`; also systemd's `FileDescriptorName=`.
    pub name: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Group by number; the daemon's own where absent.
    pub group: Option<u32>,
}

/// Creates `DIR/NAME.sock`. A socket that exists is replaced: the caller holds the lock of the state
/// directory, so the daemon that created it has ended.
///
/// # Errors
/// Where something other than a socket has the path, or a system call fails. The text contains the path.
pub fn bind(dir: &Path, socket: Socket) -> io::Result<UnixListener> {
    let path = dir.join(format!("{}.sock", socket.name));
    let with_path = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(&path).map_err(with_path)?,
        Ok(_) => return Err(with_path(io::Error::other("exists and is not a socket; remove it"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(with_path(e)),
    }
    // The umask of 0077 keeps other users out until mode and group are set.
    let listener = UnixListener::bind(&path).map_err(with_path)?;
    if let Some(group) = socket.group {
        chown(&path, None, Some(group)).map_err(with_path)?;
    }
    fs::set_permissions(&path, Permissions::from_mode(socket.mode)).map_err(with_path)?;
    Ok(listener)
}

/// Sets how many connections may wait to be accepted.
///
/// # Errors
/// Where listen(2) fails.
pub fn set_backlog(listener: &UnixListener, connections: i32) -> io::Result<()> {
    Ok(listen(listener, Backlog::new(connections)?)?)
}

/// From asm-generic/socket.h (Linux 6.16); libc does not define it yet. Its value on most architectures.
const SO_PASSRIGHTS: libc::c_int = 83;
sockopt_impl!(
    /// Whether clients can attach descriptors to what they send.
    PassRights,
    Both,
    libc::SOL_SOCKET,
    SO_PASSRIGHTS,
    bool
);

/// Makes sendmsg(2) fail for clients that attach descriptors, on connections that are made from now on. Older
/// ones, and those of kernels that cannot do so, accept them: see [`may_carry_descriptors`].
///
/// The last reference to a descriptor that is not received is dropped by the thread that reads or closes the
/// connection, and some descriptors make it wait: a TCP socket with SO_LINGER for as long as its owner chose.
pub fn refuse_descriptors(listener: &UnixListener) {
    // An error means that the kernel does not have the option.
    let _ = setsockopt(listener, PassRights, &false);
}

/// Whether the client of a connection can attach descriptors to what it sends.
pub fn may_carry_descriptors(connection: &UnixStream) -> bool {
    getsockopt(connection, PassRights).unwrap_or(true)
}

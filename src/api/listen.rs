//! Sockets: passed by systemd, or made here.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// How a socket of ours is to be found.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// File name below the run directory, without `.sock`; also systemd's `FileDescriptorName=`.
    pub name: &'static str,
    pub mode: u32,
    pub group: Option<u32>,
}

/// Makes `DIR/NAME.sock`. A socket left by an earlier daemon is replaced; the state directory's lock says it is dead.
pub fn bind(dir: &Path, socket: Socket) -> io::Result<UnixListener> {
    let path = dir.join(format!("{}.sock", socket.name));
    let with_path = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(&path).map_err(with_path)?,
        Ok(_) => return Err(with_path(io::Error::other("is in the way and is no socket; move it away"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(with_path(e)),
    }
    // The umask keeps everybody out until mode and group are right.
    let listener = UnixListener::bind(&path).map_err(with_path)?;
    if let Some(group) = socket.group {
        chown(&path, None, Some(group)).map_err(with_path)?;
    }
    fs::set_permissions(&path, Permissions::from_mode(socket.mode)).map_err(with_path)?;
    Ok(listener)
}

//! The listening sockets: those that systemd passed, by name, and the others made here.

use std::collections::HashMap;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::api::{Socket, bind};

/// One of each.
pub struct Sockets {
    pub agent: UnixListener,
    pub workload: UnixListener,
    pub admin: UnixListener,
}

/// Takes what systemd passed and makes what it did not. To be called once.
pub fn open_sockets(run: &Path, admin_group: Option<u32>) -> io::Result<Sockets> {
    let mut inherited = inherited_sockets()?;
    let mut open = |socket: Socket| match inherited.remove(socket.name) {
        Some(listener) => Ok(listener),
        None => bind(run, socket),
    };
    let agent = open(Socket { name: "agent", mode: 0o666, group: None })?;
    let workload = open(Socket { name: "workload", mode: 0o666, group: None })?;
    let admin = open(Socket {
        name: "admin",
        mode: if admin_group.is_some() { 0o660 } else { 0o600 },
        group: admin_group,
    })?;
    if let Some(name) = inherited.keys().next() {
        return Err(io::Error::other(format!(
            "systemd passed a socket named \"{name}\", which hostbadged does not know; FileDescriptorName= is agent, workload or admin"
        )));
    }
    Ok(Sockets { agent, workload, admin })
}

/// The sockets of sd_listen_fds_with_names(3).
fn inherited_sockets() -> io::Result<HashMap<String, UnixListener>> {
    let mut listeners = HashMap::new();
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd passed this descriptor for us alone, and this is the one place that takes it, once.
        let listener = unsafe { UnixListener::from_raw_fd(fd) };
        if listener.local_addr().is_err() {
            return Err(io::Error::other(format!("systemd passed \"{name}\", which is no Unix socket")));
        }
        if listeners.insert(name.clone(), listener).is_some() {
            return Err(io::Error::other(format!("systemd passed two sockets named \"{name}\"")));
        }
    }
    Ok(listeners)
}

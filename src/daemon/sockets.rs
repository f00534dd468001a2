//! The listening sockets: taken over from systemd by name, or created in the run directory.

use std::collections::HashMap;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::api::{Socket, bind};

/// The listening sockets.
pub(super) struct Sockets {
    /// `agent.sock`: HTTP for agents, mode 0666.
    pub agent: UnixListener,
    /// `workload.sock`: SPIFFE Workload API, mode 0666.
    pub workload: UnixListener,
    /// `admin.sock`: HTTP for root and the admin group, mode 0660, or 0600 if there is no such group.
    pub admin: UnixListener,
    /// `credentials.sock`: values of credentials for service managers, mode 0666. `None` where systemd passed
    /// the others only, as after an upgrade whose new socket unit has not been started.
    pub credentials: Option<UnixListener>,
    /// `metrics.sock`: the HTTP of the admin socket for the metrics group, mode 0660, or 0600 if there is no such group.
    /// `None` as of `credentials`.
    pub metrics: Option<UnixListener>,
    /// The path of `admin.sock`, unless systemd made it.
    pub own_admin_path: Option<PathBuf>,
}

/// Permission bits of a socket that has a group, or would have one if it existed.
pub(super) fn admin_mode(group: Option<u32>) -> u32 {
    if group.is_some() { 0o660 } else { 0o600 }
}

/// Takes over the sockets that systemd passed and creates the others. Call it once per process.
///
/// # Errors
/// A socket cannot be created, or systemd passed one that the daemon cannot use.
pub(super) fn open_sockets(
    run: &Path,
    admin_group: Option<u32>,
    metrics_group: Option<u32>,
) -> io::Result<Sockets> {
    let mut inherited = inherited_sockets()?;
    let has_inherited = !inherited.is_empty();
    let own_admin_path = (!inherited.contains_key("admin")).then(|| run.join("admin.sock"));
    let mut open = |socket: Socket| match inherited.remove(socket.name) {
        Some(listener) => Ok(listener),
        None => bind(run, socket),
    };
    let agent = open(Socket { name: "agent", mode: 0o666, group: None })?;
    let workload = open(Socket { name: "workload", mode: 0o666, group: None })?;
    let admin = open(Socket { name: "admin", mode: admin_mode(admin_group), group: admin_group })?;
    let mut open_later = |socket: Socket, effect: &str| match open(socket) {
        Ok(listener) => Ok(Some(listener)),
        Err(e) if has_inherited => {
            tracing::warn!("{effect}: {e}; start hostbadge-{}.socket and restart hostbadged", socket.name);
            Ok(None)
        }
        Err(e) => Err(e),
    };
    let credentials = open_later(
        Socket { name: "credentials", mode: 0o666, group: None },
        "LoadCredential= in units does not work",
    )?;
    let metrics = open_later(
        Socket { name: "metrics", mode: admin_mode(metrics_group), group: metrics_group },
        "only administrators can read metrics",
    )?;
    if let Some(name) = inherited.keys().next() {
        return Err(io::Error::other(format!(
            "systemd passed a socket with the unknown name \"{name}\"; set FileDescriptorName= to agent, \
             workload, credentials, metrics or admin"
        )));
    }
    Ok(Sockets { agent, workload, admin, credentials, metrics, own_admin_path })
}

/// The sockets of sd_listen_fds_with_names(3).
fn inherited_sockets() -> io::Result<HashMap<String, UnixListener>> {
    let mut listeners = HashMap::new();
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd passed this descriptor to this process, and only this function takes it, once.
        let listener = unsafe { UnixListener::from_raw_fd(fd) };
        if listener.local_addr().is_err() {
            return Err(io::Error::other(format!("systemd passed \"{name}\", which is not a Unix socket")));
        }
        if listeners.insert(name.clone(), listener).is_some() {
            return Err(io::Error::other(format!("systemd passed two sockets named \"{name}\"")));
        }
    }
    Ok(listeners)
}

//! Values of the wire types in one line of text.

use crate::plural::counted;
use crate::wire::agent::{Peer, WhoamiDelegation};
use crate::wire::error::Fault;

/// A fault in one line.
pub(super) fn format_fault(fault: &Fault) -> String {
    match fault.line {
        Some(line) => format!("{}:{line}: {}", fault.file.display(), fault.message),
        None => format!("{}: {}", fault.file.display(), fault.message),
    }
}

/// The number of roles, to follow that of agents; empty where there are none.
pub(super) fn roles_suffix(roles: usize) -> String {
    match roles {
        0 => String::new(),
        n => format!(", {}", counted(n, "role")),
    }
}

/// What a sub-agent was delegated, in one line.
pub(super) fn format_delegation(delegation: &WhoamiDelegation) -> String {
    let WhoamiDelegation { parent, cgroup, boundary, expires_at } = delegation;
    format!("by {parent}, {cgroup}, boundary {}, until {expires_at}", boundary.as_str())
}

/// A peer in one line.
pub(super) fn format_peer(peer: &Peer) -> String {
    let mut text = format!("pid {}, uid {}, gid {}", peer.pid, peer.uid, peer.gid);
    if let Some(unit) = &peer.unit {
        text += &format!(", unit {unit}");
    }
    for (name, value) in
        [("user unit", &peer.user_unit), ("session", &peer.session), ("container", &peer.container)]
    {
        if let Some(value) = value {
            text += &format!(", {name} {value}");
        }
    }
    match &peer.exe {
        Some(exe) => text += &format!(", running {exe}"),
        None => text += ", executable not readable",
    }
    if !peer.pinned {
        text += ", unpinned";
    }
    text
}

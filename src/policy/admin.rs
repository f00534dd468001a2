//! Who may use the admin socket.

use crate::peer::Peer;

/// The users with administrative rights, besides root.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdminPolicy {
    /// Group ID of the admin group, or `None` if the host does not have the group.
    pub admin_group: Option<u32>,
    /// User ID of the developer who runs the daemon with `--dev`; `None` in production.
    pub dev_uid: Option<u32>,
}

impl AdminPolicy {
    /// Whether `peer` may administer agents and read the host's state: root, the admin group, the developer.
    pub fn is_admin(&self, peer: &Peer) -> bool {
        self.is_owner(peer) || self.admin_group.is_some_and(|group| peer.in_group(group))
    }

    /// Whether `peer` may perform operations that are equivalent to possession of the host's keys: root and
    /// the developer, but not the admin group, which is meant for operators of agents.
    pub fn is_owner(&self, peer: &Peer) -> bool {
        peer.uid == 0 || self.dev_uid == Some(peer.uid)
    }
}

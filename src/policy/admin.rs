//! Who may use the admin socket.

use crate::names::{Names, Resolution};
use crate::peer::Peer;

/// The users with administrative rights, besides root.
#[derive(Clone)]
pub struct AdminPolicy {
    /// Name of the admin group.
    pub admin_group: String,
    /// Name of the group whose members may read metrics, and nothing else.
    pub metrics_group: String,
    /// Numbers of names, with those of both groups.
    pub names: Names,
    /// User ID of the developer who runs the daemon with `--dev`; `None` in production.
    pub dev_uid: Option<u32>,
}

/// Why the members of the admin group have no access. Displayed for administrators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminGroupProblem {
    /// There is no such group.
    #[error("there is no such group, so only root may use the admin socket; create it or set [admin] group")]
    Missing,
    /// The name service has not answered since the daemon started.
    #[error("it cannot be looked up, so only root may use the admin socket until the name service answers")]
    Unknown,
}

impl AdminPolicy {
    /// Whether `peer` may administer agents and read the host's state: root, the admin group, the developer.
    pub fn is_admin(&self, peer: &Peer) -> bool {
        self.is_owner(peer) || self.group_number().is_ok_and(|group| peer.in_group(group))
    }

    /// Whether `peer` may read metrics: an administrator, or a member of the metrics group.
    pub fn is_monitor(&self, peer: &Peer) -> bool {
        self.is_admin(peer) || self.metrics_group_number().is_some_and(|group| peer.in_group(group))
    }

    /// Whether `peer` may perform operations that are equivalent to possession of the host's keys: root and
    /// the developer, but not the admin group, which is meant for operators of agents.
    pub fn is_owner(&self, peer: &Peer) -> bool {
        peer.uid == 0 || self.dev_uid == Some(peer.uid)
    }

    /// The number of the metrics group; `None` if there is no such group, or it is not known.
    pub fn metrics_group_number(&self) -> Option<u32> {
        match self.names.table().group(&self.metrics_group).current {
            Resolution::Number(gid) => Some(gid),
            Resolution::Missing | Resolution::Unknown => None,
        }
    }

    /// The number of the admin group.
    ///
    /// # Errors
    /// Why it has none.
    pub fn group_number(&self) -> Result<u32, AdminGroupProblem> {
        match self.names.table().group(&self.admin_group).current {
            Resolution::Number(gid) => Ok(gid),
            Resolution::Missing => Err(AdminGroupProblem::Missing),
            Resolution::Unknown => Err(AdminGroupProblem::Unknown),
        }
    }
}

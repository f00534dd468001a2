//! The process that a service manager is about to start in a unit.

use std::sync::Arc;

use super::groups::Groups;
use super::{Peer, PeerInfo};

impl Peer {
    /// The process of the unit for which this peer, a child of the service manager, loads credentials. It has
    /// the unit that the kernel reports of the peer, and no executable, since it does not run yet.
    /// `user` and `groups` are those that the service manager reports; without them it has the peer's, which
    /// decide nothing for agents without conditions on either.
    pub fn future_process(&self, user: Option<(u32, u32)>, groups: Vec<u32>) -> Peer {
        let (uid, gid) = user.unwrap_or((self.uid, self.gid));
        Peer(Arc::new(PeerInfo {
            pid: self.pid,
            uid,
            gid,
            groups: Groups::new(groups),
            pinned: self.pinned,
            unit: self.unit.clone(),
            user_unit: None,
            session: None,
            container: None,
            cgroup: self.cgroup.clone(),
            invocation: self.invocation.clone(),
            is_future: true,
            exe: None,
            finding: Default::default(),
        }))
    }
}

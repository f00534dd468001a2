//! Which cgroups an agent may delegate: those below its own.

use super::error::{Error, PlacementError};
use crate::agents::{AgentRegistry, Candidates, Delegation};
use crate::peer::{
    Cgroup, CgroupError, InspectError, InspectedProcess, PeerInfo, is_at_or_below, slice_path,
};

/// Processes that a cgroup may have when it is delegated.
const MAX_PROCESSES: usize = 64;

/// The cgroups of an agent's process below which it may delegate.
#[derive(Clone, Copy, Debug)]
pub struct OwnCgroups<'a> {
    /// The calling process.
    pub caller: &'a PeerInfo,
    /// The agent's name.
    pub agent: &'a str,
    /// Of a sub-agent, its delegation.
    pub delegation: Option<&'a Delegation>,
    /// The slice whose units the agent may name too.
    pub slice: Option<&'a str>,
    /// Of a process that is not the agent and may start commands for it: the agents that it is or may be.
    pub runner: Option<&'a Candidates>,
}

impl OwnCgroups<'_> {
    /// The path that a request names: one that does not begin with a slash is below the agent's own cgroup.
    pub fn path(&self, named: &str) -> Result<String, PlacementError> {
        if named.starts_with('/') || named.is_empty() {
            return Ok(named.to_owned());
        }
        Ok(format!("{}/{named}", self.own().ok_or(PlacementError::NoOwn)?))
    }

    /// The path of the agent's own cgroup: that of the delegation, the unit or the container.
    fn own(&self) -> Option<&str> {
        match self.delegation {
            Some(delegation) => Some(delegation.cgroup.path()),
            None => self.caller.cgroup.as_ref()?.bounding(),
        }
    }

    /// Checks that the agent may delegate a cgroup, by its place alone.
    ///
    /// # Errors
    /// A [`PlacementError`].
    pub fn check(&self, cgroup: &Cgroup) -> Result<(), PlacementError> {
        let caller = self.caller.cgroup.as_ref().ok_or(PlacementError::UnknownOwn)?;
        let path = cgroup.path();
        if cgroup.contains(caller.path()) {
            return Err(PlacementError::Own(path.to_owned()));
        }
        if path.ends_with(".slice") {
            return Err(PlacementError::Slice(path.to_owned()));
        }
        // In a unit or session of several users, each cgroup below it belongs to the user that made it.
        let uid = self.caller.uid;
        if self.runner.is_some() && uid != 0 && cgroup.owner() != Some(uid) {
            return Err(PlacementError::NotOwned(path.to_owned()));
        }
        let is_below = |above: &str| path != above && is_at_or_below(path, above);
        let own = self.own();
        if own.is_some_and(is_below) {
            return Ok(());
        }
        // A sub-agent has no more than its own cgroup.
        if self.delegation.is_none() {
            let manager = format!("/user.slice/user-{uid}.slice/user@{uid}.service");
            let slice = self.slice.and_then(slice_path);
            // Root of the host can put any process anywhere.
            let is_root = uid == 0 && self.caller.container.is_none();
            if is_root || is_below(&manager) || slice.as_deref().is_some_and(is_below) {
                return Ok(());
            }
        }
        match own {
            Some(own) => Err(PlacementError::NotBelow { cgroup: path.to_owned(), own: own.to_owned() }),
            None => Err(PlacementError::NoOwn),
        }
    }

    /// Checks that no process in the cgroup is another user's or another agent's. Reads files of the kernel.
    ///
    /// # Errors
    /// A [`PlacementError`], or a [`CgroupError`] if there are too many processes.
    pub fn check_processes(&self, cgroup: &Cgroup, agents: &AgentRegistry) -> Result<(), Error> {
        for pid in cgroup.processes(MAX_PROCESSES)? {
            let process = match InspectedProcess::open(pid) {
                Ok(process) => process,
                Err(InspectError::NoProcess(_)) => continue,
                Err(error) => return Err(CgroupError::Unreadable(error.to_string()).into()),
            };
            let peer = process.peer();
            let refuse =
                |of: String| PlacementError::OtherProcess { pid, cgroup: cgroup.path().to_owned(), of };
            if self.caller.uid != 0 && peer.uid != self.caller.uid {
                return Err(
                    refuse(format!("one of uid {}, and not of uid {}", peer.uid, self.caller.uid)).into()
                );
            }
            let candidates = agents.candidates(peer);
            let other = match self.runner {
                // What the caller is itself, it may give up.
                Some(caller) => candidates.beyond(caller),
                None => candidates.other_than(self.agent),
            };
            if let Some(other) = other {
                return Err(refuse(format!("or may be one of agent \"{other}\"")).into());
            }
        }
        Ok(())
    }
}

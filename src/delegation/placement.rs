//! Which cgroups an agent may delegate: those below its own.

use crate::agents::{AgentRegistry, Delegation};
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
}

/// Why an agent may not delegate a cgroup. The caller receives the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The cgroup of the caller is not known.
    #[error("the cgroup of this process in the unified hierarchy cannot be read")]
    UnknownOwn,
    /// The cgroup is that of the caller, or one above it.
    #[error("{0} contains this process; delegate a cgroup below it that this process is not in")]
    Own(String),
    /// Many units have their cgroups in it, also later.
    #[error("{0} is a slice, whose units are not all of this agent; delegate one of them")]
    Slice(String),
    /// The process is in no cgroup that could have one of its own below it.
    #[error("this process is in no unit, container or scope; name the cgroup from the root of the hierarchy")]
    NoOwn,
    /// The cgroup is elsewhere.
    #[error(
        "{cgroup} is not below {own}, the cgroup of this agent; with Delegate=yes, a unit can make cgroups below its \
         own"
    )]
    NotBelow {
        /// The cgroup.
        cgroup: String,
        /// That of the agent.
        own: String,
    },
    /// A process in it is not the caller's.
    #[error("process {pid} in {cgroup} is {of}")]
    OtherProcess {
        /// The process.
        pid: i32,
        /// The cgroup.
        cgroup: String,
        /// Whose it is.
        of: String,
    },
    /// It is delegated already, or contains or is in a cgroup that is.
    #[error("{cgroup} overlaps the cgroup of sub-agent \"{agent}\"")]
    Delegated {
        /// The cgroup.
        cgroup: String,
        /// The other sub-agent.
        agent: String,
    },
    /// A delegation of it has ended.
    #[error(
        "the cgroup of sub-agent \"{agent}\", which has ended, is there still; remove it, and make it again"
    )]
    Ended {
        /// The sub-agent.
        agent: String,
    },
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
        let is_below = |above: &str| path != above && is_at_or_below(path, above);
        let own = self.own();
        if own.is_some_and(is_below) {
            return Ok(());
        }
        // A sub-agent has no more than its own cgroup.
        if self.delegation.is_none() {
            let uid = self.caller.uid;
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
    pub fn check_processes(&self, cgroup: &Cgroup, agents: &AgentRegistry) -> Result<(), super::Error> {
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
            if let Some(other) = agents.candidates(peer).other_than(self.agent) {
                return Err(refuse(format!("or may be one of agent \"{other}\"")).into());
            }
        }
        Ok(())
    }
}

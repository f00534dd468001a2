//! Why a cgroup is not delegated.

use super::MAX_DELEGATIONS;
use crate::peer::CgroupError;
use crate::store;

/// Why a cgroup is not delegated. The caller receives the text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cgroup cannot be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The caller may not name the cgroup.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The sub-agent has another cgroup.
    #[error("sub-agent \"{agent}\" has the cgroup {cgroup} until that ends; give this one another name")]
    NameInUse {
        /// The sub-agent.
        agent: String,
        /// Its cgroup.
        cgroup: String,
    },
    /// The agent has as many sub-agents as it may have, or as users may start, by this table.
    #[error(
        "agent \"{0}\" has {1} sub-agents, which is its limit ([{2}] max); those that have ended count until their \
         cgroups are removed"
    )]
    TooManyOfAgent(String, u32, &'static str),
    /// The host has as many delegated cgroups as it may have.
    #[error("this host has {MAX_DELEGATIONS} delegated cgroups, which is its limit")]
    TooMany,
    /// It is not known which cgroups are delegated.
    #[error("which cgroups are delegated is not known: {0}")]
    Unknown(String),
    /// It cannot be stored.
    #[error("the delegation cannot be stored: {0}")]
    Store(#[from] store::Error),
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
    /// A user names a cgroup that is not the user's.
    #[error("{0} is not a cgroup of this user")]
    NotOwned(String),
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

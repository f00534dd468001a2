//! Why a cgroup is not delegated.

use super::MAX_DELEGATIONS;
use super::placement::PlacementError;
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
    /// The agent has as many sub-agents as it may have.
    #[error(
        "agent \"{0}\" has {1} sub-agents, which is its limit ([delegate] max); those that have ended count until their \
         cgroups are removed"
    )]
    TooManyOfAgent(String, u32),
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

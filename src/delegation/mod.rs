//! Which cgroups are delegated to sub-agents: created by requests, ended by their time, their cgroup or their parent.
//!
//! [`Delegations`] has all of them. Those in force are part of the agents' registrations, so that a process in a
//! delegated cgroup is identified as the sub-agent and as nothing else. A delegation that has ended stays as long as
//! its cgroup exists, because the processes in it would be the parent otherwise; for the same reason, a delegation is
//! stored in `delegations.json` before it is in force, and if that file cannot be read, agents with `[delegate]` are
//! not identified, and no agents if a file has `[run]`.
//!
//! [`OwnCgroups`] says which cgroups an agent may name.

mod delegated;
mod error;
mod file;
mod placement;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use delegated::{DelegatedCgroup, NewDelegation};
pub use error::{Error, PlacementError};
pub use placement::OwnCgroups;
pub use table::{Delegations, EndedDelegation};

/// Delegations of a host, with those that have ended and whose cgroups still exist.
pub const MAX_DELEGATIONS: usize = 1024;
/// How often cgroups that no longer exist are looked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

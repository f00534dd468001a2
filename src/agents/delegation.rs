//! A delegation: a cgroup whose processes are a sub-agent, with a part of the rights of its parent.

use std::time::Duration;

use super::binding::Binding;
use super::match_tag::MatchTag;
use super::name::AgentName;
use crate::clock::Timestamp;
use crate::peer::{Boundary, Cgroup, Invocation};

/// A cgroup whose processes are an agent, whatever the conditions of registered agents say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// The sub-agent.
    pub agent: AgentName,
    /// The cgroup. Processes in cgroups below it are the sub-agent too, unless these are delegated further.
    pub cgroup: Cgroup,
    /// The invocation of its processes, which ends with the cgroup.
    pub invocation: Invocation,
    /// The invocations of the agents above it, the nearest first. It ends with each of them.
    pub parent_invocations: Vec<Invocation>,
    /// The tag of the conditions that the process of the registered agent met, or of `[run]`. It ends when they change.
    pub root_tag: MatchTag,
    /// The user who started the command, or one above it, by `[run]` of the registered agent.
    pub run_by: Option<u32>,
    /// The user whose processes are the sub-agent, and no others; `None` where root delegated, for all users.
    pub uid: Option<u32>,
    /// What of its parent's rights it has.
    pub rights: DelegatedRights,
    /// When it ends.
    pub expires: Timestamp,
    /// Who keeps its processes in the cgroup.
    pub boundary: Boundary,
}

/// What of its parent's rights a sub-agent has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DelegatedRights {
    /// All: each grant and credential that the parent has at the time of a request.
    All,
    /// These.
    Some(Vec<DelegatedRight>),
}

/// One right of a sub-agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DelegatedRight {
    /// A part of a grant of the parent.
    Grant(DelegatedGrant),
    /// The credential of this name, as the parent may use it.
    Credential(String),
}

/// A part of a grant of the parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegatedGrant {
    /// The audience of the grant.
    pub audience: String,
    /// The scopes; `None` for all that the parent has.
    pub scopes: Option<Vec<String>>,
    /// The longest lifetime of a token; `None` for that of the parent's grant.
    pub ttl: Option<Duration>,
    /// What tokens have to be bound to; `None` for what the parent's grant says.
    pub bind: Option<Binding>,
}

impl Delegation {
    /// Whether this is a delegation by `other` or by one below it: not by an earlier one of the same name.
    pub fn is_below(&self, other: &Delegation) -> bool {
        self.parent_invocations.contains(&other.invocation)
    }

    /// How long something may live that is issued now for `longest`: no longer than the delegation, and at least 1 s.
    pub fn cap(&self, longest: Duration, now: Timestamp) -> Duration {
        longest.min(Duration::from_secs(self.expires.since(now).as_secs().max(1)))
    }
}

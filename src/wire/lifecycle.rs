//! The life cycle of agents: what each did and has, and what an administrator may end.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Largest `limit` of `GET /v1/agents`.
pub const MAX_LISTED_AGENTS: u64 = 1000;
/// Findings in the array of `GET /v1/lifecycle`.
pub const MAX_LISTED_FINDINGS: usize = 1000;

/// What one agent did and has, by the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentActivity {
    /// Whether it gets something new.
    pub state: AgentState,
    /// Whether its unit has a file on this host; absent if it names no unit, or a scope, which has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitPresence>,
    /// The time of its last record in the audit log; absent if there is none, as far as the log is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Its tokens that have not expired and are not revoked: access tokens, JWT-SVIDs and WIT-SVIDs.
    pub live_tokens: u32,
    /// The number of its grants, with those of its roles.
    pub grants: usize,
    /// Its grants for whose audience something was issued, as far as the log is known.
    pub grants_used: usize,
}

/// Whether an agent gets something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It does.
    Active,
    /// It does, and a change of its rights waits for a second administrator.
    Pending,
    /// It does not, and what it has stays valid until it expires.
    Drained,
    /// It does not, and what it had is revoked.
    Revoked,
}

/// Whether a unit has a file on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum UnitPresence {
    /// It has.
    There,
    /// It has not.
    Absent,
}

/// The activity of all agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ActivitySummary {
    /// The time from which the audit log is known; absent until the daemon has read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<Timestamp>,
    /// Tokens of all agents that have not expired and are not revoked.
    pub live_tokens: u64,
    /// Agents that have no record.
    pub never_seen: usize,
    /// Agents whose unit has no file; absent while the directories of units do not respond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_units: Option<usize>,
    /// Units that no agent names, in which processes asked that are no agent.
    pub unregistered_units: usize,
}

/// `200` of `GET /v1/lifecycle`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LifecycleResponse {
    /// The time from which the audit log is known; absent until the daemon has read it. Until then, no agent counts as
    /// unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<Timestamp>,
    /// Number of registered agents.
    pub agents: usize,
    /// What was found, by kind; at most 1,000.
    pub findings: Vec<LifecycleFinding>,
    /// How many there are.
    pub count: usize,
    /// Agents that were not seen, and are known for too short a time to count as unused.
    pub left_out: usize,
}

/// What may have to be ended or completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LifecycleFinding {
    /// What it is.
    pub kind: LifecycleKind,
    /// The agent; absent where it is about a unit or a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The role whose grant has expired; absent of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The unit; absent where it is not about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Since when, or the last time; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// One line for a person, with what to do.
    pub what: String,
}

/// Kinds of findings. Names do not change; those that are lints, too, have the lints' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LifecycleKind {
    /// The agent's unit has no file on this host.
    UnknownUnit,
    /// Processes of the unit asked, and no agent names the unit.
    UnregisteredUnit,
    /// The agent was not seen.
    UnusedAgent,
    /// The agent has no owner.
    NoOwner,
    /// The agent is drained.
    Drained,
    /// The agent is revoked.
    Revoked,
    /// A grant or credential has expired.
    ExpiredGrant,
}

impl LifecycleKind {
    /// The name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            LifecycleKind::UnknownUnit => "unknown-unit",
            LifecycleKind::UnregisteredUnit => "unregistered-unit",
            LifecycleKind::UnusedAgent => "unused-agent",
            LifecycleKind::NoOwner => "no-owner",
            LifecycleKind::Drained => "drained",
            LifecycleKind::Revoked => "revoked",
            LifecycleKind::ExpiredGrant => "expired-grant",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_those_of_json() {
        for kind in [
            LifecycleKind::UnknownUnit,
            LifecycleKind::UnregisteredUnit,
            LifecycleKind::UnusedAgent,
            LifecycleKind::NoOwner,
            LifecycleKind::Drained,
            LifecycleKind::Revoked,
            LifecycleKind::ExpiredGrant,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}

//! Why a process is an agent, or is not: for administrators on the admin socket, and for the process itself
//! on the agent socket.

use serde::{Deserialize, Serialize};

use super::agent::{Peer, WhoamiDelegation};

/// `200` of `GET /v1/processes/{pid}` and of `GET /v1/whoami/why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WhyResponse {
    /// The process.
    pub peer: Peer,
    /// Every agent that the process is, in alphabetical order.
    pub agents: Vec<String>,
    /// Why a request of the process that names no agent is refused; absent where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Of a process in the cgroup of a sub-agent, what that was delegated. The cgroup decides which agent the process is, and
    /// the conditions do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<WhoamiDelegation>,
    /// The agents that the process was compared with, those with the fewest unmet conditions first. For the
    /// process itself: those that it is, that have its user, or that have its unit, unless users start
    /// processes in that.
    pub compared: Vec<AgentComparison>,
    /// Number of further agents, which have as many unmet conditions or more.
    pub omitted: usize,
}

/// A process compared with one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentComparison {
    /// The agent's name.
    pub agent: String,
    /// The agent's roles; absent if it has none, and for the process itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Whether all conditions hold.
    pub matches: bool,
    /// Each condition that the agent has.
    pub conditions: Vec<ConditionComparison>,
}

/// A process compared with one condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConditionComparison {
    /// The key in `[match]`: `user`, `group`, `unit`, `exe`, `exe_sha256` or `measured`.
    pub condition: String,
    /// Whether it holds.
    pub outcome: ConditionOutcome,
    /// What the condition requires; absent for the process itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was found of the process.
    pub seen: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ConditionOutcome {
    /// The process meets it.
    Holds,
    /// The process does not meet it.
    Fails,
    /// It cannot be decided; `seen` or `expected` says why.
    Unknown,
    /// It needs the digest of the executable, which is read only where all other conditions hold.
    NotCompared,
}

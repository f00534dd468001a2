//! What rules found about agents, and what is known of each.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// `200` of `GET /v1/anomalies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AnomaliesResponse {
    /// Since when agents are observed; absent until the daemon has read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<Timestamp>,
    /// The latest alerts, the latest first; at most 256.
    pub alerts: Vec<AnomalyAlert>,
    /// The rules of this host.
    pub rules: Vec<AnomalyRuleState>,
    /// Agents that are suspended by a rule.
    pub suspended: Vec<SuspendedAgent>,
    /// Alerts since the daemon started that were not recorded, because too many came at once.
    pub dropped: u64,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AnomalyAlert {
    /// When it was found.
    pub time: Timestamp,
    /// The rule's name.
    pub rule: String,
    /// The agent's name.
    pub agent: String,
    /// What was found.
    pub detail: String,
    /// Whether the agent was suspended.
    pub suspended: bool,
    /// Findings of the rule since its alert before, which had no alert of their own.
    pub repeats: u32,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AnomalyRuleState {
    /// Its name, as in `[anomaly]`.
    pub name: String,
    /// What it does: `off`, `alert` or `suspend`.
    pub action: String,
    /// Its alerts since the daemon started; absent for one agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<u64>,
}

/// An agent that is suspended by a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SuspendedAgent {
    /// Its name.
    pub agent: String,
    /// The rule's name.
    pub rule: String,
    /// Since when.
    pub since: Timestamp,
    /// What was found.
    pub detail: String,
}

/// `200` of `GET /v1/anomalies/{name}`: what is known of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentAnomalies {
    /// The agent's name.
    pub agent: String,
    /// The rules, with what they do for this agent.
    pub rules: Vec<AnomalyRuleState>,
    /// The hours that its file states; absent where it states none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stated_hours: Option<String>,
    /// What it did; absent if it was not seen yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<AgentProfile>,
    /// The suspension by a rule; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<SuspendedAgent>,
    /// The latest alerts about it, the latest first.
    pub alerts: Vec<AnomalyAlert>,
}

/// What an agent did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentProfile {
    /// The latest observation.
    pub last_seen: Timestamp,
    /// Seconds of the learning time that are left; absent where it has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_left: Option<u64>,
    /// What it gets in an hour in which it gets something, on average: tokens, certificates and credentials.
    pub hourly_mean: f64,
    /// More in an hour is an anomaly.
    pub hourly_threshold: u64,
    /// More refusals in five minutes are an anomaly.
    pub refusals_threshold: u64,
    /// The hours at which it is used from Monday to Friday: 0 to 23.
    pub working_hours: Vec<usize>,
    /// The hours at which it is used on weekends: 0 to 23.
    pub weekend_hours: Vec<usize>,
    /// Number of audiences and credentials that it has used.
    pub known_names: usize,
    /// The share of its tokens with the longest lifetime; absent before there are enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_share: Option<f64>,
}

/// `POST /v1/anomalies/resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// The agent's name.
    pub agent: String,
}

/// `200` of `POST /v1/anomalies/resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ResumeResponse {
    /// The agent's name.
    pub agent: String,
    /// The rule that had suspended it.
    pub rule: String,
}

//! What a rule found.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::config::AnomalyRule;

/// A finding of a rule, which is not recorded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// When it was found.
    pub time: Timestamp,
    /// The rule.
    pub rule: AnomalyRule,
    /// The agent's name.
    pub agent: String,
    /// Its tenant.
    pub tenant: Option<String>,
    /// What was found, in one sentence without a subject.
    pub detail: String,
    /// Findings of this rule and agent since the alert before, which had no alert of their own.
    pub repeats: u32,
}

/// An alert that was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAlert {
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
    /// Findings since the alert before that had no alert of their own.
    pub repeats: u32,
}

/// How long further findings of a rule are counted after an alert about the same agent.
pub(super) fn repeats_after(rule: AnomalyRule) -> Duration {
    let hours = match rule {
        AnomalyRule::Hours => 12,
        _ => 1,
    };
    Duration::from_secs(hours * 3600)
}

//! The revocation of a target.

use std::time::Duration;

use super::target::{Target, TargetKind};
use crate::agents::{AgentName, MAX_TOKEN_TTL};
use crate::clock::Timestamp;

/// A revocation without effect on new requests is kept for this time: what was issued before it has expired
/// then. Certificates are on the revocation lists until they expire.
const RETENTION: Duration = Duration::from_secs(MAX_TOKEN_TTL.as_secs() + 60);

/// A clock that was set back by less than this makes nothing valid again.
const MARGIN: Duration = Duration::from_secs(60);

/// An invocation that has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedInvocation<'a> {
    /// Its ID.
    pub id: &'a str,
    /// The agents to which something was issued in it; empty if they are not known.
    pub agents: &'a [AgentName],
    /// When all that was issued in it has expired.
    pub until: Timestamp,
    /// What has ended.
    pub reason: &'a str,
}

/// The revocation of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What is revoked.
    pub target: Target,
    /// What was issued at a lower epoch is revoked.
    pub epoch: u64,
    /// Whether nothing is issued in the target.
    pub is_blocking: bool,
    /// When it was revoked.
    pub revoked_at: Timestamp,
    /// Who revoked it: `uid 0, pid 7`, or the daemon.
    pub revoked_by: String,
    /// Why, in the administrator's words; may be empty.
    pub reason: String,
    /// From when on it has no effect; `None` while it blocks.
    pub lapses: Option<Timestamp>,
    /// Whether the state manifest has it at once. Ended invocations are in the next batch.
    pub is_guarded: bool,
}

/// Who revoked what a rule for anomalies revoked: the name of the rule follows.
const RULE_PREFIX: &str = "rule ";

/// Who revokes what this rule for anomalies revokes.
pub fn revoked_by_rule(rule: &str) -> String {
    format!("{RULE_PREFIX}{rule}")
}

/// The rule for anomalies among those who revoke; `None` for anybody else.
pub(super) fn rule_of(revoked_by: &str) -> Option<&str> {
    revoked_by.strip_prefix(RULE_PREFIX)
}

impl Revocation {
    /// The same without effect on new requests, from `now` on.
    pub(super) fn lifted(&self, now: Timestamp) -> Revocation {
        Revocation { is_blocking: false, lapses: Some(lapses_after(now)), ..self.clone() }
    }

    /// The rule for anomalies that revoked it; `None` if somebody else did.
    pub fn rule(&self) -> Option<&str> {
        rule_of(&self.revoked_by)
    }

    /// One line for callers and records.
    pub fn description(&self) -> String {
        let at = self.revoked_at.to_rfc3339_seconds();
        match (self.target.kind(), self.is_blocking) {
            (TargetKind::Everything, true) => format!("this host is frozen since {at}"),
            (TargetKind::Everything, false) => format!("everything was revoked at {at}"),
            (_, true) => format!("{} is revoked since {at}", self.target),
            (_, false) => format!("{} was revoked at {at}", self.target),
        }
    }
}

impl EndedInvocation<'_> {
    /// When its revocation can be forgotten.
    pub(super) fn lapses(&self) -> Timestamp {
        self.until.after(MARGIN)
    }
}

/// When a revocation that blocks nothing can be forgotten.
pub(super) fn lapses_after(now: Timestamp) -> Timestamp {
    now.after(RETENTION)
}

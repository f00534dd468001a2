//! Requests that wait for the approval of an administrator.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// `200` of `GET /v1/approvals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ApprovalsResponse {
    /// The requests that wait, and those that were decided and not yet used or forgotten; the oldest first.
    pub approvals: Vec<Approval>,
}

/// A request that waits for an approval, or that was decided; also `200` of `POST /v1/approvals/decide`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Approval {
    /// What names it.
    pub id: String,
    /// SHA-256 of `request` as compact JSON in the order of its members, in hexadecimal digits.
    pub digest: String,
    /// Where it stands.
    pub state: ApprovalState,
    /// When the agent asked first.
    pub requested: Timestamp,
    /// Seconds until it is forgotten.
    pub seconds_left: u64,
    /// The process that asked first.
    pub pid: i32,
    /// Everything that an approval is bound to: agent, process, and what is requested.
    pub request: serde_json::Value,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalState {
    /// It waits.
    Pending,
    /// It was approved, and can be used.
    Approved,
    /// It was refused.
    Denied,
}

/// Body of `POST /v1/approvals/decide`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DecideRequest {
    /// What names the request.
    pub id: String,
    /// The digest of what the administrator examined. Another one is not decided.
    pub digest: String,
    /// The decision.
    pub decision: ApprovalDecision,
    /// Why it is refused, which the agent reads; at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What an administrator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalDecision {
    /// The request is permitted.
    Approve,
    /// It is refused.
    Deny,
}

//! Signatures of reviews.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// `POST /v1/reviews/sign`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SignReviewRequest {
    /// SHA-256 of the review's JSON, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Who examined the review, 1 to 256 bytes.
    pub reviewer: String,
    /// What follows from it, at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The name of the host that was reviewed, at most 256 bytes.
    pub host: String,
    /// Whether the log covers the period that was asked for.
    pub complete: bool,
    /// Records that the log lacks in it.
    pub missing_records: u64,
    /// From when on the review knows what was used.
    pub since: Timestamp,
    /// When the review was made, not later than now.
    pub until: Timestamp,
    /// Agents in it.
    pub agents: u64,
    /// Agents that were given nothing.
    pub unused_agents: u64,
    /// Agents that were not seen in the period.
    pub not_seen: u64,
    /// Audiences, scopes and credentials that were not used.
    pub unused_rights: u64,
}

/// `200` of `POST /v1/reviews/sign`: it is in the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SignReviewResponse {
    /// SHA-256 of the review's JSON.
    pub sha256: String,
    /// Who examined the review.
    pub reviewer: String,
    /// The calling process as the kernel knows it: `uid N, login uid N, pid N`.
    pub signed_by: String,
    /// When it was recorded.
    pub signed_at: Timestamp,
}

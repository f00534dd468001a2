//! Changes of rights that wait for a second administrator.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Body of `POST /v1/agents/approve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ApproveRequest {
    /// Digest of the change that the administrator examined. Another one is not approved.
    pub digest: String,
}

/// A change of rights that waits for a second administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PendingChange {
    /// SHA-256 over the names and contents of the files of agents, roles and policies, hexadecimal.
    pub digest: String,
    /// The administrator who asked for it; `null` until one did.
    pub requested_by: Option<String>,
    /// Since when it waits.
    pub since: Timestamp,
    /// Number of changes of rights.
    pub count: usize,
    /// Number of those that make rights wider.
    pub widening: usize,
    /// The first 100 changes, those that make rights wider first.
    pub changes: Vec<String>,
}

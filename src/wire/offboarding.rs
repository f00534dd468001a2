//! Offboarding of agents.

use serde::{Deserialize, Serialize};

/// `POST /v1/agents/offboard`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OffboardRequest {
    /// The agent's name.
    pub name: String,
    /// Why, for the record and the receipt; at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `200` of `POST /v1/agents/offboard`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OffboardResponse {
    /// The agent's name.
    pub agent: String,
    /// The receipt: a JWS of `typ: hostbadge-receipt+jwt` that the host key in the TPM signed.
    pub receipt: String,
    /// What the administrator still has to do, one sentence each.
    pub next_steps: Vec<String>,
}

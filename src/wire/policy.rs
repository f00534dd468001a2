//! Policies: those in force, and why a request is decided as it is.

use serde::{Deserialize, Serialize};

/// Policies in one response.
pub const MAX_LISTED_POLICIES: usize = 1000;

/// A set of policies, as audit records and tokens name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PolicySet {
    /// Counts the different sets that were in force since the daemon started, from 1.
    pub version: u64,
    /// SHA-256 of the files' names and contents, hexadecimal.
    pub sha256: String,
}

/// `200` of `GET /v1/policies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PoliciesResponse {
    /// The set in force; `null` without policy files.
    pub set: Option<PolicySet>,
    /// Whether a request needs a policy that permits it.
    pub require_permit: bool,
    /// The time zone of hours and weekdays.
    pub timezone: String,
    /// The policies, in the order of files and lines; at most 1000.
    pub policies: Vec<Policy>,
    /// Number of further policies.
    pub omitted: usize,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Policy {
    /// File and line: `hours.cedar:3`.
    pub id: String,
    /// The annotation `@id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `permit` or `forbid`.
    pub effect: String,
    /// Whom it concerns: `all agents`, `agent NAME`, `tenant NAME` or `role NAME`.
    pub scope: String,
}

/// `200` of `GET /v1/policies/why`: a decision that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PolicyWhyResponse {
    /// The agent.
    pub agent: String,
    /// `token`, `certificate`, `attest`, `credential` or `prove`.
    pub action: String,
    /// The audience or the credential, or the kind of a proof and what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Whether all layers allow the request.
    pub allowed: bool,
    /// Identity, least privilege and context, in this order.
    pub layers: Vec<DecisionLayer>,
    /// The policies in force; `null` without policy files.
    pub policy: Option<PolicySet>,
    /// The policies that were in force at the record that is explained, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_policy: Option<PolicySet>,
}

/// One of the three layers of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DecisionLayer {
    /// `identity`, `least-privilege` or `context`.
    pub layer: String,
    /// What it says.
    pub verdict: LayerVerdict,
    /// The rules that it follows from.
    pub rules: Vec<DecisionRule>,
    /// The reason.
    pub reason: String,
    /// What would have to change; absent where the layer allows the request or was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// What a layer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LayerVerdict {
    /// It allows the request.
    Allows,
    /// It refuses the request.
    Refuses,
    /// It was not asked, because an earlier one refuses.
    NotAsked,
}

/// A rule of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DecisionRule {
    /// A policy by file, line and `@id`, a grant or credential of the agent, a condition of `[match]`, or a key
    /// of the configuration.
    pub rule: String,
    /// The policy as it is written, at most 2000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

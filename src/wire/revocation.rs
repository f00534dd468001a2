//! Revocation: an agent's own tokens (RFC 7009), and the administrators' requests.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Revocations in the array of `GET /v1/revocations`.
pub const MAX_LISTED_REVOCATIONS: usize = 1000;

/// `POST /v1/revoke` on the agent socket (RFC 7009 section 2.1), as JSON or as a form.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RevokeOwnRequest {
    /// A token that this host issued to the caller.
    pub token: String,
    /// Accepted and ignored (RFC 7009 section 2.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type_hint: Option<String>,
    /// Accepted and ignored (RFC 6749 section 2.3.1): the daemon identifies the calling process.
    #[serde(default, skip_serializing)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub client_id: Option<IgnoredAny>,
    /// Accepted and ignored, as `client_id` is.
    #[serde(default, skip_serializing)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub client_secret: Option<IgnoredAny>,
}

/// `200` of `POST /v1/revoke` on the agent socket. It is the same for a token that is not known (RFC 7009
/// section 2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RevokeOwnResponse {}

/// `POST /v1/revocations/revoke` and `POST /v1/revocations/lift`: exactly one member says what.
#[derive(Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// A token of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The identifier of a token, as in the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The name of an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// An invocation ID, 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
    /// An owner, as the agents' files have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The name of a tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The `kid` of an issuing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why, for the record; at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Revokes a name that no agent's file has, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unregistered: bool,
}

/// `POST /v1/freeze`. An empty body is a request without a reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FreezeRequest {
    /// Why, for the record; at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `200` of `POST /v1/revocations/revoke`, `/lift` and `/accept`, `POST /v1/freeze` and `POST /v1/thaw`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RevokeResponse {
    /// What was revoked: `token`, `agent`, `invocation`, `owner`, `tenant`, `key` or `everything`.
    pub kind: String,
    /// Its `jti`, name or ID; empty for everything.
    pub value: String,
    /// What the command changed.
    pub outcome: RevokeOutcome,
}

/// What a command on revocations changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RevokeOutcome {
    /// It is revoked now.
    Revoked,
    /// It was revoked before.
    AlreadyRevoked,
    /// The token has expired, so that there is nothing to revoke.
    Expired,
    /// What is issued from now on is valid again.
    Lifted,
}

/// `200` of `GET /v1/revocations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RevocationsResponse {
    /// Whether everything is revoked and nothing is issued.
    pub frozen: bool,
    /// The revocations, those that block first, then the latest; at most 1,000.
    pub revocations: Vec<Revocation>,
    /// How many there are.
    pub count: usize,
    /// Single tokens that are revoked and have not expired.
    pub tokens: usize,
    /// Tokens that were used once and have not expired.
    pub used_tokens: usize,
}

/// The revocation of an agent, invocation, owner, tenant, key or of everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Revocation {
    /// `agent`, `invocation`, `owner`, `tenant`, `key` or `everything`.
    pub kind: String,
    /// Its name or ID; empty for everything.
    pub value: String,
    /// When it was revoked.
    pub revoked_at: Timestamp,
    /// Who revoked it.
    pub revoked_by: String,
    /// Why; may be empty.
    pub reason: String,
    /// Whether nothing is issued: until it is lifted.
    pub blocks: bool,
    /// When the revocation is forgotten, because all that it revokes has expired; absent while it blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapses_at: Option<Timestamp>,
}

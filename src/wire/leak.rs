//! Leaked tokens and certificates: what they are, where they were used, and what was done about them.

use serde::{Deserialize, Serialize};

use super::admin::AuditRecord;
use super::revocation::RevokeResponse;
use crate::clock::Timestamp;

/// `POST /v1/leak`. Exactly one of `token`, `jti` and `serial`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LeakRequest {
    /// The token that leaked, of any issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The identifier of a token of this host, as in the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The serial number of a certificate of this host, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Also revokes the agent that it was issued to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agent: bool,
    /// Also revokes the invocation of the unit in which it was issued.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invocation: bool,
    /// Revokes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Why, for the record; at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `200` of `POST /v1/leak`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LeakResponse {
    /// What leaked.
    pub what: LeakedKind,
    /// What is known of it, in one sentence.
    pub explanation: String,
    /// The identifier of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The serial number of the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The agent that it was issued to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The agent's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The agent's SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// The audiences of the token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// The scopes of the token, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The unit in which it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The invocation of the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
    /// When it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether it has expired.
    pub expired: bool,
    /// Why it was not valid any more before this request, beside its expiry; absent where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_before: Option<String>,
    /// The record of its issue, with the process that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<AuditRecord>,
    /// The records that name it afterwards, such as introspections, oldest first; the latest 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<AuditRecord>,
    /// How many there are.
    pub later_count: usize,
    /// Refusals of its agent since then, oldest first; the latest 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<AuditRecord>,
    /// Whether all of the audit log that can name it was searched.
    pub searched_all: bool,
    /// The sealed credentials that the agent may get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
    /// What this request revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevokeResponse>,
    /// What to do next.
    pub next: Vec<String>,
}

/// What leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LeakedKind {
    /// An access token of this host.
    AccessToken,
    /// A JWT-SVID of this host.
    JwtSvid,
    /// A WIT-SVID of this host.
    WitSvid,
    /// A certificate of this host.
    Certificate,
    /// A `jti` or serial number that the part of the audit log that was searched does not have.
    Unknown,
    /// A token that no published key of this host signed.
    Foreign,
    /// A text that is no token.
    NoToken,
}

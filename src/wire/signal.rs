//! Signals from outside: security event tokens (RFC 8417) that revoke.

use serde::{Deserialize, Serialize};

use super::revocation::RevokeResponse;

/// `POST /v1/revoke/signal`.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// The security event token in compact serialization, at most 64 KiB.
    pub set: String,
}

/// `200` of `POST /v1/revoke/signal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SignalResponse {
    /// The issuer of the signal.
    pub issuer: String,
    /// The identifier of the signal.
    pub jti: String,
    /// The event: `session-revoked`, `credential-change` or `account-disabled`.
    pub event: String,
    /// What was revoked.
    pub revoked: RevokeResponse,
}

//! Tenants: the administrators' requests.

use serde::{Deserialize, Serialize};

/// A tenant: an item of the array of `GET /v1/tenants`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Tenant {
    /// `[a-z0-9][a-z0-9._-]{0,62}`.
    pub name: String,
    /// `iss` of its tokens; absent where it has no issuing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The key that signs its tokens; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// How many registered agents name it.
    pub agents: u64,
    /// How many sealed credentials it has; absent while they are not available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<u64>,
    /// Tokens that have not expired; absent where its quota has no bound for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_tokens: Option<u32>,
    /// What its agents may have together.
    pub quota: TenantQuota,
}

/// What all agents of a tenant may have together. An absent member sets no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TenantQuota {
    /// Requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Requests at once after a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Tokens that have not expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_tokens: Option<u32>,
    /// Sealed credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<u32>,
    /// X.509 certificates that have not expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<u32>,
}

/// `POST /v1/tenants/remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveTenantRequest {
    /// The tenant's name.
    pub name: String,
}

/// `200` of `POST /v1/tenants/remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemoveTenantResponse {
    /// The tenant's name.
    pub name: String,
    /// How many credentials were destroyed with its keys.
    pub credentials: u64,
}

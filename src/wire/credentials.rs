//! Sealed credentials: release on the agent socket, and the administrators' requests.
//!
//! Types that hold a value have no `Debug`.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use crate::clock::Timestamp;

/// `POST /v1/credential`, as JSON or as a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest<'a> {
    /// The credential's name, as in the agent's `[[credential]]`.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// The version; the latest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "number_or_text")]
    pub version: Option<u64>,
    /// The agent to act as; required where the caller matches several agents.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Cow<'a, str>>,
}

/// `200` of `POST /v1/credential`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleaseResponse<'a> {
    /// The credential's name.
    pub name: Cow<'a, str>,
    /// The value, exactly as it was stored.
    pub value: Cow<'a, str>,
    /// Version of the value.
    pub version: u64,
    /// From when on the version is not released; absent where it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A credential without its value: an item of the array of `GET /v1/credentials`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StoredCredential {
    /// `[a-z0-9][a-z0-9._-]{0,62}`.
    pub name: String,
    /// The tenant whose agents may use it; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The agent whose own it is, and which alone may use it; absent where all agents of the tenant may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Whether it is a canary: nobody should ask for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canary: bool,
    /// Its versions, the latest last.
    pub versions: Vec<StoredVersion>,
    /// The registered agents that may use it, in alphabetical order.
    pub agents: Vec<CredentialUser>,
}

/// A version of a credential without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StoredVersion {
    /// Counted from 1.
    pub version: u64,
    /// When it was stored.
    pub created: Timestamp,
    /// From when on it is not released; absent where it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it is destroyed, since a later version has replaced it; absent for the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed_at: Option<Timestamp>,
    /// Length of the value in bytes.
    pub size: u64,
}

/// An agent that may use a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CredentialUser {
    /// The agent's name.
    pub agent: String,
    /// How it may use the credential.
    #[serde(rename = "use")]
    pub usage: CredentialUse,
}

/// How an agent may use a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CredentialUse {
    /// The egress proxy adds it to the agent's requests.
    Inject,
    /// The agent gets the value.
    Release,
    /// The daemon signs the agent's requests with it.
    Sign,
}

/// `POST /v1/credentials/put`: the first version of a credential.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PutCredentialRequest {
    /// `[a-z0-9][a-z0-9._-]{0,62}`.
    pub name: String,
    /// The tenant whose agents may use it; absent for agents of no tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The registered agent whose own it is to be, in place of `tenant`: no other gets it, it is in no recovery
    /// copy, and offboarding the agent destroys it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// 1 byte to 64 KiB of UTF-8 without NUL.
    #[cfg_attr(test, schemars(with = "String"))]
    pub value: Zeroizing<String>,
    /// From when on it is not released; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether it is a canary: an agent that asks for it is suspended, unless `[anomaly]` says otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canary: bool,
}

/// `POST /v1/credentials/rotate`: a new version of a credential.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RotateCredentialRequest {
    /// The credential's name.
    pub name: String,
    /// Its tenant; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The agent whose own it is, in place of `tenant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// 1 byte to 64 KiB of UTF-8 without NUL.
    #[cfg_attr(test, schemars(with = "String"))]
    pub value: Zeroizing<String>,
    /// From when on the version is not released; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Seconds for which earlier versions can still be requested by their number, at most 30 days. They are
    /// destroyed at once if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<u64>,
}

/// `200` of `POST /v1/credentials/put` and `POST /v1/credentials/rotate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PutCredentialResponse {
    /// The credential's name.
    pub name: String,
    /// The version that was stored.
    pub version: u64,
}

/// `POST /v1/credentials/remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveCredentialRequest {
    /// The credential's name.
    pub name: String,
    /// Its tenant; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The agent whose own it is, in place of `tenant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The version; all versions if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// `200` of `POST /v1/credentials/remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemoveCredentialResponse {
    /// The credential's name.
    pub name: String,
    /// The versions that were destroyed.
    pub versions: Vec<u64>,
}

/// `200` of `POST /v1/credentials/accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AcceptCredentialsResponse {
    /// Number of credentials in the database that was accepted.
    pub credentials: usize,
}

/// A number, which is a text in a form.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "version must be a whole number")]
    enum NumberOrText<'a> {
        Number(u64),
        Text(#[serde(borrow)] Cow<'a, str>),
    }
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(number) => Ok(Some(number)),
        NumberOrText::Text(text) => {
            text.parse().map(Some).map_err(|_| serde::de::Error::custom("version must be a whole number"))
        }
    }
}

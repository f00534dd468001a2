//! Key commands of the admin socket: list, rotate, recovery key, recover, accept.
//!
//! Types that hold a recovery key have no `Debug`.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Timestamp;

/// `200` of `GET /v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KeysResponse {
    /// Why a step of the rotation that is due has not been made.
    pub blocked_reason: Option<String>,
    /// Why the RSA key is missing although a grant uses RS256.
    pub rsa_blocked_reason: Option<String>,
    /// Signing keys in the order of the key set; destroyed ones last, the latest first.
    pub keys: Vec<Key>,
}

/// A key that signs, signed or will sign tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Key {
    /// `kid` of the key set.
    pub kid: String,
    /// The tenant whose tokens the key signs; absent for agents without one, and for keys in the TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `ES256` or `RS256`.
    pub alg: String,
    /// What the key does now.
    pub state: KeyState,
    /// When the key was made; absent for the host key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When the key entered its state; absent for the host key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The next step; absent for destroyed keys and for keys in the TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextStep>,
    /// The host key's endorsement of the key, a JWS; absent for the host key itself and for destroyed keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsement: Option<String>,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// The key signs.
    Active,
    /// The key is in the key set and signs later.
    Published,
    /// The key signs no more and stays in the key set until its last token has expired.
    Retired,
    /// The private key no longer exists.
    Destroyed,
    /// The key is in the TPM and does not rotate.
    Tpm,
}

/// The next step of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NextStep {
    /// `active`, `retired`, `destroyed` or `successor published`.
    pub step: String,
    /// When the step is due.
    pub at: Timestamp,
}

/// `POST /v1/keys/rotate`. An empty body equals the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RotateRequest {
    /// Whether the next key signs at once, although relying parties with an uploaded key set do not know it.
    pub now: bool,
    /// The tenant whose key it is; absent for that of agents without a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// `200` of `POST /v1/keys/rotate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RotateResponse {
    /// What the command did.
    pub outcome: RotationOutcome,
    /// The key that signs next, or now.
    pub kid: String,
    /// When that key signs.
    pub active_from: Timestamp,
    /// The key that signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
    /// A retired key that was destroyed early to make room: tokens that it signed no longer verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed_early: Option<String>,
}

/// What `POST /v1/keys/rotate` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RotationOutcome {
    /// A key was published and signs later.
    Published,
    /// A key had been published before and signs when planned.
    AlreadyPublished,
    /// The next key signs now.
    Activated,
}

/// `200` of `POST /v1/keys/recovery`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RecoveryKeyResponse {
    /// The recovery key, `hbr1-…`. The daemon keeps no copy.
    #[cfg_attr(test, schemars(with = "String"))]
    pub recovery_key: Zeroizing<String>,
    /// Always false: the key opens nothing, and the previous one stays valid, until
    /// `POST /v1/keys/recovery/confirm`.
    #[serde(default = "in_force_at_once")]
    pub in_force: bool,
}

/// `POST /v1/keys/recovery/confirm`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfirmRecoveryKeyRequest {
    /// The recovery key that `POST /v1/keys/recovery` returned last, complete, which shows that it arrived.
    #[cfg_attr(test, schemars(with = "String"))]
    pub recovery_key: Zeroizing<String>,
}

/// `POST /v1/keys/recover`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// The recovery key, `hbr1-…`.
    #[cfg_attr(test, schemars(with = "String"))]
    pub recovery_key: Zeroizing<String>,
    /// Whether the state directory is accepted even if it is not the latest.
    #[serde(default)]
    pub accept: bool,
}

/// A daemon without the second step does not say, and has put the key in force.
fn in_force_at_once() -> bool {
    true
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyState::Active => "active",
            KeyState::Published => "published",
            KeyState::Retired => "retired",
            KeyState::Destroyed => "destroyed",
            KeyState::Tpm => "tpm",
        })
    }
}

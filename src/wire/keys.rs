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
    /// Why the RSA key is missing although a grant uses RS256, or its successor although it is due.
    pub rsa_blocked_reason: Option<String>,
    /// The host's issuing keys in the order of the key set, destroyed ones last; the keys in the TPM; the issuing
    /// keys of each tenant; the keys of the host's CA; the key-encryption keys.
    pub keys: Vec<Key>,
}

/// A key of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Key {
    /// `kid` of the key set, or the RFC 7638 thumbprint of a CA's key; a name for key-encryption keys.
    pub kid: String,
    /// What the key is for.
    #[serde(default)]
    pub kind: KeyKind,
    /// The tenant whose tokens the key signs or whose secrets it encrypts; absent for agents without one, and for
    /// keys in the TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `ES256`, `RS256` or `A256GCM`.
    pub alg: String,
    /// What the key does now.
    pub state: KeyState,
    /// When the key was made; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When the key entered its state; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The next step; absent for destroyed keys and where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextStep>,
    /// How much depends on the key; absent from daemons of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<KeyRisk>,
    /// The longest time that the key is in use, in seconds; absent where it does not rotate by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_every: Option<u64>,
    /// Why the key does not rotate by itself, and what an administrator can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The host key's endorsement of the key, a JWS; absent for the host key itself and for destroyed keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsement: Option<String>,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum KeyKind {
    /// It signs tokens in memory.
    #[default]
    Issuing,
    /// The host key, in the TPM.
    Host,
    /// The key in the TPM that signs RS256 tokens.
    Rsa,
    /// The root of the host's CA. Its key is the host key.
    HostCaRoot,
    /// It signs certificates and revocation lists in memory.
    IssuingCa,
    /// It encrypts the secrets at rest, and is sealed to the TPM.
    KeyEncryption,
    /// It encrypts the secrets of one tenant.
    TenantKeyEncryption,
    /// It encrypts the keys of agents that have credentials of their own.
    Erasure,
}

/// How much depends on a key. The class bounds the time for which it is in use (NIST IR 8587).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum KeyRisk {
    /// At most 2 weeks.
    High,
    /// At most 3 months.
    Moderate,
    /// At most a year.
    Low,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// The key exists, and neither signs, verifies nor encrypts anything yet.
    Generated,
    /// The key signs or encrypts.
    Active,
    /// The key is in the key set and signs later.
    Published,
    /// The key signs or encrypts no more, and still verifies or decrypts: until its last token or certificate has
    /// expired, or everything is encrypted under its successor.
    Retired,
    /// The key is revoked: it neither signs nor verifies, and is destroyed once another can sign.
    Revoked,
    /// The private key no longer exists.
    Destroyed,
}

/// The next step of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NextStep {
    /// `published`, `active`, `retired`, `destroyed`, `successor published`, `successor` or `renewed`.
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
    /// Whether it is the issuing CA of certificates in place of an issuing key. Its successor signs at once, because
    /// chains contain it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ca: bool,
    /// Whether it is the RSA key, which the TPM keeps, in place of an issuing key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rsa: bool,
}

/// `200` of `POST /v1/keys/rotate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RotateResponse {
    /// What the command did.
    pub outcome: RotationOutcome,
    /// The key that signs next, or now; absent while the TPM makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// When that key signs; absent while the TPM makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_from: Option<Timestamp>,
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
    /// The TPM makes the next RSA key, which takes up to a minute. What was requested follows then.
    Started,
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
            KeyState::Generated => "generated",
            KeyState::Active => "active",
            KeyState::Published => "published",
            KeyState::Retired => "retired",
            KeyState::Revoked => "revoked",
            KeyState::Destroyed => "destroyed",
        })
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyKind::Issuing => "issuing",
            KeyKind::Host => "host",
            KeyKind::Rsa => "rsa",
            KeyKind::HostCaRoot => "host-ca-root",
            KeyKind::IssuingCa => "issuing-ca",
            KeyKind::KeyEncryption => "key-encryption",
            KeyKind::TenantKeyEncryption => "tenant-key-encryption",
            KeyKind::Erasure => "erasure",
        })
    }
}

impl fmt::Display for KeyRisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyRisk::High => "high",
            KeyRisk::Moderate => "moderate",
            KeyRisk::Low => "low",
        })
    }
}

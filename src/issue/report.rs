//! The keys of this host as administrators see them.

use super::encrypted_key::EncryptedKey;
use super::key_schedule::KeySchedule;
use super::rotation::RotationPolicy;
use super::rsa::RsaSigningKey;
use crate::clock::Timestamp;
use crate::verify::Jwk;

/// One key.
#[derive(Clone, Debug)]
pub struct KeyReport {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// The tenant whose tokens it signs; `None` for agents without one, and for keys in the TPM.
    pub tenant: Option<String>,
    /// `ES256` or `RS256`.
    pub alg: &'static str,
    /// Its state in the key schedule.
    pub state: KeyState,
    /// When it was made; `None` for the host key, whose file has no time.
    pub created: Option<Timestamp>,
    /// When the key entered its state.
    pub since: Option<Timestamp>,
    /// The next step; `None` for destroyed keys and keys in the TPM.
    pub next: Option<NextStep>,
    /// The host key's endorsement, a JWS.
    pub endorsement: Option<String>,
}

impl KeyReport {
    /// Whether it is an issuing key, which signs in memory, and its private key is not destroyed.
    pub fn is_in_memory(&self) -> bool {
        !matches!(self.state, KeyState::Destroyed | KeyState::Tpm)
    }
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It signs.
    Active,
    /// It is in the key set and does not sign yet.
    Published,
    /// It does not sign any more, and still verifies.
    Retired,
    /// Its private key is gone.
    Destroyed,
    /// It is in the TPM and does not rotate.
    Tpm,
}

/// The next step of a key.
#[derive(Clone, Debug)]
pub struct NextStep {
    /// `active`, `retired`, `destroyed` or `successor published`.
    pub step: &'static str,
    /// When it is due.
    pub at: Timestamp,
}

/// All issuing keys of the host or of a tenant, in the order of the key set; destroyed ones last, the latest
/// first.
pub(super) fn key_reports(
    schedule: &KeySchedule,
    policy: &RotationPolicy,
    tenant: Option<&str>,
) -> Vec<KeyReport> {
    let (active, next) = (schedule.active(), schedule.next());
    let step = |step, at| Some(NextStep { step, at });
    let key = |encrypted_key: &EncryptedKey, state, since, next| KeyReport {
        kid: encrypted_key.kid.clone(),
        tenant: tenant.map(str::to_owned),
        alg: "ES256",
        state,
        created: Some(Timestamp::from_secs(encrypted_key.created)),
        since: Some(since),
        next,
        endorsement: Some(encrypted_key.endorsement.clone()),
    };
    let successor = match next {
        Some(next) => step("retired", policy.activate_at(next.published)),
        None => step("successor published", schedule.publish_at(policy)),
    };
    let mut keys = vec![key(&active.encrypted_key, KeyState::Active, active.activated, successor)];
    keys.extend(next.map(|next| {
        let step = step("active", policy.activate_at(next.published));
        key(&next.encrypted_key, KeyState::Published, next.published, step)
    }));
    keys.extend(schedule.retired().iter().rev().map(|old| {
        let step = step("destroyed", RotationPolicy::destroy_at(old.retired));
        key(&old.encrypted_key, KeyState::Retired, old.retired, step)
    }));
    keys.extend(schedule.destroyed().iter().rev().map(|destroyed_key| KeyReport {
        kid: destroyed_key.kid.clone(),
        tenant: tenant.map(str::to_owned),
        alg: "ES256",
        state: KeyState::Destroyed,
        created: Some(destroyed_key.created),
        since: Some(destroyed_key.destroyed),
        next: None,
        endorsement: None,
    }));
    keys
}

/// The keys in the TPM, in the order of the key set.
pub(super) fn tpm_key_reports(host_key: &Jwk, rsa_key: Option<&RsaSigningKey>) -> Vec<KeyReport> {
    let state = KeyState::Tpm;
    let host = KeyReport {
        kid: host_key.kid.clone(),
        tenant: None,
        alg: "ES256",
        state,
        created: None,
        since: None,
        next: None,
        endorsement: None,
    };
    let rsa = rsa_key.map(|rsa| KeyReport {
        kid: rsa.kid().to_owned(),
        tenant: None,
        alg: "RS256",
        state,
        created: Some(rsa.created()),
        since: Some(rsa.created()),
        next: None,
        endorsement: Some(rsa.endorsement().to_owned()),
    });
    std::iter::once(host).chain(rsa).collect()
}

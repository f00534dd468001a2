//! What administrators see of the issuing keys.

use serde::Serialize;

use super::RsaSigningKey;
use super::key_schedule::KeySchedule;
use super::rotation::RotationPolicy;
use crate::clock::Timestamp;
use crate::verify::Jwk;

/// One key.
#[derive(Clone, Debug, Serialize)]
pub struct KeyReport {
    pub kid: String,
    pub alg: &'static str,
    pub state: KeyState,
    /// When it was made; nobody wrote that down for the host key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When the key came into its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// What happens next; nothing to a destroyed key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<NextStep>,
    /// The host key's word for it, a JWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endorsement: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    Active,
    Published,
    Retired,
    Destroyed,
    /// It lives in the TPM and does not rotate.
    Tpm,
}

/// What happens to a key next, and when.
#[derive(Clone, Debug, Serialize)]
pub struct NextStep {
    pub step: &'static str,
    pub at: Timestamp,
}

/// All keys, in the order of the key set; destroyed ones last, the latest first.
pub fn key_reports(schedule: &KeySchedule, policy: &RotationPolicy) -> Vec<KeyReport> {
    let (active, next) = (schedule.active(), schedule.next());
    let step = |step, at| Some(NextStep { step, at });
    let key = |encrypted_key: &super::encrypted_key::EncryptedKey, state, since, next| KeyReport {
        kid: encrypted_key.kid.clone(),
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
    let mut keys = vec![key(&active.sealed, KeyState::Active, active.activated, successor)];
    keys.extend(next.map(|next| {
        let step = step("active", policy.activate_at(next.published));
        key(&next.sealed, KeyState::Published, next.published, step)
    }));
    keys.extend(schedule.retired().iter().rev().map(|old| {
        let step = step("destroyed", RotationPolicy::destroy_at(old.retired));
        key(&old.sealed, KeyState::Retired, old.retired, step)
    }));
    keys.extend(schedule.destroyed().iter().rev().map(|destroyed_key| KeyReport {
        kid: destroyed_key.kid.clone(),
        alg: "ES256",
        state: KeyState::Destroyed,
        created: Some(destroyed_key.created),
        since: Some(destroyed_key.destroyed),
        next: None,
        endorsement: None,
    }));
    keys
}

/// The keys that sign in the TPM, in the order of the key set.
pub fn tpm_key_reports(host_key: &Jwk, rsa_key: Option<&RsaSigningKey>) -> Vec<KeyReport> {
    let state = KeyState::Tpm;
    let host = KeyReport {
        kid: host_key.kid.clone(),
        alg: "ES256",
        state,
        created: None,
        since: None,
        next: None,
        endorsement: None,
    };
    let rsa = rsa_key.map(|rsa| KeyReport {
        kid: rsa.kid().to_owned(),
        alg: "RS256",
        state,
        created: Some(rsa.created()),
        since: Some(rsa.created()),
        next: None,
        endorsement: Some(rsa.endorsement().to_owned()),
    });
    std::iter::once(host).chain(rsa).collect()
}

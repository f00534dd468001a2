//! What administrators see of the issuing keys.

use serde::Serialize;

use super::RsaKey;
use super::ring::Ring;
use super::rotation::Rotation;
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
pub fn report(ring: &Ring, rotation: &Rotation) -> Vec<KeyReport> {
    let (active, next) = (ring.active(), ring.next());
    let step = |step, at| Some(NextStep { step, at });
    let key = |sealed: &super::sealed::Sealed, state, since, next| KeyReport {
        kid: sealed.kid.clone(),
        alg: "ES256",
        state,
        created: Some(Timestamp::from_secs(sealed.created)),
        since: Some(since),
        next,
        endorsement: Some(sealed.endorsement.clone()),
    };
    let successor = match next {
        Some(next) => step("retired", rotation.activate(next.published)),
        None => step("successor published", ring.publish_at(rotation)),
    };
    let mut keys = vec![key(&active.sealed, KeyState::Active, active.activated, successor)];
    keys.extend(next.map(|next| {
        let step = step("active", rotation.activate(next.published));
        key(&next.sealed, KeyState::Published, next.published, step)
    }));
    keys.extend(ring.retired().iter().rev().map(|old| {
        let step = step("destroyed", Rotation::destroy(old.retired));
        key(&old.sealed, KeyState::Retired, old.retired, step)
    }));
    keys.extend(ring.destroyed().iter().rev().map(|gone| KeyReport {
        kid: gone.kid.clone(),
        alg: "ES256",
        state: KeyState::Destroyed,
        created: Some(gone.created),
        since: Some(gone.destroyed),
        next: None,
        endorsement: None,
    }));
    keys
}

/// The keys that sign in the TPM, in the order of the key set.
pub fn in_tpm(host_key: &Jwk, rsa: Option<&RsaKey>) -> Vec<KeyReport> {
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
    let rsa = rsa.map(|rsa| KeyReport {
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

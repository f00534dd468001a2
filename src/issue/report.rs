//! The keys of this host as administrators see them.

use std::time::Duration;

use super::encrypted_key::EncryptedKey;
use super::key_schedule::KeySchedule;
use super::rotation::RotationPolicy;
use super::rsa::RsaSigningKey;
use crate::clock::Timestamp;
use crate::keystore::{KekReport, KekUse};
use crate::risk::RiskClass;
use crate::verify::Jwk;

const HOST_KEY_NOTE: &str = "does not rotate: the key never leaves the TPM, and the host's id depends on that TPM; a \
                             new one is a new host";
const RSA_KEY_NOTE: &str = "does not rotate by itself: the key never leaves the TPM. For a new one, stop hostbadged, \
                            move rsa.json away, start it, and give relying parties the new key set";
/// One key.
#[derive(Clone, Debug)]
pub struct KeyReport {
    /// RFC 7638 thumbprint of a key that signs; a name for others.
    pub kid: String,
    /// What it is for.
    pub kind: KeyKind,
    /// The tenant whose tokens or secrets it protects; `None` for agents without one, and for keys in the TPM.
    pub tenant: Option<String>,
    /// `ES256`, `RS256` or `A256GCM`.
    pub alg: &'static str,
    /// Its state.
    pub state: KeyState,
    /// When it was made; `None` where that is not known.
    pub created: Option<Timestamp>,
    /// When the key entered its state.
    pub since: Option<Timestamp>,
    /// The next step; `None` where there is none.
    pub next: Option<NextStep>,
    /// How much depends on it.
    pub risk: RiskClass,
    /// The longest time that it is in use; `None` where it does not rotate by itself.
    pub rotate_every: Option<Duration>,
    /// Why it does not rotate by itself, and what to do.
    pub note: Option<&'static str>,
    /// The host key's endorsement, a JWS.
    pub endorsement: Option<String>,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// It signs tokens in memory.
    Issuing,
    /// The key in the TPM that endorses issuing keys.
    Host,
    /// The key in the TPM that signs RS256 tokens.
    Rsa,
    /// The root of the host's CA, whose key is the host key.
    HostCaRoot,
    /// It signs certificates and revocation lists in memory.
    IssuingCa,
    /// It encrypts the secrets at rest, and is sealed to the TPM.
    KeyEncryption,
    /// It encrypts the secrets of one tenant.
    TenantKeyEncryption,
}

impl KeyReport {
    /// A key of this kind without times.
    pub fn new(kind: KeyKind, kid: String, state: KeyState, risk: RiskClass) -> KeyReport {
        let alg = match kind {
            KeyKind::Rsa => "RS256",
            KeyKind::KeyEncryption | KeyKind::TenantKeyEncryption => "A256GCM",
            _ => "ES256",
        };
        KeyReport {
            kid,
            kind,
            tenant: None,
            alg,
            state,
            created: None,
            since: None,
            next: None,
            risk,
            rotate_every: None,
            note: None,
            endorsement: None,
        }
    }

    /// Whether it is an issuing key, which signs in memory, and its private key is not destroyed.
    pub fn is_in_memory(&self) -> bool {
        self.kind == KeyKind::Issuing && self.state != KeyState::Destroyed
    }

    /// Why a key that is not in memory cannot be revoked by its `kid`, and what to do instead.
    pub fn not_revocable(&self) -> String {
        let kid = &self.kid;
        match self.kind {
            KeyKind::Rsa => format!(
                "{kid} is the RSA key, which never leaves the TPM and cannot be revoked by its kid; for another one, \
                 stop hostbadged, move rsa.json away and start it: tokens that this key signed then no longer verify"
            ),
            KeyKind::Host => format!(
                "{kid} is the host key, which never leaves the TPM and cannot be revoked by its kid; revoke \
                 everything with hostbadge freeze, or start as a new host with another TPM or a cleared one"
            ),
            _ => format!(
                "key {kid} is destroyed, so that none of its tokens verifies: there is nothing to revoke"
            ),
        }
    }

    /// The report of the same key after its revocation, while it waits for its destruction.
    pub(super) fn as_revoked(&self, since: Timestamp) -> KeyReport {
        KeyReport {
            state: KeyState::Revoked,
            since: Some(since),
            next: None,
            endorsement: None,
            ..self.clone()
        }
    }
}

/// The state of a key. It is generated and published, or generated and activated, in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It signs or encrypts.
    Active,
    /// It is in the key set and does not sign yet.
    Published,
    /// It does not sign or encrypt any more, and still verifies or decrypts.
    Retired,
    /// It is revoked: it neither signs nor verifies, and is about to be destroyed.
    Revoked,
    /// Its private key is gone.
    Destroyed,
}

/// The next step of a key.
#[derive(Clone, Debug)]
pub struct NextStep {
    /// `active`, `retired`, `destroyed`, `successor published`, `successor` or `renewed`.
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
    let report = |kid: &str, state, created, since| KeyReport {
        tenant: tenant.map(str::to_owned),
        created: Some(created),
        since: Some(since),
        rotate_every: Some(policy.interval),
        ..KeyReport::new(KeyKind::Issuing, kid.to_owned(), state, policy.risk)
    };
    let key = |encrypted_key: &EncryptedKey, state, since, next| KeyReport {
        next,
        endorsement: Some(encrypted_key.endorsement.clone()),
        ..report(&encrypted_key.kid, state, Timestamp::from_secs(encrypted_key.created), since)
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
    let destroyed = schedule.destroyed().iter().rev();
    keys.extend(destroyed.map(|key| report(&key.kid, KeyState::Destroyed, key.created, key.destroyed)));
    keys
}

/// The keys in the TPM, in the order of the key set.
pub(super) fn tpm_key_reports(host_key: &Jwk, rsa_key: Option<&RsaSigningKey>) -> Vec<KeyReport> {
    let host = KeyReport {
        note: Some(HOST_KEY_NOTE),
        ..KeyReport::new(KeyKind::Host, host_key.kid.clone(), KeyState::Active, RiskClass::Low)
    };
    let rsa = rsa_key.map(|rsa| KeyReport {
        created: Some(rsa.created()),
        since: Some(rsa.created()),
        note: Some(RSA_KEY_NOTE),
        endorsement: Some(rsa.endorsement().to_owned()),
        ..KeyReport::new(KeyKind::Rsa, rsa.kid().to_owned(), KeyState::Active, RiskClass::Low)
    });
    std::iter::once(host).chain(rsa).collect()
}

/// The key-encryption keys. The previous key of the host is retired: it still decrypts, until everything is encrypted
/// under the latest. Those of tenants are replaced together with the host's.
pub fn kek_reports(keks: Vec<KekReport>, policy: &RotationPolicy) -> Vec<KeyReport> {
    let latest = keks.iter().find(|kek| kek.used_for == KekUse::Host);
    let due = latest.and_then(|kek| kek.rotate_at(policy.key_encryption));
    let report = |kek: KekReport| {
        let (kind, state, tenant) = match kek.used_for {
            KekUse::Host => (KeyKind::KeyEncryption, KeyState::Active, None),
            KekUse::HostPrevious => (KeyKind::KeyEncryption, KeyState::Retired, None),
            KekUse::Tenant(tenant) => (KeyKind::TenantKeyEncryption, KeyState::Active, Some(tenant)),
        };
        let is_active = state == KeyState::Active;
        KeyReport {
            tenant,
            created: kek.created,
            since: kek.created.filter(|_| is_active),
            next: due.filter(|_| is_active).map(|at| NextStep { step: "successor", at }),
            rotate_every: Some(policy.key_encryption),
            ..KeyReport::new(kind, kek.id, state, RiskClass::Low)
        }
    };
    keks.into_iter().map(report).collect()
}

//! The keys of this host as administrators see them.

use std::time::Duration;

use super::encrypted_key::EncryptedKey;
use super::key_schedule::KeySchedule;
use super::rotation::RotationPolicy;
use crate::clock::Timestamp;
use crate::keystore::{KekReport, KekUse};
use crate::risk::RiskClass;
use crate::verify::Jwk;

const HOST_KEY_NOTE: &str = "does not rotate: the key never leaves the TPM, and the host's id depends on that TPM; a \
                             new one is a new host";
const ERASURE_KEY_NOTE: &str = "does not rotate by age: another takes its place whenever the key of an agent is destroyed \
                                (hostbadge agent offboard)";

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
    /// It encrypts the keys of agents that have credentials of their own, and is sealed to the erasure counter.
    Erasure,
}

impl KeyReport {
    /// A key of this kind without times.
    pub fn new(kind: KeyKind, kid: String, state: KeyState, risk: RiskClass) -> KeyReport {
        let alg = match kind {
            KeyKind::Rsa => "RS256",
            KeyKind::KeyEncryption | KeyKind::TenantKeyEncryption | KeyKind::Erasure => "A256GCM",
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

    /// Whether it can be revoked by its `kid`: an issuing key or an RSA key that is not destroyed.
    pub fn is_revocable(&self) -> bool {
        matches!(self.kind, KeyKind::Issuing | KeyKind::Rsa) && self.state != KeyState::Destroyed
    }

    /// Why a key cannot be revoked by its `kid`, and what to do instead.
    pub fn not_revocable(&self) -> String {
        let kid = &self.kid;
        match self.kind {
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

/// The state of a key. All but RSA keys and erasure keys are generated and published, or generated and activated, in
/// one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It exists, and neither signs, verifies nor encrypts anything yet.
    Generated,
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
    /// `published`, `active`, `retired`, `destroyed`, `successor published`, `successor` or `renewed`.
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

/// The host key, which was made at this time.
pub(super) fn host_key_report(host_key: &Jwk, made: Option<Timestamp>) -> KeyReport {
    KeyReport {
        created: made,
        since: made,
        note: Some(HOST_KEY_NOTE),
        ..KeyReport::new(KeyKind::Host, host_key.kid.clone(), KeyState::Active, RiskClass::Low)
    }
}

/// The key-encryption keys. The previous key of the host is retired: it still decrypts, until everything is encrypted
/// under the latest. Those of tenants are replaced together with the host's.
pub fn kek_reports(keks: Vec<KekReport>, policy: &RotationPolicy) -> Vec<KeyReport> {
    let latest = keks.iter().find(|kek| kek.used_for == KekUse::Host);
    let due = latest.and_then(|kek| kek.rotate_at(policy.key_encryption));
    let latest_made = latest.and_then(|kek| kek.created);
    let report = |kek: KekReport| {
        let (kind, state, tenant) = match kek.used_for {
            KekUse::Host => (KeyKind::KeyEncryption, KeyState::Active, None),
            KekUse::HostPrevious => (KeyKind::KeyEncryption, KeyState::Retired, None),
            KekUse::Tenant(tenant) => (KeyKind::TenantKeyEncryption, KeyState::Active, Some(tenant)),
            KekUse::Erasure => (KeyKind::Erasure, KeyState::Active, None),
            KekUse::NextErasure => (KeyKind::Erasure, KeyState::Generated, None),
        };
        let (is_active, is_rotated) = (state == KeyState::Active, kind != KeyKind::Erasure);
        KeyReport {
            tenant,
            created: kek.created,
            since: if state == KeyState::Retired { latest_made } else { kek.created },
            next: due.filter(|_| is_active && is_rotated).map(|at| NextStep { step: "successor", at }),
            rotate_every: is_rotated.then_some(policy.key_encryption),
            note: (!is_rotated).then_some(ERASURE_KEY_NOTE),
            ..KeyReport::new(kind, kek.id, state, RiskClass::Low)
        }
    };
    keks.into_iter().map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_key_encryption_keys_follow_from_what_they_are_used_for() {
        let made = |seconds| Some(Timestamp::from_secs(seconds));
        let kek = |used_for, seconds| KekReport { id: String::new(), used_for, created: made(seconds) };
        let keks = vec![
            kek(KekUse::Host, 20),
            kek(KekUse::HostPrevious, 10),
            kek(KekUse::Tenant("t".into()), 30),
            kek(KekUse::Erasure, 40),
            kek(KekUse::NextErasure, 50),
        ];
        let policy = RotationPolicy::new(Duration::from_secs(3600), Duration::from_secs(60));
        let reports = kek_reports(keks, &policy);
        let states: Vec<_> = reports.iter().map(|key| (key.state, key.created, key.since)).collect();
        let expected = [
            (KeyState::Active, made(20), made(20)),
            (KeyState::Retired, made(10), made(20)),
            (KeyState::Active, made(30), made(30)),
            (KeyState::Active, made(40), made(40)),
            (KeyState::Generated, made(50), made(50)),
        ];
        assert_eq!(states, expected);
    }
}

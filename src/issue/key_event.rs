//! Changes of keys, for the audit log.

use super::report::KeyKind;
use crate::clock::Timestamp;

/// A change of a key's state, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// The TPM has made the key, which is in no key set yet.
    Generated {
        /// RFC 7638 thumbprint.
        kid: String,
    },
    /// The key is in the key set.
    Published {
        /// RFC 7638 thumbprint.
        kid: String,
        /// When it becomes active.
        active_from: Timestamp,
    },
    /// The key signs.
    Activated {
        /// RFC 7638 thumbprint.
        kid: String,
    },
    /// The key does not sign any more, and still verifies.
    Retired {
        /// RFC 7638 thumbprint.
        kid: String,
        /// When it is destroyed.
        destroyed_from: Timestamp,
    },
    /// The private key is gone, and the public key is no longer in the key set.
    Destroyed {
        /// RFC 7638 thumbprint.
        kid: String,
        /// Until when tokens that it signed would be valid, if it was destroyed before that to make room.
        tokens_valid_until: Option<Timestamp>,
    },
    /// A key-encryption key was made; what the previous one encrypts is encrypted again.
    KekCreated {
        /// Its name in the list of keys.
        kid: String,
        /// Why: a predicate, whose subject is the key.
        reason: &'static str,
    },
    /// The key was revoked: it is destroyed, whatever it signed.
    Revoked {
        /// RFC 7638 thumbprint.
        kid: String,
    },
}

/// A change of a key of the host or of one of its tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// The tenant whose key it is; `None` for a key of the host itself.
    pub tenant: Option<String>,
    /// What the key is for.
    pub kind: KeyKind,
    /// What changed.
    pub change: KeyChange,
}

impl KeyEvent {
    /// The events of changes of one owner's issuing keys, and of key-encryption keys.
    pub(super) fn all(tenant: Option<&String>, changes: Vec<KeyChange>) -> Vec<KeyEvent> {
        let event = |change| {
            let kind = match &change {
                KeyChange::KekCreated { .. } => KeyKind::KeyEncryption,
                _ => KeyKind::Issuing,
            };
            KeyEvent { tenant: tenant.cloned(), kind, change }
        };
        changes.into_iter().map(event).collect()
    }

    /// The events of changes of the host's RSA keys.
    pub(super) fn of_rsa_keys(changes: Vec<KeyChange>) -> Vec<KeyEvent> {
        changes.into_iter().map(|change| KeyEvent { tenant: None, kind: KeyKind::Rsa, change }).collect()
    }
}

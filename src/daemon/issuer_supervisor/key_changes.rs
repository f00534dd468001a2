//! The loaded keys, and what every change of one needs: to be served, and to be recorded.

use std::time::Duration;

use super::context::IssuerContext;
use super::rsa_creation::RsaCreation;
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::daemon::audit_ext::record_completed_key_event;
use crate::issue::{
    Error, HostKeys, KeyChange, KeyCommandError, KeyEvent, KeyKind, RotationOutcome, RotationResult,
};
use crate::tpm::Tpm;

/// Longest wait before the schedule is read again, because the wall clock may have been set meanwhile.
pub(super) const MAX_POLL_INTERVAL: Duration = Duration::from_secs(60);

/// The loaded keys, and what changing them needs.
pub(super) struct Rotation<'a> {
    pub(super) context: &'a IssuerContext,
    pub(super) tpm: &'a Tpm,
    pub(super) keys: HostKeys,
    pub(super) rsa_creation: RsaCreation,
}

impl Rotation<'_> {
    /// Has changes that are on disk served and recorded. `suffix` ends the text of each record.
    pub(super) async fn activate(&self, events: &[KeyEvent], suffix: &str) -> Result<(), Error> {
        self.context.deps.issuer.set_state(self.keys.issuer_state()?);
        self.record_changes(events, suffix).await;
        Ok(())
    }

    /// Records changes that are served.
    pub(super) async fn record_changes(&self, events: &[KeyEvent], suffix: &str) {
        for KeyEvent { tenant, kind, change } in events {
            let (event, kid, description) = describe(change);
            let owner = tenant.as_ref().map(|tenant| format!(" of tenant {tenant}")).unwrap_or_default();
            let kind = match kind {
                KeyKind::KeyEncryption => "key-encryption key",
                KeyKind::Rsa => "RSA key",
                _ => "issuing key",
            };
            let message = format!("{kind} {kid}{owner} {description}{suffix}");
            let (audit, tenant) = (&self.context.deps.audit, tenant.as_deref());
            record_completed_key_event(audit, event, kid, tenant, &message).await;
        }
    }

    /// A change that cannot be recorded is not made.
    pub(super) fn ensure_auditable(&self) -> Result<(), KeyCommandError> {
        self.context.deps.audit.ensure_writable().map_err(KeyCommandError::audit)
    }
}

/// What a rotation did, after which the key `active` signs.
pub(super) fn rotation_result(
    changes: Vec<KeyChange>,
    active: String,
    now: Timestamp,
    immediately: bool,
) -> RotationResult {
    let mut result = RotationResult {
        outcome: RotationOutcome::Activated,
        kid: active,
        active_from: now,
        retired: None,
        destroyed_early: None,
    };
    for change in changes {
        match change {
            KeyChange::Published { kid, active_from } if !immediately => {
                let outcome = RotationOutcome::Published;
                result = RotationResult { outcome, kid, active_from, retired: None, destroyed_early: None };
            }
            KeyChange::Retired { kid, .. } => result.retired = Some(kid),
            KeyChange::Destroyed { kid, tokens_valid_until: Some(_) } => {
                result.destroyed_early = Some(kid);
            }
            _ => {}
        }
    }
    result
}

fn describe(change: &KeyChange) -> (Event, &str, String) {
    match change {
        KeyChange::Generated { kid } => {
            (Event::RsaKeyCreated, kid, "was created in the TPM, for RS256".to_owned())
        }
        KeyChange::Published { kid, active_from } => {
            (Event::KeyPublished, kid, format!("is published and signs from {active_from}"))
        }
        KeyChange::Activated { kid } => (Event::KeyActivated, kid, "signs from now on".to_owned()),
        KeyChange::Retired { kid, destroyed_from } => {
            (Event::KeyRetired, kid, format!("no longer signs and verifies until {destroyed_from}"))
        }
        KeyChange::Destroyed { kid, tokens_valid_until: None } => {
            (Event::KeyDestroyed, kid, "is destroyed".to_owned())
        }
        KeyChange::KekCreated { kid, reason } => {
            let text = format!("{reason}; tenants and compartments of credentials get other keys too");
            (Event::KekCreated, kid, text)
        }
        KeyChange::Revoked { kid } => {
            let effect = "its tokens no longer verify";
            (Event::KeyDestroyed, kid, format!("was revoked and is destroyed: {effect}"))
        }
        KeyChange::Destroyed { kid, tokens_valid_until: Some(until) } => {
            let effect = format!("its tokens, which are valid until {until} at most, no longer verify");
            (Event::KeyDestroyed, kid, format!("is destroyed early, to make room: {effect}"))
        }
    }
}

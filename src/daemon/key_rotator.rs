//! Turns the issuing keys: by their schedule, and when an administrator says so.
//!
//! A step that cannot be taken, because the TPM is away or a disk is full, is tried again; the active key goes on
//! signing meanwhile, beyond its time if need be. Each step is in force once its file is on the disk, and is written
//! down then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::watch_ext::set_if_changed;
use crate::audit::{Audit, AuditUnavailable, Event};
use crate::clock::Clock;
use crate::issue::{
    Enrollment, Error, Issuer, IssuingKeys, KeyAction, KeyChange, KeyCommand, KeyCommandError,
    KeyCommandReceiver, LoadedKeys, RotationOutcome, RotationResult, RsaSigningKey,
};
use crate::keystore::SealStatus;
use crate::tpm::{StateKind, Tpm};

/// How soon a step that failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// The longest sleep: the machine's clock may be set meanwhile.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(60);

/// Who turns the keys.
pub struct KeyRotator {
    pub issuer: Issuer,
    pub audit: Audit,
    pub clock: Clock,
    pub commands: KeyCommandReceiver,
    /// A key that the TPM was made to have meanwhile.
    pub rsa_key: watch::Receiver<Option<Arc<RsaSigningKey>>>,
    /// Writes by the vault of the keys.
    pub enrollment: Enrollment,
}

impl KeyRotator {
    /// Runs for ever.
    pub async fn run(&mut self, tpm: &Tpm, established: LoadedKeys) {
        let LoadedKeys { mut keys, changes } = established;
        self.enrollment.set_keystore(keys.keystore().clone());
        self.record_changes(&changes, "").await;
        let mut binding = keys.keystore().seal_status();
        loop {
            let pause = match self.advance(&mut keys, tpm).await {
                Ok(()) => {
                    self.report_blocked(None, &keys);
                    keys.next_wakeup()
                        .map_or(MAX_POLL_INTERVAL, |at| at.since(self.clock.now()).min(MAX_POLL_INTERVAL))
                }
                Err(why) => {
                    self.report_blocked(Some(why), &keys);
                    RETRY_DELAY
                }
            };
            self.publish_seal_status(binding.borrow_and_update().clone());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The last who had something under the key before has come to an end.
                Ok(()) = binding.changed() => {}
                Ok(()) = self.rsa_key.changed() => self.set_rsa_key(&mut keys),
                Some(order) = self.commands.commands.recv() => self.handle_command(&mut keys, tpm, order).await,
            }
        }
    }

    fn set_rsa_key(&mut self, keys: &mut IssuingKeys) {
        keys.set_rsa_key(self.rsa_key.borrow_and_update().clone());
        match keys.issuer_state() {
            Ok(standing) => self.issuer.set_state(standing),
            Err(e) => tracing::error!("the RSA key is not taken up: {e}"),
        }
    }

    /// Takes every step that is due.
    async fn advance(&self, keys: &mut IssuingKeys, tpm: &Tpm) -> Result<(), String> {
        loop {
            self.ensure_auditable().map_err(|e| e.to_string())?;
            let changes = keys.advance(tpm).await.map_err(|e| e.to_string())?;
            if changes.is_empty() {
                return Ok(());
            }
            self.activate(keys, &changes, "").await.map_err(|e| e.to_string())?;
        }
    }

    async fn handle_command(&self, keys: &mut IssuingKeys, tpm: &Tpm, command: KeyCommand) {
        if command.is_cancelled() {
            return;
        }
        let KeyCommand { action: what, requested_by: by } = command;
        match what {
            KeyAction::Rotate { immediately: at_once, reply } => {
                let result = self.rotate(keys, tpm, at_once, &by).await;
                if let Err(why) = &result {
                    tracing::warn!("{by} ordered a rotation of the issuing key, which failed: {why}");
                }
                let _ = reply.send(result);
            }
            KeyAction::CreateRecoveryKey(reply) => {
                let result = self.create_recovery_key(keys, &by).await;
                let _ = reply.send(result);
            }
            KeyAction::AcceptState(reply) | KeyAction::Recover { reply, .. } => {
                let error = match tpm.state().borrow().kind {
                    StateKind::Replaced | StateKind::Cleared => KeyCommandError::RestartRequired,
                    _ => KeyCommandError::KeysOpen,
                };
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn create_recovery_key(
        &self,
        keys: &mut IssuingKeys,
        requested_by: &str,
    ) -> Result<Zeroizing<String>, KeyCommandError> {
        self.ensure_auditable().map_err(KeyCommandError::audit)?;
        // Before it is made: a key that cannot be given to anybody would be worse than a line too many.
        let message = format!("{requested_by} has a recovery key made; one of before opens nothing any more");
        self.audit.record_event(Event::RecoveryKeyCreated, &message).await.map_err(KeyCommandError::audit)?;
        Ok(keys.create_recovery_key().await?)
    }

    /// Says what is not as configured once, and again when it has changed.
    fn publish_seal_status(&self, seal_status: SealStatus) {
        let seal_status = Some(seal_status);
        if self.commands.seal_status.send_replace(seal_status.clone()) == seal_status {
            return;
        }
        if seal_status.is_some_and(|binding| !binding.pending_pcrs.is_empty() && binding.recovery.is_none()) {
            tracing::warn!(
                "the keys are not sealed to the PCRs that the configuration names: make a recovery key first, \
                 or the next firmware update would shut this host out: hostbadge key recovery"
            );
        }
    }

    async fn rotate(
        &self,
        keys: &mut IssuingKeys,
        tpm: &Tpm,
        immediate: bool,
        requested_by: &str,
    ) -> Result<RotationResult, KeyCommandError> {
        self.ensure_auditable().map_err(KeyCommandError::audit)?;
        if let (false, Some(KeyChange::Published { kid, active_from })) =
            (immediate, keys.pending_publication())
        {
            let outcome = RotationOutcome::AlreadyPublished;
            return Ok(RotationResult { outcome, kid, active_from, retired: None });
        }
        let changes = if immediate { keys.rotate_now(tpm).await? } else { keys.publish(tpm).await? };
        self.activate(keys, &changes, &format!(", as {requested_by} ordered")).await?;
        let now = self.clock.now();
        let mut rotated = RotationResult {
            outcome: RotationOutcome::Activated,
            kid: keys.active().kid().to_owned(),
            active_from: now,
            retired: None,
        };
        for change in changes {
            match change {
                KeyChange::Published { kid, active_from } if !immediate => {
                    let outcome = RotationOutcome::Published;
                    rotated = RotationResult { outcome, kid, active_from, retired: None };
                }
                KeyChange::Retired { kid, .. } => rotated.retired = Some(kid),
                _ => {}
            }
        }
        Ok(rotated)
    }

    /// What nobody could write down is not done: nothing is issued meanwhile either.
    fn ensure_auditable(&self) -> Result<(), AuditUnavailable> {
        match self.audit.health().write_error() {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    }

    async fn activate(&self, keys: &IssuingKeys, changes: &[KeyChange], suffix: &str) -> Result<(), Error> {
        self.issuer.set_state(keys.issuer_state()?);
        self.record_changes(changes, suffix).await;
        Ok(())
    }

    async fn record_changes(&self, changes: &[KeyChange], suffix: &str) {
        for change in changes {
            let (event, kid, description) = describe(change);
            let message = format!("issuing key {kid} {description}{suffix}");
            // Too late to take back: the file says so already.
            if let Err(audit_error) = self.audit.record_key_event(event, kid, &message).await {
                tracing::error!("{message}; {audit_error}");
            }
        }
    }

    /// Says each trouble once.
    fn report_blocked(&self, reason: Option<String>, keys: &IssuingKeys) {
        if let Some(reason) = set_if_changed(&self.commands.blocked_reason, reason) {
            tracing::warn!(
                "a change of the issuing keys waits, and {} signs on: {reason}",
                keys.active().kid()
            );
        }
    }
}

fn describe(change: &KeyChange) -> (Event, &str, String) {
    match change {
        KeyChange::Published { kid, active_from } => {
            (Event::KeyPublished, kid, format!("is published and signs from {active_from}"))
        }
        KeyChange::Activated { kid } => (Event::KeyActivated, kid, "signs from now on".to_owned()),
        KeyChange::Retired { kid, destroyed_from } => {
            (Event::KeyRetired, kid, format!("signs no more and verifies until {destroyed_from}"))
        }
        KeyChange::Destroyed { kid } => (Event::KeyDestroyed, kid, "is destroyed".to_owned()),
    }
}

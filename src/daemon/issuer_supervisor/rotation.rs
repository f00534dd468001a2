//! Third phase: rotates the issuing keys, and the RSA key ([`super::rsa_key`]), on schedule and on an administrator's
//! command.
//!
//! A step that fails, because the TPM is unavailable or the disk is full, is retried every 10 s; the active
//! key keeps signing meanwhile, beyond its rotation time if necessary. A step takes effect once its file is
//! on disk, and is recorded then.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::context::{IssuerContext, STEP_RETRY_DELAY};
use super::key_changes::{MAX_POLL_INTERVAL, Rotation, rotation_result};
use super::rsa_creation::RsaCreation;
use crate::agents::AgentSet;
use crate::audit::Event;
use crate::daemon::watch_ext::set_if_changed;
use crate::issue::{
    Error, HostKeys, KeyAction, KeyChange, KeyCommand, KeyCommandError, LoadedKeys, RotationOutcome,
    RotationResult, RotationUrgency,
};
use crate::keystore::{RecoveryKey, SealStatus};
use crate::tpm::{StateKind, Tpm};

/// Delay before the attempt to replace a revoked key is repeated: nothing is signed in the meantime.
const URGENT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Runs the phase until the daemon stops.
pub(super) async fn rotate_keys(
    context: &IssuerContext,
    tpm: &Tpm,
    loaded: LoadedKeys,
    commands: &mut mpsc::Receiver<KeyCommand>,
) {
    let LoadedKeys { keys, changes } = loaded;
    context.deps.enrollment.set_keystore(keys.keystore().clone());
    let mut seal_status = keys.keystore().seal_status();
    let mut rotation = Rotation { context, tpm, keys, rsa_creation: RsaCreation::default() };
    let mut clock_changed = context.deps.clock.subscribe();
    let mut agents_changed = context.deps.agents.subscribe();
    let mut revocations_changed = context.deps.revocations.subscribe();
    rotation.record_changes(&changes, "").await;
    loop {
        clock_changed.borrow_and_update();
        agents_changed.borrow_and_update();
        revocations_changed.borrow_and_update();
        let pause = rotation.run_due_steps().await.min(rotation.run_rsa_steps().await);
        publish_seal_status(context, seal_status.borrow_and_update().clone());
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // The last file encrypted under the previous key-encryption key has been rewritten.
            Ok(()) = seal_status.changed() => {}
            Ok(()) = clock_changed.changed() => {}
            // Agents may name tenants that have no keys yet, and a grant may need RS256.
            Ok(()) = agents_changed.changed() => {}
            // A key may be among them.
            Ok(()) = revocations_changed.changed() => {}
            key = rotation.rsa_creation.finished() => rotation.add_rsa_key(key).await,
            Some(command) = commands.recv() => rotation.handle_command(command).await,
        }
    }
}

impl Rotation<'_> {
    /// Takes every step that is due. Returns how long to wait for the next.
    async fn run_due_steps(&mut self) -> Duration {
        match self.advance().await {
            Ok(()) => {
                self.report_blocked(None);
                let next = self.keys.next_wakeup().map(|at| at.since(self.context.deps.clock.now()));
                next.map_or(MAX_POLL_INTERVAL, |pause| pause.min(MAX_POLL_INTERVAL))
            }
            Err(e) => {
                self.report_blocked(Some(e.to_string()));
                let revocations = self.context.deps.revocations.current();
                match self.keys.revoked_active_kids(&revocations).is_empty() {
                    true => STEP_RETRY_DELAY,
                    false => URGENT_RETRY_DELAY,
                }
            }
        }
    }

    async fn advance(&mut self) -> Result<(), KeyCommandError> {
        loop {
            self.ensure_auditable()?;
            let revocations = self.context.deps.revocations.current();
            let revoked = self.keys.destroy_revoked(self.tpm, &revocations).await;
            if let Ok(events) = &revoked
                && !events.is_empty()
            {
                self.activate(events, "").await?;
                continue;
            }
            let named = tenants_of(&self.context.deps.agents.current());
            let events = self.keys.advance(self.tpm, named.as_ref()).await?;
            if events.is_empty() {
                // The steps that do not need the TPM are taken all the same.
                return Ok(revoked.map(drop)?);
            }
            self.activate(&events, "").await?;
        }
    }

    /// Executes a command and replies to the administrator. Commands for keys that do not load are rejected.
    async fn handle_command(&mut self, command: KeyCommand) {
        if command.is_cancelled() {
            return;
        }
        let KeyCommand { action, requested_by } = command;
        match action {
            KeyAction::Rotate { tenant, urgency, reply } => {
                let result = self.rotate(tenant.as_ref(), urgency, &requested_by).await;
                if let Err(e) = &result {
                    tracing::warn!(
                        "{requested_by} requested a rotation of the issuing key, which failed: {e}"
                    );
                }
                let _ = reply.send(result);
            }
            KeyAction::RotateRsa { urgency, reply } => {
                self.handle_rsa_rotation(urgency, requested_by, reply).await;
            }
            KeyAction::RemoveTenant { tenant, reply } => {
                let _ = reply.send(self.remove_tenant(&tenant, &requested_by).await);
            }
            KeyAction::CreateRecoveryKey(reply) => {
                let _ = reply.send(self.create_recovery_key().await);
            }
            KeyAction::ConfirmRecoveryKey { key, reply } => {
                let result = self.confirm_recovery_key(&key, &requested_by).await;
                // Before the reply, so that the administrator's next request finds it.
                publish_seal_status(self.context, self.keys.keystore().seal_status().borrow().clone());
                let _ = reply.send(result);
            }
            KeyAction::AcceptState(reply) | KeyAction::Recover { reply, .. } => {
                let error = match self.tpm.state().borrow().kind {
                    StateKind::Replaced | StateKind::Cleared => KeyCommandError::RestartRequired,
                    _ => KeyCommandError::KeysOpen,
                };
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn rotate(
        &mut self,
        tenant: Option<&String>,
        urgency: RotationUrgency,
        requested_by: &str,
    ) -> Result<RotationResult, KeyCommandError> {
        self.ensure_auditable()?;
        let keys = self.keys.of_mut(tenant.map(String::as_str))?;
        if urgency == RotationUrgency::Planned
            && let Some(KeyChange::Published { kid, active_from }) = keys.pending_publication()
        {
            let outcome = RotationOutcome::AlreadyPublished;
            return Ok(RotationResult { outcome, kid, active_from, retired: None, destroyed_early: None });
        }
        let changes = match urgency {
            RotationUrgency::Planned => keys.publish(self.tpm).await?,
            RotationUrgency::Immediate => keys.rotate_now(self.tpm, false).await?,
            RotationUrgency::Emergency => keys.rotate_now(self.tpm, true).await?,
        };
        let suffix = format!(", requested by {requested_by}");
        let active = keys.active().kid().to_owned();
        let now = self.context.deps.clock.now();
        let result = rotation_result(changes.clone(), active, now, urgency != RotationUrgency::Planned);
        self.activate(&HostKeys::events_of(tenant, changes), &suffix).await?;
        Ok(result)
    }

    async fn remove_tenant(&mut self, tenant: &str, requested_by: &str) -> Result<bool, KeyCommandError> {
        self.ensure_auditable()?;
        match tenants_of(&self.context.deps.agents.current()) {
            None => return Err(KeyCommandError::TenantInUse),
            Some(named) if named.contains(tenant) => return Err(KeyCommandError::TenantInUse),
            Some(_) => {}
        }
        let Some(events) = self.keys.remove_tenant(tenant).await? else { return Ok(false) };
        let suffix = format!(", requested by {requested_by}");
        self.activate(&events, &suffix).await?;
        Ok(true)
    }

    /// The key opens nothing yet, so it is not recorded; but one that could not be confirmed is not created.
    async fn create_recovery_key(&self) -> Result<Zeroizing<String>, KeyCommandError> {
        self.ensure_auditable()?;
        Ok(self.keys.create_recovery_key().await?)
    }

    async fn confirm_recovery_key(
        &mut self,
        key: &RecoveryKey,
        requested_by: &str,
    ) -> Result<(), KeyCommandError> {
        self.ensure_auditable()?;
        if self.keys.keystore().is_in_force(key).await.map_err(Error::from)? {
            return Ok(());
        }
        // Recorded before the key is in force: a record of a key that is not is better than a key without a
        // record.
        let message =
            format!("{requested_by} requested a recovery key; the previous recovery key is invalidated");
        let audit = &self.context.deps.audit;
        audit.record_event(Event::RecoveryKeyCreated, &message).await.map_err(KeyCommandError::audit)?;
        self.keys.confirm_recovery_key(key).await?;
        if let Some(kek) = self.keys.keystore().kek_reports().into_iter().next() {
            let reason = "takes the place of the previous one, with the new recovery key";
            let change = KeyChange::KekCreated { kid: kek.id, reason };
            self.record_changes(&HostKeys::events_of(None, vec![change]), "").await;
        }
        Ok(())
    }

    /// Publishes why a due step is not taken (`None`: it is), and logs each reason once.
    fn report_blocked(&self, reason: Option<String>) {
        if let Some(reason) = set_if_changed(&self.context.status.rotation_blocked_reason, reason) {
            let revocations = self.context.deps.revocations.current();
            let effect = match self.keys.revoked_active_kids(&revocations)[..] {
                [] => format!("{} keeps signing", self.keys.own().active().kid()),
                ref kids => format!("nothing is signed in place of {}, revoked", kids.join(" and ")),
            };
            tracing::warn!("a change of the issuing keys is blocked, and {effect}: {reason}");
        }
    }
}

/// The tenants that agents name; `None` while the agents are not known.
pub(super) fn tenants_of(agents: &AgentSet) -> Option<BTreeSet<String>> {
    let names = || agents.iter().filter_map(|entry| entry.tenant.clone()).collect();
    agents.is_loaded().then(names)
}

/// Publishes how the keys are sealed, and warns once if the configured PCRs are not in use for lack of a
/// recovery key.
fn publish_seal_status(context: &IssuerContext, seal_status: SealStatus) {
    let lacks_recovery_key = !seal_status.pending_pcrs.is_empty() && seal_status.recovery.is_none();
    let seal_status = Some(seal_status);
    if context.status.seal_status.send_replace(seal_status.clone()) == seal_status {
        return;
    }
    if lacks_recovery_key {
        tracing::warn!(
            "the keys are not sealed to the configured PCRs: the next firmware update would lock them; \
             create a recovery key first: hostbadge key recovery"
        );
    }
}

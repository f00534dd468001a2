//! Third phase: rotates the issuing keys on schedule and on an administrator's command.
//!
//! A step that fails, because the TPM is unavailable or the disk is full, is retried every 10 s; the active
//! key keeps signing meanwhile, beyond its rotation time if necessary. A step takes effect once its file is
//! on disk, and is recorded then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::context::IssuerContext;
use super::rsa_key;
use crate::agents::AgentSet;
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::daemon::audit_ext::record_completed_key_event;
use crate::daemon::watch_ext::set_if_changed;
use crate::issue::{
    Error, HostKeys, KeyAction, KeyChange, KeyCommand, KeyCommandError, KeyEvent, LoadedKeys,
    RotationOutcome, RotationResult, RotationUrgency, RsaSigningKey,
};
use crate::keystore::{RecoveryKey, SealStatus};
use crate::tpm::{StateKind, Tpm};

/// Delay before a failed step is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// Delay before the attempt to replace a revoked key is repeated: nothing is signed in the meantime.
const URGENT_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Longest wait before the schedule is read again, because the wall clock may have been set meanwhile.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(60);

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
    let mut rsa_key_missing = keys.rsa_key().is_none();
    let host_key = keys.host_key_ref();
    let rsa_key = rsa_key::obtain(context, tpm, &host_key);
    tokio::pin!(rsa_key);
    let mut rotation = Rotation { context, tpm, keys };
    let mut clock_changed = context.deps.clock.subscribe();
    let mut agents_changed = context.deps.agents.subscribe();
    let mut revocations_changed = context.deps.revocations.subscribe();
    rotation.record_changes(&changes, "").await;
    loop {
        clock_changed.borrow_and_update();
        agents_changed.borrow_and_update();
        revocations_changed.borrow_and_update();
        let pause = rotation.run_due_steps().await;
        publish_seal_status(context, seal_status.borrow_and_update().clone());
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // The last file encrypted under the previous key-encryption key has been rewritten.
            Ok(()) = seal_status.changed() => {}
            Ok(()) = clock_changed.changed() => {}
            // Agents may name tenants that have no keys yet.
            Ok(()) = agents_changed.changed() => {}
            // An issuing key may be among them.
            Ok(()) = revocations_changed.changed() => {}
            key = &mut rsa_key, if rsa_key_missing => {
                rsa_key_missing = false;
                rotation.set_rsa_key(key);
            }
            Some(command) = commands.recv() => rotation.handle_command(command).await,
        }
    }
}

/// The loaded keys, and what changing them needs.
struct Rotation<'a> {
    context: &'a IssuerContext,
    tpm: &'a Tpm,
    keys: HostKeys,
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
                    true => RETRY_DELAY,
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

    fn set_rsa_key(&mut self, key: Arc<RsaSigningKey>) {
        self.keys.set_rsa_key(Some(key));
        match self.keys.issuer_state() {
            Ok(issuer_state) => self.context.deps.issuer.set_state(issuer_state),
            Err(e) => tracing::error!("the RSA key is not used: {e}"),
        }
    }

    async fn activate(&self, events: &[KeyEvent], suffix: &str) -> Result<(), Error> {
        self.context.deps.issuer.set_state(self.keys.issuer_state()?);
        self.record_changes(events, suffix).await;
        Ok(())
    }

    async fn record_changes(&self, events: &[KeyEvent], suffix: &str) {
        for KeyEvent { tenant, change } in events {
            let (event, kid, description) = describe(change);
            let owner = tenant.as_ref().map(|tenant| format!(" of tenant {tenant}")).unwrap_or_default();
            let kind = match change {
                KeyChange::KekCreated { .. } => "key-encryption key",
                _ => "issuing key",
            };
            let message = format!("{kind} {kid}{owner} {description}{suffix}");
            let (audit, tenant) = (&self.context.deps.audit, tenant.as_deref());
            record_completed_key_event(audit, event, kid, tenant, &message).await;
        }
    }

    fn ensure_auditable(&self) -> Result<(), KeyCommandError> {
        self.context.deps.audit.ensure_writable().map_err(KeyCommandError::audit)
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

/// What a rotation did, after which the key `active` signs.
fn rotation_result(
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

fn describe(change: &KeyChange) -> (Event, &str, String) {
    match change {
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

//! The host's RSA keys, for grants that use RS256: loaded if the host has some, created when a grant first needs one,
//! and rotated on schedule and on an administrator's command.
//!
//! The TPM takes up to a minute to create a key. That happens beside the other steps, and no request waits for it. A
//! fault here affects RS256 alone, and [`IssuerHandle::rsa_blocked_reason`](super::IssuerHandle) has its cause.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::context::{IssuerContext, IssuerDeps, LOAD_RETRY_DELAY, STEP_RETRY_DELAY};
use super::key_changes::{MAX_POLL_INTERVAL, Rotation, rotation_result};
use super::rsa_creation::WaitingCommand;
use crate::daemon::watch_ext::set_if_changed;
use crate::issue::{
    self, HostKeys, KeyChange, KeyCommandError, RSA_KEY_PENDING, ReplySender, RotationOutcome,
    RotationResult, RotationUrgency, RsaKeys, RsaRotation,
};
use crate::tpm::{self, RsaKeyBlob, Tpm};

/// Commands that wait for one key; a further one is rejected.
const MAX_WAITING_COMMANDS: usize = 8;

/// Loads the keys of an earlier start. An error is reported, and the next phase tries again.
pub(super) async fn load(context: &IssuerContext, tpm: &Tpm, keys: &mut HostKeys) {
    match try_load(context, tpm, keys).await {
        Ok(loaded) => keys.set_rsa_keys(loaded),
        Err(e) => report_blocked(context, None, Some(e.to_string())),
    }
}

async fn try_load(context: &IssuerContext, tpm: &Tpm, keys: &HostKeys) -> Result<RsaKeys, issue::Error> {
    let IssuerDeps { state_dir, rotation_policy, clock, .. } = &context.deps;
    RsaKeys::load(tpm, state_dir, keys.keystore(), keys.host_key_ref(), *rotation_policy, clock).await
}

impl Rotation<'_> {
    /// Takes every step of the RSA keys that is due. Returns how long to wait for the next.
    pub(super) async fn run_rsa_steps(&mut self) -> Duration {
        // Reported as what keeps issuing keys from their steps.
        if self.ensure_auditable().is_err() {
            return self.rsa_retry_delay();
        }
        match self.advance_rsa_keys().await {
            Ok(pause) => {
                let reason = self.rsa_creation.failure.clone();
                self.report_rsa_blocked(reason);
                pause
            }
            Err(e) => {
                self.report_rsa_blocked(Some(e.to_string()));
                self.rsa_retry_delay()
            }
        }
    }

    /// Delay before a failed step of the RSA keys is repeated: a short one while no key signs RS256.
    fn rsa_retry_delay(&self) -> Duration {
        let revocations = self.context.deps.revocations.current();
        let active = self.keys.rsa_keys().and_then(RsaKeys::active_kid);
        match active.filter(|kid| !revocations.blocks_key(kid)) {
            Some(_) => STEP_RETRY_DELAY,
            None => LOAD_RETRY_DELAY,
        }
    }

    async fn advance_rsa_keys(&mut self) -> Result<Duration, issue::Error> {
        self.load_rsa_keys().await?;
        loop {
            let revocations = self.context.deps.revocations.current();
            let Some(rsa) = self.keys.rsa_keys_mut() else { return Ok(MAX_POLL_INTERVAL) };
            let mut changes = rsa.destroy_revoked(&revocations).await?;
            if changes.is_empty() {
                changes = rsa.advance(self.tpm).await?;
            }
            if changes.is_empty() {
                break;
            }
            self.activate(&HostKeys::events_of_rsa_keys(changes), "").await?;
        }
        let Some(rsa) = self.keys.rsa_keys() else { return Ok(MAX_POLL_INTERVAL) };
        let next = rsa.next_wakeup().map(|at| at.since(self.context.deps.clock.now()));
        let retry = match self.needs_rsa_key() {
            true => self.rsa_creation.start(self.tpm),
            false => {
                self.rsa_creation.failure = None;
                None
            }
        };
        Ok(next.into_iter().chain(retry).fold(MAX_POLL_INTERVAL, Duration::min))
    }

    /// Loads the keys, if that has not succeeded yet.
    async fn load_rsa_keys(&mut self) -> Result<(), issue::Error> {
        if self.keys.rsa_keys().is_none() {
            let loaded = try_load(self.context, self.tpm, &self.keys).await?;
            self.keys.set_rsa_keys(loaded);
            self.context.deps.issuer.set_state(self.keys.issuer_state()?);
        }
        Ok(())
    }

    /// Whether the TPM is to make a key: the first one for a grant, a successor that is due, or one that an
    /// administrator waits for.
    fn needs_rsa_key(&self) -> bool {
        let Some(rsa) = self.keys.rsa_keys() else { return false };
        let is_first = rsa.active_kid().is_none() && self.context.deps.agents.current().uses_rs256();
        !rsa.has_successor() && (is_first || rsa.needs_successor() || !self.rsa_creation.waiting.is_empty())
    }

    /// Stores the key that the TPM has made, and completes the commands that waited for it. Without a command, the
    /// schedule says when it is published.
    pub(super) async fn add_rsa_key(&mut self, key: Result<RsaKeyBlob, tpm::Error>) {
        let waiting = std::mem::take(&mut self.rsa_creation.waiting);
        if let Err(e) = self.store_rsa_key(key, waiting.first()).await {
            self.rsa_creation.retry_at = Some(Instant::now() + self.rsa_retry_delay());
            self.rsa_creation.failure = Some(e.to_string());
            let e = Arc::new(e);
            for WaitingCommand { requested_by, reply, .. } in waiting {
                tracing::warn!("{requested_by} requested a rotation of the RSA key, which failed: {e}");
                let _ = reply.send(Err(KeyCommandError::RsaKeyNotMade(e.clone())));
            }
            return;
        }
        (self.rsa_creation.retry_at, self.rsa_creation.failure) = (None, None);
        for command in waiting {
            match self.rotate_rsa_key(command.urgency, &command.requested_by).await {
                // Another command has used the key: this one waits for the next.
                Ok(None) => self.rsa_creation.waiting.push(command),
                Ok(Some(result)) => drop(command.reply.send(Ok(result))),
                Err(e) => {
                    let by = &command.requested_by;
                    tracing::warn!("{by} requested a rotation of the RSA key, which failed: {e}");
                    let _ = command.reply.send(Err(e));
                }
            }
        }
    }

    async fn store_rsa_key(
        &mut self,
        key: Result<RsaKeyBlob, tpm::Error>,
        command: Option<&WaitingCommand>,
    ) -> Result<(), issue::Error> {
        let (Some(rsa), key) = (self.keys.rsa_keys_mut(), key?) else { return Ok(()) };
        let generated = match rsa.add_generated(key.clone()).await {
            Ok(generated) => generated,
            Err(e) => {
                self.rsa_creation.unsaved = Some(key);
                return Err(e);
            }
        };
        let suffix = command.map(|command| format!(", requested by {}", command.requested_by));
        let events = HostKeys::events_of_rsa_keys(vec![generated]);
        self.activate(&events, &suffix.unwrap_or_default()).await
    }

    /// Executes a command and replies to the administrator: with the result, or that the TPM makes a key first.
    pub(super) async fn handle_rsa_rotation(
        &mut self,
        urgency: RotationUrgency,
        requested_by: String,
        reply: ReplySender<RsaRotation>,
    ) {
        let result = match self.rotate_rsa_key(urgency, &requested_by).await {
            Ok(Some(result)) => Ok(RsaRotation::Done(result)),
            Ok(None) if self.rsa_creation.waiting.len() >= MAX_WAITING_COMMANDS => Err(KeyCommandError::Busy),
            Ok(None) => {
                let (reply, result) = oneshot::channel();
                self.rsa_creation.waiting.push(WaitingCommand { urgency, requested_by, reply });
                Ok(RsaRotation::Started(result))
            }
            Err(e) => {
                tracing::warn!("{requested_by} requested a rotation of the RSA key, which failed: {e}");
                Err(e)
            }
        };
        let _ = reply.send(result);
    }

    /// Rotates to the key that exists; `None` if the TPM is to make one first.
    async fn rotate_rsa_key(
        &mut self,
        urgency: RotationUrgency,
        requested_by: &str,
    ) -> Result<Option<RotationResult>, KeyCommandError> {
        self.ensure_auditable()?;
        self.load_rsa_keys().await?;
        let uses_rs256 = self.context.deps.agents.current().uses_rs256();
        let Some(rsa) = self.keys.rsa_keys_mut() else { return Ok(None) };
        if rsa.active_kid().is_none() && !rsa.has_successor() && !uses_rs256 {
            return Err(KeyCommandError::NoRsaKey);
        }
        if urgency == RotationUrgency::Planned
            && let Some(KeyChange::Published { kid, active_from }) = rsa.pending_publication()
        {
            let outcome = RotationOutcome::AlreadyPublished;
            return Ok(Some(RotationResult {
                outcome,
                kid,
                active_from,
                retired: None,
                destroyed_early: None,
            }));
        }
        if urgency == RotationUrgency::Immediate {
            rsa.check_capacity()?;
        }
        if !rsa.has_successor() {
            return Ok(None);
        }
        let at_once = urgency != RotationUrgency::Planned || rsa.active_kid().is_none();
        let changes = match urgency {
            RotationUrgency::Planned => rsa.publish(self.tpm).await?,
            RotationUrgency::Immediate => rsa.rotate_now(self.tpm, false).await?,
            RotationUrgency::Emergency => rsa.rotate_now(self.tpm, true).await?,
        };
        let active = rsa.active_kid().unwrap_or_default().to_owned();
        let result = rotation_result(changes.clone(), active, self.context.deps.clock.now(), at_once);
        let suffix = format!(", requested by {requested_by}");
        self.activate(&HostKeys::events_of_rsa_keys(changes), &suffix).await?;
        Ok(Some(result))
    }

    /// Publishes why RS256 tokens are not issued, or why a successor that is due is not there.
    fn report_rsa_blocked(&self, reason: Option<String>) {
        let active = self.keys.rsa_keys().and_then(RsaKeys::active_kid);
        if reason.is_none() && active.is_none() && self.rsa_creation.is_running() {
            // Shown by status but not logged, since it is not an error.
            let pending = Some(RSA_KEY_PENDING.to_owned());
            set_if_changed(&self.context.status.rsa_blocked_reason, pending);
            return;
        }
        report_blocked(self.context, active, reason);
    }
}

/// Publishes the reason of a fault (`None`: there is none), and logs each reason once. `active` is the key that signs
/// nevertheless.
fn report_blocked(context: &IssuerContext, active: Option<&str>, reason: Option<String>) {
    let reason = reason.map(|reason| match active {
        Some(kid) => format!("RSA key {kid} keeps signing, and its successor is delayed: {reason}"),
        None => reason,
    });
    if let Some(reason) = set_if_changed(&context.status.rsa_blocked_reason, reason) {
        match active {
            Some(_) => tracing::warn!("{reason}"),
            None => tracing::error!("no RS256 tokens are issued: {reason}"),
        }
    }
}

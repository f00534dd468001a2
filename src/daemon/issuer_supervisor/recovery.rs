//! Key commands while the keys are not loaded: accept the state directory, or recover with the recovery key.

use super::context::{IssuerContext, IssuerDeps};
use crate::audit::Event;
use crate::daemon::tpm_ext::shut_down_tpm;
use crate::issue::{self, KeyAction, KeyCommand, KeyCommandError};
use crate::keystore::{self, RecoveryKey};
use crate::tpm::{self, StateKind, Tpm};

/// What a recovery means for the TPM in use.
pub(super) enum Recovered {
    /// The state was moved to this TPM.
    Migrated(Tpm),
    /// The TPM in use was closed and the recovery failed: open it again with the stored objects.
    Reopen,
}

/// Executes a command and replies to the administrator. Commands that need loaded keys are rejected. `None`
/// if the TPM in use stays the same.
pub(super) async fn handle_command(
    context: &IssuerContext,
    tpm: &Tpm,
    command: KeyCommand,
) -> Option<Recovered> {
    if command.is_cancelled() {
        return None;
    }
    let KeyCommand { action, requested_by } = command;
    match action {
        KeyAction::AcceptState(reply) => {
            let result = accept_state(context, tpm).await;
            let message = format!("{requested_by} accepted the state directory as it is");
            let _ = reply.send(record_outcome(context, Event::StateAccepted, result, &message).await);
            None
        }
        KeyAction::Recover { key, accept_rollback, reply } => {
            let (recovered, result) = recover(context, tpm, (&key, accept_rollback)).await;
            let message = format!("{requested_by} unlocked the keys with the recovery key and resealed them");
            let _ = reply.send(record_outcome(context, Event::StateRecovered, result, &message).await);
            recovered
        }
        KeyAction::CreateRecoveryKey(_)
        | KeyAction::ConfirmRecoveryKey { .. }
        | KeyAction::RemoveTenant { .. }
        | KeyAction::Rotate { .. }
        | KeyAction::RotateRsa { .. } => {
            KeyCommand { action, requested_by }.reject(KeyCommandError::KeysNotOpen);
            None
        }
    }
}

async fn accept_state(context: &IssuerContext, tpm: &Tpm) -> Result<(), issue::Error> {
    let state_dir = &context.deps.state_dir;
    let stored = issue::read_host_key_blobs(state_dir)?.ok_or(tpm::Error::NotProvisioned)?;
    Ok(keystore::accept_current_state(tpm, state_dir, &stored.kek).await?)
}

/// Recovers onto the host's own TPM or, if the TPM was replaced or cleared, onto the one that is there now.
async fn recover(
    context: &IssuerContext,
    tpm: &Tpm,
    recovery: (&RecoveryKey, bool),
) -> (Option<Recovered>, Result<(), issue::Error>) {
    let IssuerDeps { state_dir, issuer_config, seal_pcrs, clock, tpm_config, .. } = &context.deps;
    let kind = tpm.state().borrow().kind;
    if !matches!(kind, StateKind::Replaced | StateKind::Cleared) {
        let result = issue::recover(tpm, state_dir, issuer_config, seal_pcrs, recovery, clock.clock()).await;
        return (None, result);
    }
    // A wrong key must change nothing, so it is checked before the TPM in use is closed.
    if let Err(e) = issue::check_recovery_key(state_dir, recovery) {
        return (None, Err(e));
    }
    // A panic there has been reported.
    let _ = shut_down_tpm(tpm.clone()).await;
    let new = match Tpm::open(tpm_config.clone(), None) {
        Ok(new) => new,
        Err(e) => return (Some(Recovered::Reopen), Err(issue::Error::OpenTpm(e))),
    };
    match issue::recover(&new, state_dir, issuer_config, seal_pcrs, recovery, clock.clock()).await {
        Ok(()) => (Some(Recovered::Migrated(new)), Ok(())),
        Err(e) => {
            let _ = shut_down_tpm(new).await;
            (Some(Recovered::Reopen), Err(e))
        }
    }
}

/// Records a success. The administrator gets the error of the operation or, failing that, of the audit log.
async fn record_outcome(
    context: &IssuerContext,
    event: Event,
    result: Result<(), issue::Error>,
    message: &str,
) -> Result<(), KeyCommandError> {
    result?;
    context.deps.audit.record_event(event, message).await.map_err(KeyCommandError::audit)
}

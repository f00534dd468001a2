//! The supervisor's task: one phase after the other, and the TPM's state published throughout.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::context::{IssuerContext, IssuerDeps, IssuerStatusSender, LOAD_RETRY_DELAY};
use super::rotation::rotate_keys;
use super::startup::{StartupOutcome, load_keys};
use crate::daemon::component::ComponentTask;
use crate::daemon::startup::{Startup, StartupStep};
use crate::issue::{self, KeyAdmin, KeyCommand, KeyCommandReceiver};
use crate::keystore::Keystore;
use crate::tpm::{Tpm, TpmState};
use crate::wire::status::TpmDescription;

/// The running supervisor, as the rest of the daemon sees it.
pub(in crate::daemon) struct IssuerHandle {
    /// The TPM's state; `starting` until the TPM has been opened.
    pub tpm_state: watch::Receiver<TpmState>,
    /// Why no tokens are issued, if the cause is not the TPM's state.
    pub blocked_reason: watch::Receiver<Option<String>>,
    /// The TPM's manufacturer, firmware and AK, once the keys are loaded.
    pub tpm_info: watch::Receiver<Option<TpmDescription>>,
    /// The TPM in use. Another one follows when the administrator has recovered the keys onto a new TPM.
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// The keystore, once it is open.
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// Why there is no RSA key although a grant uses RS256.
    pub rsa_blocked_reason: watch::Receiver<Option<String>>,
    /// Sends administrators' commands to the supervisor.
    pub key_admin: KeyAdmin,
    /// Whether the first attempt to load the keys has ended.
    pub first_attempt: StartupStep,
    task: ComponentTask,
}

/// Starts the supervisor on the current runtime.
pub(in crate::daemon) fn spawn(deps: IssuerDeps, startup: &mut Startup) -> IssuerHandle {
    let (startup, first_attempt) = startup.register();
    let (tpm_state, tpm_state_rx) = watch::channel(TpmState::starting());
    let (blocked_reason, blocked_reason_rx) = watch::channel(None);
    let (tpm_info, tpm_info_rx) = watch::channel(None);
    let (tpm, tpm_rx) = watch::channel(None);
    let (keystore, keystore_rx) = watch::channel(None);
    let (rsa_blocked_reason, rsa_blocked_reason_rx) = watch::channel(None);
    let (key_admin, receiver) = issue::key_command_channel();
    let KeyCommandReceiver { commands, blocked_reason: rotation_blocked_reason, seal_status } = receiver;
    let status = IssuerStatusSender {
        tpm_state,
        blocked_reason,
        tpm_info,
        tpm,
        keystore,
        rotation_blocked_reason,
        seal_status,
        rsa_blocked_reason,
    };
    IssuerHandle {
        tpm_state: tpm_state_rx,
        blocked_reason: blocked_reason_rx,
        tpm_info: tpm_info_rx,
        tpm: tpm_rx,
        keystore: keystore_rx,
        rsa_blocked_reason: rsa_blocked_reason_rx,
        key_admin,
        first_attempt,
        task: ComponentTask::spawn(|stop| run(IssuerContext { deps, status, startup, stop }, commands)),
    }
}

impl IssuerHandle {
    /// Stops the supervisor. The TPM stays open: see [`IssuerHandle::tpm`].
    pub async fn stop(self) {
        self.task.stop().await;
    }
}

async fn run(context: IssuerContext, mut commands: mpsc::Receiver<KeyCommand>) {
    let Some(mut tpm) = open_tpm(&context).await else { return };
    loop {
        context.status.tpm.send_replace(Some(tpm.clone()));
        let run_issuer = async {
            match load_keys(&context, &tpm, &mut commands).await {
                StartupOutcome::Ready(loaded) => {
                    rotate_keys(&context, &tpm, *loaded, &mut commands).await;
                    None
                }
                StartupOutcome::Migrated(tpm) => Some(tpm),
                StartupOutcome::Reopen => open_tpm(&context).await,
                StartupOutcome::Stopped => None,
            }
        };
        let next = tokio::select! {
            next = run_issuer => next,
            () = forward_state(&context, tpm.state()) => None,
            () = follow_revocations(&context) => None,
        };
        match next {
            Some(next) => tpm = next,
            None => return,
        }
    }
}

/// Opens the TPM with the stored objects. A file that cannot be read is retried until the administrator has
/// replaced it. `None` once the daemon stops.
async fn open_tpm(context: &IssuerContext) -> Option<Tpm> {
    let IssuerDeps { state_dir, tpm_config, .. } = &context.deps;
    loop {
        let result = issue::read_host_key_blobs(state_dir).map_err(|e| e.to_string()).and_then(|stored| {
            Tpm::open(tpm_config.clone(), stored)
                .map_err(|e| format!("{}: {e}", state_dir.join("tpm.json").display()))
        });
        match result {
            Ok(tpm) => {
                context.report_blocked(None);
                return Some(tpm);
            }
            Err(reason) => {
                context.report_blocked(Some(reason));
                context.startup.complete();
            }
        }
        sleep_or_stop(&context.stop).await?;
    }
}

/// Waits for the retry delay. `None` once the daemon stops.
async fn sleep_or_stop(stop: &CancellationToken) -> Option<()> {
    tokio::select! {
        () = tokio::time::sleep(LOAD_RETRY_DELAY) => Some(()),
        () = stop.cancelled() => None,
    }
}

/// Publishes the TPM's state. Issuance is suspended while another TPM answers than the one whose keys are in
/// memory.
async fn forward_state(context: &IssuerContext, mut state: watch::Receiver<TpmState>) {
    loop {
        let now = state.borrow_and_update().clone();
        context.deps.issuer.set_suspended(now.ek_mismatch);
        context.status.tpm_state.send_replace(now);
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Has revoked keys served and signed with no more, at once: a step of the key schedule may have to wait for the TPM.
/// Never returns.
async fn follow_revocations(context: &IssuerContext) {
    let IssuerDeps { issuer, revocations, .. } = &context.deps;
    let mut changed = revocations.subscribe();
    loop {
        changed.borrow_and_update();
        issuer.apply_revocations(&revocations.current());
        if changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

//! Brings the issuer to its feet, and goes on trying while the TPM or a file stands in the way.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::pcr_changes;
use super::watch_ext::set_if_changed;
use super::{KeyRotator, RsaKeyManager};
use crate::audit::Event;
use crate::clock::Clock;
use crate::issue::{
    self, Issuer, IssuerConfig, KeyAction, KeyCommand, KeyCommandError, LoadedKeys, RotationPolicy,
};
use crate::keystore::{self, Keystore, RecoveryKey};
use crate::posture::EventLogFile;
use crate::tpm::{self, StateKind, Tpm, TpmConfig, TpmState};
use crate::wire::status::TpmDescription;

/// How soon something that failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Owns the TPM's handle for the life of the daemon.
pub struct IssuerSupervisor {
    pub config: TpmConfig,
    pub state_dir: PathBuf,
    pub issuer_config: IssuerConfig,
    pub rotation_policy: RotationPolicy,
    /// PCRs that the keys are to be sealed to.
    pub seal_pcrs: Vec<u8>,
    /// To say what changed where they do not open.
    pub event_log: EventLogFile,
    pub issuer: Issuer,
    pub clock: Clock,
    pub status: IssuerStatusSender,
}

/// What became of an attempt to stand.
enum StartupOutcome {
    Ready(Box<LoadedKeys>),
    /// The administrator moved the state to the TPM that is there.
    Migrated(Tpm),
    /// The TPM is to be opened anew, with the stored objects.
    Reopen,
}

/// What the rest of the daemon sees of the keeper's work.
#[derive(Clone)]
pub struct IssuerStatus {
    pub tpm_state: watch::Receiver<TpmState>,
    /// Something other than the TPM that keeps the issuer from standing.
    pub blocked_reason: watch::Receiver<Option<String>>,
    pub tpm_info: watch::Receiver<Option<TpmDescription>>,
    /// Whether the first attempt has ended, one way or the other.
    pub startup_done: watch::Receiver<bool>,
    /// For the end of the daemon.
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// What state is kept with, once the keys are open.
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
}

/// Where the keeper tells what it finds.
pub struct IssuerStatusSender {
    tpm_state: watch::Sender<TpmState>,
    blocked_reason: watch::Sender<Option<String>>,
    tpm_info: watch::Sender<Option<TpmDescription>>,
    startup_done: watch::Sender<bool>,
    tpm: watch::Sender<Option<Tpm>>,
    keystore: watch::Sender<Option<Arc<Keystore>>>,
}

impl IssuerStatus {
    /// Both ends of what the keeper tells.
    pub fn channel() -> (IssuerStatusSender, IssuerStatus) {
        let (tpm_state, tpm_state_rx) = watch::channel(TpmState::starting());
        let (blocked_reason, blocked_reason_rx) = watch::channel(None);
        let (tpm_info, tpm_info_rx) = watch::channel(None);
        let (startup_done, startup_done_rx) = watch::channel(false);
        let (tpm, tpm_rx) = watch::channel(None);
        let (keystore, keystore_rx) = watch::channel(None);
        let sender = IssuerStatusSender { tpm_state, blocked_reason, tpm_info, startup_done, tpm, keystore };
        let status = IssuerStatus {
            tpm_state: tpm_state_rx,
            blocked_reason: blocked_reason_rx,
            tpm_info: tpm_info_rx,
            startup_done: startup_done_rx,
            tpm: tpm_rx,
            keystore: keystore_rx,
        };
        (sender, status)
    }
}

impl IssuerSupervisor {
    /// Runs for ever. Once the issuer stands, its keys are the rotator's.
    pub async fn run(self, mut rotator: KeyRotator, rsa: RsaKeyManager) {
        let mut tpm = self.open_tpm().await;
        loop {
            self.status.tpm.send_replace(Some(tpm.clone()));
            let run_issuer = async {
                match self.start_issuer(&tpm, &mut rotator, &rsa).await {
                    StartupOutcome::Ready(established) => {
                        let (host_key, has_rsa) =
                            (established.keys.host_key_ref(), established.keys.rsa_key().is_some());
                        let run_rsa = async {
                            if !has_rsa {
                                rsa.run(&tpm, &host_key).await;
                            }
                        };
                        tokio::join!(rotator.run(&tpm, *established), run_rsa);
                        None
                    }
                    StartupOutcome::Migrated(tpm) => Some(tpm),
                    StartupOutcome::Reopen => Some(self.open_tpm().await),
                }
            };
            let next = tokio::select! {
                next = run_issuer => next,
                () = self.forward_state(tpm.state()) => None,
            };
            match next {
                Some(next) => tpm = next,
                None => return,
            }
        }
    }

    /// Opens the TPM with the stored objects; a file that cannot be read is tried until somebody has mended it.
    async fn open_tpm(&self) -> Tpm {
        loop {
            let result =
                issue::read_host_key_blobs(&self.state_dir).map_err(|e| e.to_string()).and_then(|stored| {
                    Tpm::open(self.config.clone(), stored)
                        .map_err(|e| format!("{}: {e}", self.state_dir.join("tpm.json").display()))
                });
            match result {
                Ok(tpm) => {
                    self.report_blocked(None);
                    return tpm;
                }
                Err(reason) => self.report_and_delay(reason).await,
            }
        }
    }

    /// Loads or makes the keys, until it has succeeded or an administrator has changed what there is to load.
    async fn start_issuer(&self, tpm: &Tpm, rotator: &mut KeyRotator, rsa: &RsaKeyManager) -> StartupOutcome {
        loop {
            let (naming, pcrs) = (&self.issuer_config, &self.seal_pcrs);
            let established = issue::load_or_create_keys(
                tpm,
                &self.state_dir,
                naming,
                self.rotation_policy,
                pcrs,
                &self.clock,
            )
            .await;
            let established = match established {
                Ok(mut established) => {
                    // Before anybody is served, so that the key set is whole from the start.
                    let by = established.keys.host_key_ref();
                    established.keys.set_rsa_key(rsa.load(tpm, &by).await);
                    Ok(established)
                }
                failed => failed,
            };
            match established.and_then(|established| Ok((established.keys.issuer_state()?, established))) {
                Ok((standing, established)) => {
                    let key = standing.issuing_key().kid().to_owned();
                    let host = standing.host().clone();
                    if let Ok(facts) = tpm.info().await {
                        self.status.tpm_info.send_replace(Some(TpmDescription {
                            manufacturer: facts.manufacturer,
                            vendor: facts.vendor,
                            firmware: facts.firmware,
                            ek_certificate: facts.ek_certificate.is_some(),
                            ak_name: facts.ak_name,
                        }));
                    }
                    self.status.keystore.send_replace(Some(established.keys.keystore().clone()));
                    self.issuer.set_state(standing);
                    self.report_blocked(None);
                    tracing::info!(
                        event = "issuer-ready",
                        "host {} issues as {} with key {key}, guarded by a {} TPM",
                        host.id,
                        host.issuer,
                        host.tpm_kind()
                    );
                    self.status.startup_done.send_replace(true);
                    return StartupOutcome::Ready(Box::new(established));
                }
                // The TPM's state says it better, and its change is awaited below.
                Err(issue::Error::Tpm(e)) if is_tpm_unavailable(&e) => {
                    self.report_blocked(None);
                    self.status.startup_done.send_replace(true);
                    let mut state = tpm.state();
                    state.mark_unchanged();
                    if let Some(outcome) = self.wait_for_retry(tpm, rotator, state.changed()).await {
                        return outcome;
                    }
                }
                Err(e) => {
                    let changes = match &e {
                        issue::Error::Keystore(keystore::Error::PcrsChanged { sealed_to, .. }) => {
                            pcr_changes::describe_changes_since_seal(
                                tpm,
                                &self.state_dir,
                                &self.event_log,
                                sealed_to,
                            )
                            .await
                        }
                        _ => String::new(),
                    };
                    self.report_blocked(Some(format!("{e}{changes}")));
                    self.status.startup_done.send_replace(true);
                    if let Some(outcome) =
                        self.wait_for_retry(tpm, rotator, std::future::pending::<()>()).await
                    {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Waits for another attempt, and takes orders meanwhile.
    async fn wait_for_retry<T>(
        &self,
        tpm: &Tpm,
        rotator: &mut KeyRotator,
        wakeup: impl Future<Output = T>,
    ) -> Option<StartupOutcome> {
        tokio::select! {
            _ = wakeup => None,
            () = tokio::time::sleep(RETRY_DELAY) => None,
            Some(order) = rotator.commands.commands.recv() => self.handle_command(tpm, rotator, order).await,
        }
    }

    /// What an administrator can do about keys that do not open.
    async fn handle_command(
        &self,
        tpm: &Tpm,
        rotator: &KeyRotator,
        command: KeyCommand,
    ) -> Option<StartupOutcome> {
        if command.is_cancelled() {
            return None;
        }
        let KeyCommand { action: what, requested_by: by } = command;
        match what {
            KeyAction::AcceptState(reply) => {
                let done = self.accept(tpm).await;
                let told = self.record_outcome(
                    rotator,
                    Event::StateAccepted,
                    done,
                    &by,
                    "took the state directory as it is",
                );
                let _ = reply.send(told.await);
                None
            }
            KeyAction::Recover { key, accept_rollback: accept, reply } => {
                let (outcome, done) = self.recover(tpm, (&key, accept)).await;
                let what = "opened the keys with the recovery key and sealed them anew";
                let _ =
                    reply.send(self.record_outcome(rotator, Event::StateRecovered, done, &by, what).await);
                outcome
            }
            what => {
                KeyCommand { action: what, requested_by: by }.reject(KeyCommandError::KeysNotOpen);
                None
            }
        }
    }

    async fn accept(&self, tpm: &Tpm) -> Result<(), issue::Error> {
        let stored = issue::read_host_key_blobs(&self.state_dir)?.ok_or(tpm::Error::NotProvisioned)?;
        Ok(keystore::accept_current_state(tpm, &self.state_dir, &stored.kek).await?)
    }

    /// On the host's own TPM, or, where there is another in its place, on that one.
    async fn recover(
        &self,
        tpm: &Tpm,
        input: (&RecoveryKey, bool),
    ) -> (Option<StartupOutcome>, Result<(), issue::Error>) {
        let (dir, naming, pcrs) = (&self.state_dir, &self.issuer_config, &self.seal_pcrs);
        let kind = tpm.state().borrow().kind;
        if !matches!(kind, StateKind::Replaced | StateKind::Cleared) {
            return (None, issue::recover(tpm, dir, naming, pcrs, input, &self.clock).await);
        }
        // A wrong key is to change nothing, not even for a moment.
        if let Err(e) = issue::check_recovery_key(dir, input) {
            return (None, Err(e));
        }
        let old = tpm.clone();
        let _ = tokio::task::spawn_blocking(move || old.shutdown()).await;
        let new = match Tpm::open(self.config.clone(), None) {
            Ok(new) => new,
            Err(e) => return (Some(StartupOutcome::Reopen), Err(issue::Error::OpenTpm(e))),
        };
        match issue::recover(&new, dir, naming, pcrs, input, &self.clock).await {
            Ok(()) => (Some(StartupOutcome::Migrated(new)), Ok(())),
            Err(e) => {
                let _ = tokio::task::spawn_blocking(move || new.shutdown()).await;
                (Some(StartupOutcome::Reopen), Err(e))
            }
        }
    }

    /// Writes down what was done, and gives the administrator the outcome.
    async fn record_outcome(
        &self,
        rotator: &KeyRotator,
        event: Event,
        result: Result<(), issue::Error>,
        requested_by: &str,
        action: &str,
    ) -> Result<(), KeyCommandError> {
        result?;
        rotator
            .audit
            .record_event(event, &format!("{requested_by} {action}"))
            .await
            .map_err(KeyCommandError::audit)
    }

    async fn forward_state(&self, mut state: watch::Receiver<TpmState>) {
        loop {
            let now = state.borrow_and_update().clone();
            // The keys in memory are another TPM's: whoever swapped it, this is not the host that they vouch for.
            self.issuer.set_suspended(now.ek_mismatch);
            self.status.tpm_state.send_replace(now);
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    async fn report_and_delay(&self, reason: String) {
        self.report_blocked(Some(reason));
        self.status.startup_done.send_replace(true);
        tokio::time::sleep(RETRY_DELAY).await;
    }

    /// Says each trouble once.
    fn report_blocked(&self, reason: Option<String>) {
        if let Some(reason) = set_if_changed(&self.status.blocked_reason, reason) {
            tracing::error!(event = "issuer-blocked", "no tokens are issued: {reason}");
        }
    }
}

/// Whether an error is one that the TPM's named state explains and time or the administrator mends.
fn is_tpm_unavailable(error: &tpm::Error) -> bool {
    matches!(error, tpm::Error::NotReady(_) | tpm::Error::DeadlineExceeded(_) | tpm::Error::QueueFull)
}

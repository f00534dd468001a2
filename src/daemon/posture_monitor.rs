//! Monitors the host's posture: quotes the PCRs at intervals, compares them with the baseline, and keeps the
//! baseline.
//!
//! Each reading is one TPM quote, verified with the AK's public key. It waits in the TPM's queue like any
//! other request. A reading that fails is retried after 2 s, and the previous one counts until it is older
//! than `posture.max_age`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::audit_ext::record_completed;
use super::component::ComponentTask;
use super::pcr_changes::join_lines;
use super::startup::{Startup, StartupSignal, StartupStep};
use crate::agents::AgentRegistry;
use crate::audit::{Audit, AuditUnavailable, Event};
use crate::clock::{BootTime, Clock};
use crate::config::{PostureMode, PostureSection};
use crate::keystore::{self, Keystore};
use crate::posture::{
    self, Acceptance, Baseline, EventLogFile, ImaListFile, PcrReading, Posture, PostureAction,
    PostureCommand, PostureCommandError, PostureCommandReceiver, PostureCommandSender, PostureSnapshot,
    PostureState, baseline, describe_pcr_changes, pcr_digest,
};
use crate::tpm::{self, StateKind, Tpm};
use crate::verify;

/// Longest delay before a failed reading is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// How often the monitor checks whether a reading is needed, while none is.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two readings caused by an executable that is missing from the IMA digests. Unknown
/// callers cause such readings too, so this bounds their use of the TPM.
const MIN_QUOTE_INTERVAL: Duration = Duration::from_secs(2);
/// PCRs that every reading includes: firmware, boot loader, kernel, IMA, shim.
const BASELINE_PCRS: std::ops::RangeInclusive<u8> = 0..=14;
const IMA_PCR: u8 = 10;

/// What the posture monitor is built from.
pub(super) struct PostureDeps {
    /// Configured mode, interval and compared PCRs.
    pub config: PostureSection,
    /// State directory, with `baseline.json`.
    pub state_dir: PathBuf,
    /// Boot event log, which is stored with the baseline and explains changes.
    pub event_log: EventLogFile,
    /// IMA measurement list, for agents with the selector `measured`.
    pub ima_list: ImaListFile,
    /// Receives each reading; decisions are made from it.
    pub posture: PostureState,
    /// Registered agents: whether a grant or a selector needs readings.
    pub agents: AgentRegistry,
    /// Audit log, for each change of the posture and each acceptance.
    pub audit: Audit,
    /// Time source.
    pub clock: Clock,
    /// The TPM in use.
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// The keystore, once it is open: it authenticates the baseline file.
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// First attempt of the issuer supervisor: before its end there may be no AK to quote with.
    pub issuer_first_attempt: StartupStep,
}

/// The running posture monitor.
pub(super) struct PostureHandle {
    /// Sends administrators' commands to the monitor.
    pub commands: PostureCommandSender,
    task: ComponentTask,
}

/// Starts the posture monitor on the current runtime.
pub(super) fn spawn(deps: PostureDeps, startup: &mut Startup) -> PostureHandle {
    let (startup, _) = startup.register();
    let (sender, commands) = posture::command_channel();
    let monitor = |stop| PostureMonitor { deps, commands, startup, stop }.run();
    PostureHandle { commands: sender, task: ComponentTask::spawn(monitor) }
}

impl PostureHandle {
    /// Stops the monitor.
    pub async fn stop(self) {
        self.task.stop().await;
    }
}

/// Why there is no reading, or no baseline.
#[derive(Debug, thiserror::Error)]
enum MonitorError {
    #[error("the TPM is starting")]
    TpmStarting,
    #[error("the TPM is {0}")]
    TpmUnavailable(tpm::TpmState),
    #[error("the system's random number generator failed")]
    Random,
    #[error("the keystore is locked; see hostbadge status")]
    KeystoreLocked,
    #[error(transparent)]
    Tpm(#[from] tpm::Error),
    #[error(transparent)]
    Quote(#[from] verify::Error),
    #[error(transparent)]
    Keystore(#[from] keystore::Error),
    #[error(transparent)]
    Baseline(#[from] posture::Error),
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}

struct PostureMonitor {
    deps: PostureDeps,
    commands: PostureCommandReceiver,
    startup: StartupSignal,
    stop: CancellationToken,
}

impl PostureMonitor {
    async fn run(mut self) {
        let mut last_recorded = None;
        self.deps.posture.set_enabled(self.affects_decisions());
        if !self.is_needed() {
            self.startup.complete();
        }
        tokio::select! {
            () = self.stop.cancelled() => return,
            () = self.deps.issuer_first_attempt.wait() => {}
        }
        while !self.stop.is_cancelled() {
            let needed = self.is_needed();
            self.deps.posture.set_enabled(self.affects_decisions());
            let lacks_baseline = self.lacks_baseline();
            let mut pause = POLL_INTERVAL;
            if needed || lacks_baseline {
                pause = match self.refresh().await {
                    Ok(_) if needed => self.deps.config.every(),
                    Ok(_) => POLL_INTERVAL,
                    Err(_) => RETRY_DELAY.min(self.deps.config.every()),
                };
                if self.affects_decisions() {
                    self.record_posture_change(&mut last_recorded).await;
                }
            }
            self.startup.complete();
            self.wait_for_trigger(pause).await;
        }
    }

    /// Waits until the next reading is due, an executable is missing from the IMA digests, or the daemon
    /// stops. Executes a command that arrives meanwhile.
    async fn wait_for_trigger(&mut self, pause: Duration) {
        let started = Instant::now();
        let ima_digests = self.deps.posture.ima_digests().clone();
        let cache_miss = async {
            ima_digests.wait_for_miss().await;
            tokio::time::sleep_until((started + MIN_QUOTE_INTERVAL).into()).await;
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            () = cache_miss, if self.deps.agents.current().uses_ima() => {}
            Some(command) = self.commands.recv() => self.handle_command(command).await,
        }
    }

    /// Whether readings are needed at all.
    fn is_needed(&self) -> bool {
        self.affects_decisions() || self.deps.agents.current().uses_ima()
    }

    /// Whether a decision depends on the posture: by `posture.mode`, or by a grant.
    fn affects_decisions(&self) -> bool {
        self.deps.config.mode != PostureMode::Off || self.deps.agents.current().uses_posture()
    }

    /// Whether this host has no baseline yet. One reading is then taken even if none is needed, so that later
    /// readings have something to be compared with.
    fn lacks_baseline(&self) -> bool {
        let snapshot = self.deps.posture.snapshot();
        let keystore_open = self.deps.keystore.borrow().is_some();
        let missing = snapshot.baseline.is_none() && snapshot.baseline_error.is_none();
        keystore_open && missing && !self.deps.state_dir.join(baseline::FILE_NAME).exists()
    }

    /// Takes one reading and publishes it, or the error, in the posture state.
    async fn refresh(&self) -> Result<PcrReading, MonitorError> {
        let result = self.quote_pcrs().await;
        let mut snapshot = PostureSnapshot::clone(&self.deps.posture.snapshot());
        match &result {
            Ok(reading) => {
                snapshot.read_error = None;
                // Another host id means that the state was moved to another TPM.
                if snapshot.baseline.as_ref().is_none_or(|baseline| baseline.host_id != reading.host_id) {
                    (snapshot.baseline, snapshot.baseline_error) = match self.load_baseline(reading).await {
                        Ok(baseline) => (Some(baseline), None),
                        Err(e) => (None, Some(e.to_string())),
                    };
                }
                snapshot.verdict = Some(match (&snapshot.baseline, &snapshot.baseline_error) {
                    (Some(baseline), _) => baseline.compare(&self.deps.config.pcrs, &reading.pcrs),
                    (None, error) => (Posture::Unaccepted, error.clone().unwrap_or_default()),
                });
                snapshot.reading = Some(reading.clone());
                self.update_ima_digests(reading).await;
            }
            Err(error) => snapshot.read_error = Some(error.to_string()),
        }
        self.deps.posture.set_snapshot(snapshot);
        result
    }

    /// Has the TPM quote the PCRs with a fresh 32-byte nonce, and verifies the quote.
    async fn quote_pcrs(&self) -> Result<PcrReading, MonitorError> {
        let tpm = self.deps.tpm.borrow().clone().ok_or(MonitorError::TpmStarting)?;
        let tpm_state = tpm.state().borrow().clone();
        // A request to a TPM in any other state would only wait for its deadline.
        if tpm_state.kind != StateKind::Ready && tpm_state.kind != StateKind::Starting {
            return Err(MonitorError::TpmUnavailable(tpm_state));
        }
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| MonitorError::Random)?;
        let mut numbers: Vec<u8> = BASELINE_PCRS.chain(self.deps.config.pcrs.iter().copied()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let (taken_at, wall_time) = (BootTime::now(), self.deps.clock.now());
        let facts = tpm.info().await?;
        let quoted = tpm.attest(numbers, nonce.to_vec()).await?;
        verify::check_quote(&quoted.ak_public, &quoted.quote, &quoted.signature, &nonce, &quoted.pcrs)?;
        Ok(PcrReading { taken_at, wall_time, host_id: facts.host_id, pcrs: quoted.pcrs })
    }

    /// Reads the baseline file. If this host has none, the reading becomes a baseline that is not accepted
    /// yet.
    async fn load_baseline(&self, reading: &PcrReading) -> Result<Arc<Baseline>, MonitorError> {
        // Only an open keystore can tell whether the file is the latest of this host.
        if self.deps.keystore.borrow().is_none() {
            return Err(MonitorError::KeystoreLocked);
        }
        let (state_dir, host_id) = (self.deps.state_dir.clone(), reading.host_id.clone());
        let stored = tokio::task::spawn_blocking(move || Baseline::read(&state_dir, &host_id)).await??;
        if let Some(baseline) = stored {
            return Ok(Arc::new(baseline));
        }
        let baseline = self.save_baseline(reading, None).await?;
        tracing::info!(
            "the host's state is recorded as a baseline that is not accepted yet: hostbadge posture show"
        );
        Ok(baseline)
    }

    /// Makes the reading the baseline. On disk when this returns.
    async fn save_baseline(
        &self,
        reading: &PcrReading,
        acceptance: Option<Acceptance>,
    ) -> Result<Arc<Baseline>, MonitorError> {
        let keystore = self.deps.keystore.borrow().clone().ok_or(MonitorError::KeystoreLocked)?;
        let event_log = self.deps.event_log.clone();
        let baseline = Baseline {
            host_id: reading.host_id.clone(),
            recorded_at: reading.wall_time,
            pcrs: reading.pcrs.clone(),
            event_log: tokio::task::spawn_blocking(move || event_log.read()).await?,
            acceptance,
        };
        keystore.write_file(baseline::FILE_NAME, baseline::VERSION, &baseline.to_file()).await?;
        Ok(Arc::new(baseline))
    }

    /// Reads the entries that were added to the IMA list, up to the quoted value of PCR 10.
    async fn update_ima_digests(&self, reading: &PcrReading) {
        let Some(pcr) = reading.pcrs.get(&IMA_PCR).copied() else { return };
        if self.deps.agents.current().uses_ima() {
            let (ima_digests, list) = (self.deps.posture.ima_digests().clone(), self.deps.ima_list.clone());
            // A list that does not match the PCR is reported to each request that needs a digest.
            let _ = tokio::task::spawn_blocking(move || ima_digests.update(&list, &pcr)).await;
        }
    }

    /// Executes a command and replies to the administrator.
    async fn handle_command(&mut self, command: PostureCommand) {
        // The administrator has given up, and must not find a new baseline later.
        if command.reply.is_closed() {
            return;
        }
        let result = match &command.action {
            PostureAction::Refresh => self.refresh().await.map(drop).map_err(read_failed),
            PostureAction::Accept { digest, accepted_by } => self.accept(digest, accepted_by).await,
        };
        let _ = command.reply.send(result);
    }

    async fn accept(&mut self, expected_digest: &str, accepted_by: &str) -> Result<(), PostureCommandError> {
        self.deps
            .audit
            .ensure_writable()
            .map_err(|AuditUnavailable(cause)| PostureCommandError::AuditUnavailable(cause.to_string()))?;
        let reading = self.refresh().await.map_err(read_failed)?;
        let digest = pcr_digest(&self.deps.config.pcrs, &reading.pcrs);
        if digest != expected_digest {
            return Err(PostureCommandError::DigestMismatch { current_digest: digest });
        }
        let changes = self.describe_changes(&reading).await;
        let acceptance = Acceptance {
            accepted_at: self.deps.clock.now(),
            accepted_by: accepted_by.to_owned(),
            digest: digest.clone(),
        };
        let baseline = self
            .save_baseline(&reading, Some(acceptance))
            .await
            .map_err(|e| PostureCommandError::SaveBaseline(e.to_string()))?;
        let mut snapshot = PostureSnapshot::clone(&self.deps.posture.snapshot());
        snapshot.verdict = Some(baseline.compare(&self.deps.config.pcrs, &reading.pcrs));
        (snapshot.baseline, snapshot.baseline_error) = (Some(baseline), None);
        self.deps.posture.set_snapshot(snapshot);
        let message = format!("{accepted_by} accepted the host's state {digest}{changes}");
        record_completed(&self.deps.audit, Event::PostureAccepted, &message).await;
        Ok(())
    }

    /// Records each change once: another posture, or the same posture for another reason. A change that
    /// cannot be recorded is recorded by a later call; nothing is issued meanwhile.
    async fn record_posture_change(&self, last_recorded: &mut Option<(Posture, String)>) {
        let current = self.deps.posture.evaluate(BootTime::now());
        // The reason of a stale posture contains its age, which changes all the time.
        let reason = if current.posture == Posture::Stale { String::new() } else { current.reason() };
        let now = (current.posture, reason);
        // A daemon that starts on an accepted host has no change to record.
        if last_recorded.is_none() && now.0 == Posture::Accepted || last_recorded.as_ref() == Some(&now) {
            *last_recorded = Some(now);
            return;
        }
        let changes = match &current.snapshot().reading {
            Some(reading) if now.0 == Posture::Changed => self.describe_changes(reading).await,
            _ => String::new(),
        };
        let reason = current.reason();
        let suffix = if reason.is_empty() { reason } else { format!(": {reason}") };
        let message = format!("the host's posture is {}{suffix}{changes}", now.0);
        if self.deps.audit.record_event(Event::PostureChanged, &message).await.is_ok() {
            *last_recorded = Some(now);
        }
    }

    /// What differs from the baseline, as text to append to a message.
    async fn describe_changes(&self, reading: &PcrReading) -> String {
        let Some(baseline) = self.deps.posture.snapshot().baseline.clone() else { return String::new() };
        let (event_log, now, compared) =
            (self.deps.event_log.clone(), reading.pcrs.clone(), self.deps.config.pcrs.clone());
        let lines = tokio::task::spawn_blocking(move || {
            let before = baseline.pcrs.iter().filter(|(number, _)| compared.contains(number));
            let before = before.map(|(number, value)| (*number, *value)).collect();
            describe_pcr_changes(&before, baseline.event_log.as_deref(), &now, event_log.read().as_deref())
        });
        join_lines(&lines.await.unwrap_or_default(), "; and more: hostbadge posture diff")
    }
}

fn read_failed(error: MonitorError) -> PostureCommandError {
    PostureCommandError::ReadPcrs(error.to_string())
}

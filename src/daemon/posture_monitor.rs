//! Looks at the host again and again, and keeps its baseline.
//!
//! A look is one quote of the TPM, checked by the AK's own public half. It waits in the TPM's queue like everybody else's
//! work; one that fails is tried again, and what was seen before counts until it is too old.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use crate::agents::AgentRegistry;
use crate::audit::{Audit, Event};
use crate::clock::{BootTime, Clock};
use crate::config;
use crate::keystore::Keystore;
use crate::posture::{
    Acceptance, Baseline, EventLogFile, ImaListFile, PcrReading, Posture, PostureAction, PostureCommand,
    PostureCommandError, PostureCommandReceiver, PostureSnapshot, PostureState, baseline,
    describe_pcr_changes, pcr_digest,
};
use crate::tpm::{StateKind, Tpm};
use crate::verify;

/// How soon a look that failed is tried again, at the latest.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// How often it is seen whether somebody wants the host to be looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two looks for the sake of a program that was just started: strangers cause them too.
const MIN_QUOTE_INTERVAL: Duration = Duration::from_secs(2);
/// Always quoted and kept: firmware, boot loader, kernel, IMA, shim.
const BASELINE_PCRS: std::ops::RangeInclusive<u8> = 0..=14;
const IMA_PCR: u8 = 10;
/// Why there is no baseline at first.
const KEYSTORE_LOCKED: &str =
    "the host's keys are not open, and what is kept with them is not either; see hostbadge status";
/// Lines of what changed that the record gets.
const MAX_CHANGE_LINES: usize = 4;

/// Who looks.
pub struct PostureMonitor {
    pub config: config::PostureSection,
    pub state_dir: PathBuf,
    pub event_log: EventLogFile,
    pub ima_list: ImaListFile,
    pub posture: PostureState,
    pub agents: AgentRegistry,
    pub audit: Audit,
    pub clock: Clock,
    pub commands: PostureCommandReceiver,
    pub tpm: watch::Receiver<Option<Tpm>>,
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// Whether the issuer's first attempt has ended: before, there may be no key to quote with.
    pub issuer_startup_done: watch::Receiver<bool>,
    /// Told once the first look has ended, one way or the other; at once where nobody wants one.
    pub startup_done: watch::Sender<bool>,
}

impl PostureMonitor {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut last_recorded = None;
        self.posture.set_enabled(self.affects_decisions());
        self.startup_done.send_replace(!self.is_needed());
        let _ = self.issuer_startup_done.wait_for(|done| *done).await;
        loop {
            let needed = self.is_needed();
            self.posture.set_enabled(self.affects_decisions());
            let lacks_baseline = self.lacks_baseline();
            let mut pause = POLL_INTERVAL;
            if needed || lacks_baseline {
                pause = match self.refresh().await {
                    Ok(_) if needed => self.config.every(),
                    Ok(_) => POLL_INTERVAL,
                    Err(_) => RETRY_DELAY.min(self.config.every()),
                };
                if self.affects_decisions() {
                    self.record_posture_change(&mut last_recorded).await;
                }
            }
            self.startup_done.send_replace(true);
            self.wait_for_trigger(pause).await;
        }
    }

    /// Until it is time for the next look, or somebody wants one.
    async fn wait_for_trigger(&mut self, pause: Duration) {
        let started = Instant::now();
        let ima_digests = self.posture.ima_digests().clone();
        let cache_miss = async {
            ima_digests.wait_for_miss().await;
            tokio::time::sleep_until((started + MIN_QUOTE_INTERVAL).into()).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cache_miss, if self.agents.current().uses_ima() => {}
            Some(order) = self.commands.recv() => self.handle_command(order).await,
        }
    }

    /// Whether somebody wants the host to be looked at.
    fn is_needed(&self) -> bool {
        self.affects_decisions() || self.agents.current().uses_ima()
    }

    /// Whether something goes by the host's posture.
    fn affects_decisions(&self) -> bool {
        self.config.mode != config::PostureMode::Off || self.agents.current().uses_posture()
    }

    /// A host that was never looked at is looked at once, so that there is something to compare with.
    fn lacks_baseline(&self) -> bool {
        let snapshot = self.posture.snapshot();
        let keystore_open = self.keystore.borrow().is_some();
        let missing = snapshot.baseline.is_none() && snapshot.baseline_error.is_none();
        keystore_open && missing && !self.state_dir.join(baseline::FILE_NAME).exists()
    }

    /// One look, put where decisions take it from. The error is kept there as well.
    async fn refresh(&self) -> Result<PcrReading, String> {
        let result = self.quote_pcrs().await;
        let mut snapshot = PostureSnapshot::clone(&self.posture.snapshot());
        match &result {
            Ok(reading) => {
                snapshot.read_error = None;
                // The state may have been moved to another TPM, and this is another host since.
                if snapshot.baseline.as_ref().is_none_or(|baseline| baseline.host_id != reading.host_id) {
                    (snapshot.baseline, snapshot.baseline_error) = self.load_baseline(reading).await;
                }
                snapshot.verdict = Some(match (&snapshot.baseline, &snapshot.baseline_error) {
                    (Some(baseline), _) => baseline.compare(&self.config.pcrs, &reading.pcrs),
                    (None, error) => (Posture::Unaccepted, error.clone().unwrap_or_default()),
                });
                snapshot.reading = Some(reading.clone());
                self.update_ima_digests(reading).await;
            }
            Err(error) => snapshot.read_error = Some(error.clone()),
        }
        self.posture.set_snapshot(snapshot);
        result
    }

    /// Has the TPM quote the PCRs for a number of ours.
    async fn quote_pcrs(&self) -> Result<PcrReading, String> {
        let tpm = self.tpm.borrow().clone().ok_or("the TPM is starting")?;
        let tpm_state = tpm.state().borrow().clone();
        // What it has for a TPM that is not there is a deadline's wait.
        if tpm_state.kind != StateKind::Ready && tpm_state.kind != StateKind::Starting {
            return Err(format!("the TPM is {tpm_state}"));
        }
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| "the system gives no random numbers")?;
        let mut numbers: Vec<u8> = BASELINE_PCRS.chain(self.config.pcrs.iter().copied()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let (taken_at, wall_time) = (BootTime::now(), self.clock.now());
        let facts = tpm.info().await.map_err(|e| e.to_string())?;
        let quoted = tpm.attest(numbers, nonce.to_vec()).await.map_err(|e| e.to_string())?;
        verify::check_quote(&quoted.ak_public, &quoted.quote, &quoted.signature, &nonce, &quoted.pcrs)
            .map_err(|e| e.to_string())?;
        Ok(PcrReading { taken_at, wall_time, host_id: facts.host_id, pcrs: quoted.pcrs })
    }

    /// The baseline on disk; where there is none, what was read becomes one that nobody accepted.
    async fn load_baseline(&self, reading: &PcrReading) -> (Option<Arc<Baseline>>, Option<String>) {
        // Before the vault has opened, nobody knows whether the file is the latest of this host.
        if self.keystore.borrow().is_none() {
            return (None, Some(KEYSTORE_LOCKED.to_owned()));
        }
        let (state, host) = (self.state_dir.clone(), reading.host_id.clone());
        let result = run_blocking(move || Baseline::read(&state, &host)).await;
        match result {
            Ok(Ok(Some(baseline))) => (Some(Arc::new(baseline)), None),
            Ok(Ok(None)) => match self.save_baseline(reading, None).await {
                Ok(baseline) => {
                    tracing::info!(
                        "the host's state is recorded as a baseline that nobody accepted yet: hostbadge posture show"
                    );
                    (Some(baseline), None)
                }
                Err(why) => (None, Some(why)),
            },
            Ok(Err(e)) => (None, Some(e.to_string())),
            Err(why) => (None, Some(why)),
        }
    }

    /// Makes what was read the baseline. On disk when this returns.
    async fn save_baseline(
        &self,
        reading: &PcrReading,
        acceptance: Option<Acceptance>,
    ) -> Result<Arc<Baseline>, String> {
        let Some(keystore) = self.keystore.borrow().clone() else {
            return Err(KEYSTORE_LOCKED.to_owned());
        };
        let event_log = self.event_log.clone();
        let baseline = Baseline {
            host_id: reading.host_id.clone(),
            recorded_at: reading.wall_time,
            pcrs: reading.pcrs.clone(),
            event_log: run_blocking(move || event_log.read()).await?,
            acceptance,
        };
        let file = baseline.to_file();
        keystore
            .write_file(baseline::FILE_NAME, baseline::VERSION, &file)
            .await
            .map_err(|e| e.to_string())?;
        Ok(Arc::new(baseline))
    }

    /// Reads the IMA list on, which has grown since the quote at most.
    async fn update_ima_digests(&self, reading: &PcrReading) {
        let Some(pcr) = reading.pcrs.get(&IMA_PCR).copied() else { return };
        if self.agents.current().uses_ima() {
            let (ima_digests, list) = (self.posture.ima_digests().clone(), self.ima_list.clone());
            // A list that cannot be followed is said to whoever asks for a digest.
            let _ = run_blocking(move || ima_digests.update(&list, &pcr)).await;
        }
    }

    async fn handle_command(&mut self, command: PostureCommand) {
        // Whoever gave up is not to find a baseline later.
        if command.reply.is_closed() {
            return;
        }
        let result = match &command.action {
            PostureAction::Refresh => self.refresh().await.map(drop).map_err(PostureCommandError::ReadPcrs),
            PostureAction::Accept { digest, accepted_by: by } => self.accept(digest, by).await,
        };
        let _ = command.reply.send(result);
    }

    async fn accept(&mut self, expected_digest: &str, accepted_by: &str) -> Result<(), PostureCommandError> {
        if let Some(problem) = self.audit.health().write_error() {
            return Err(PostureCommandError::AuditUnavailable(problem.to_string()));
        }
        let reading = self.refresh().await.map_err(PostureCommandError::ReadPcrs)?;
        let digest = pcr_digest(&self.config.pcrs, &reading.pcrs);
        if digest != expected_digest {
            return Err(PostureCommandError::DigestMismatch { current_digest: digest });
        }
        let changes = self.describe_changes(&reading).await;
        let acceptance = Acceptance {
            accepted_at: self.clock.now(),
            accepted_by: accepted_by.to_owned(),
            digest: digest.clone(),
        };
        let baseline = self
            .save_baseline(&reading, Some(acceptance))
            .await
            .map_err(PostureCommandError::SaveBaseline)?;
        let mut snapshot = PostureSnapshot::clone(&self.posture.snapshot());
        snapshot.verdict = Some(baseline.compare(&self.config.pcrs, &reading.pcrs));
        (snapshot.baseline, snapshot.baseline_error) = (Some(baseline), None);
        self.posture.set_snapshot(snapshot);
        let message = format!("{accepted_by} accepted the host's state {digest}{changes}");
        // Too late to take back: the file says so already.
        if let Err(audit_error) = self.audit.record_event(Event::PostureAccepted, &message).await {
            tracing::error!("{message}; {audit_error}");
        }
        Ok(())
    }

    /// Says each change once: another posture, or the same for another reason.
    async fn record_posture_change(&self, last_recorded: &mut Option<(Posture, String)>) {
        let current = self.posture.evaluate(BootTime::now());
        // The reason of a stale posture has its age in it, which changes all the time.
        let why = if current.posture == Posture::Stale { String::new() } else { current.reason() };
        let now = (current.posture, why);
        // A start in the usual state is no news.
        if last_recorded.is_none() && now.0 == Posture::Accepted || last_recorded.as_ref() == Some(&now) {
            *last_recorded = Some(now);
            return;
        }
        let changes = match &current.snapshot().reading {
            Some(reading) if now.0 == Posture::Changed => self.describe_changes(reading).await,
            _ => String::new(),
        };
        let why = current.reason();
        let suffix = if why.is_empty() { why } else { format!(": {why}") };
        let message = format!("the host's posture is {}{suffix}{changes}", now.0);
        // Where nothing can be written down nothing is issued either, and it is told when it can.
        if self.audit.record_event(Event::PostureChanged, &message).await.is_ok() {
            *last_recorded = Some(now);
        }
    }

    /// What changed against the baseline, in a few words.
    async fn describe_changes(&self, reading: &PcrReading) -> String {
        let Some(baseline) = self.posture.snapshot().baseline.clone() else { return String::new() };
        let (event_log, now, compared) =
            (self.event_log.clone(), reading.pcrs.clone(), self.config.pcrs.clone());
        let lines = run_blocking(move || {
            let before = baseline.pcrs.iter().filter(|(number, _)| compared.contains(number));
            let before = before.map(|(number, value)| (*number, *value)).collect();
            describe_pcr_changes(&before, baseline.event_log.as_deref(), &now, event_log.read().as_deref())
        });
        let lines = lines.await.unwrap_or_default();
        let suffix = if lines.len() > MAX_CHANGE_LINES { "; and more: hostbadge posture diff" } else { "" };
        lines.iter().take(MAX_CHANGE_LINES).map(|line| format!("; {line}")).collect::<String>() + suffix
    }
}

async fn run_blocking<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(task).await.map_err(|e| e.to_string())
}

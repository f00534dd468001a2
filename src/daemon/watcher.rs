//! Looks at the host again and again, and keeps its baseline.
//!
//! A look is one quote of the TPM, checked by the AK's own public half. It waits in the TPM's queue like everybody else's
//! work; one that fails is tried again, and what was seen before counts until it is too old.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use crate::agents::Agents;
use crate::audit::{Audit, Event};
use crate::clock::{Clock, Uptime};
use crate::config;
use crate::posture::{
    Accepted, Baseline, BootLog, Desk, ImaList, Order, Posture, Reading, Seen, Undone, Want, Watched,
    baseline, digest, explain,
};
use crate::tpm::{StateKind, Tpm};
use crate::vault::Vault;
use crate::verify;

/// How soon a look that failed is tried again, at the latest.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is seen whether somebody wants the host to be looked at.
const NAP: Duration = Duration::from_secs(1);
/// The least time between two looks for the sake of a program that was just started: strangers cause them too.
const BETWEEN: Duration = Duration::from_secs(2);
/// Always quoted and kept: firmware, boot loader, kernel, IMA, shim.
const KEPT: std::ops::RangeInclusive<u8> = 0..=14;
const IMA: u8 = 10;
/// Why there is no baseline at first.
const CLOSED: &str =
    "the host's keys are not open, and what is kept with them is not either; see hostbadge status";
/// Lines of what changed that the record gets.
const TOLD: usize = 4;

/// Who looks.
pub struct Watcher {
    pub config: config::Posture,
    pub state_dir: PathBuf,
    pub boot_log: BootLog,
    pub ima: ImaList,
    pub watched: Watched,
    pub agents: Agents,
    pub audit: Audit,
    pub clock: Clock,
    pub desk: Desk,
    pub handle: watch::Receiver<Option<Tpm>>,
    pub vault: watch::Receiver<Option<Arc<Vault>>>,
    /// Whether the issuer's first attempt has ended: before, there may be no key to quote with.
    pub issuer_settled: watch::Receiver<bool>,
    /// Told once the first look has ended, one way or the other; at once where nobody wants one.
    pub settled: watch::Sender<bool>,
}

impl Watcher {
    /// Runs for ever.
    pub async fn watch(mut self) {
        let mut told = None;
        self.watched.set_watching(self.decides());
        self.settled.send_replace(!self.is_wanted());
        let _ = self.issuer_settled.wait_for(|settled| *settled).await;
        loop {
            let wanted = self.is_wanted();
            self.watched.set_watching(self.decides());
            let lacks_baseline = self.lacks_baseline();
            let mut pause = NAP;
            if wanted || lacks_baseline {
                pause = match self.look().await {
                    Ok(_) if wanted => self.config.every(),
                    Ok(_) => NAP,
                    Err(_) => RETRY.min(self.config.every()),
                };
                if self.decides() {
                    self.tell(&mut told).await;
                }
            }
            self.settled.send_replace(true);
            self.wait(pause).await;
        }
    }

    /// Until it is time for the next look, or somebody wants one.
    async fn wait(&mut self, pause: Duration) {
        let started = Instant::now();
        let measured = self.watched.measured().clone();
        let missed = async {
            measured.missed().await;
            tokio::time::sleep_until((started + BETWEEN).into()).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = missed, if self.agents.registry().asks_for_measured() => {}
            Some(order) = self.desk.recv() => self.obey(order).await,
        }
    }

    /// Whether somebody wants the host to be looked at.
    fn is_wanted(&self) -> bool {
        self.decides() || self.agents.registry().asks_for_measured()
    }

    /// Whether something goes by the host's posture.
    fn decides(&self) -> bool {
        self.config.mode != config::PostureMode::Off || self.agents.registry().asks_for_posture()
    }

    /// A host that was never looked at is looked at once, so that there is something to compare with.
    fn lacks_baseline(&self) -> bool {
        let seen = self.watched.seen();
        let may_keep = self.vault.borrow().is_some();
        let missing = seen.baseline.is_none() && seen.trouble.is_none();
        may_keep && missing && !self.state_dir.join(baseline::NAME).exists()
    }

    /// One look, put where decisions take it from. The error is kept there as well.
    async fn look(&self) -> Result<Reading, String> {
        let read = self.read().await;
        let mut seen = Seen::clone(&self.watched.seen());
        match &read {
            Ok(reading) => {
                seen.failed = None;
                // The state may have been moved to another TPM, and this is another host since.
                if seen.baseline.as_ref().is_none_or(|baseline| baseline.host != reading.host) {
                    (seen.baseline, seen.trouble) = self.baseline(reading).await;
                }
                seen.verdict = Some(match (&seen.baseline, &seen.trouble) {
                    (Some(baseline), _) => baseline.judge(&self.config.pcrs, &reading.pcrs),
                    (None, trouble) => (Posture::Unaccepted, trouble.clone().unwrap_or_default()),
                });
                seen.reading = Some(reading.clone());
                self.follow_measurements(reading).await;
            }
            Err(why) => seen.failed = Some(why.clone()),
        }
        self.watched.set(seen);
        read
    }

    /// Has the TPM quote the PCRs for a number of ours.
    async fn read(&self) -> Result<Reading, String> {
        let tpm = self.handle.borrow().clone().ok_or("the TPM is starting")?;
        let ready = tpm.state().borrow().clone();
        // What it has for a TPM that is not there is a deadline's wait.
        if ready.kind != StateKind::Ready && ready.kind != StateKind::Starting {
            return Err(format!("the TPM is {ready}"));
        }
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| "the system gives no random numbers")?;
        let mut numbers: Vec<u8> = KEPT.chain(self.config.pcrs.iter().copied()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let (taken, at) = (Uptime::now(), self.clock.now());
        let facts = tpm.facts().await.map_err(|e| e.to_string())?;
        let quoted = tpm.attest(numbers, nonce.to_vec()).await.map_err(|e| e.to_string())?;
        verify::check_quote(&quoted.ak_public, &quoted.quote, &quoted.signature, &nonce, &quoted.pcrs)
            .map_err(|e| e.to_string())?;
        Ok(Reading { taken, at, host: facts.host_id, pcrs: quoted.pcrs })
    }

    /// The baseline on disk; where there is none, what was read becomes one that nobody accepted.
    async fn baseline(&self, reading: &Reading) -> (Option<Arc<Baseline>>, Option<String>) {
        // Before the vault has opened, nobody knows whether the file is the latest of this host.
        if self.vault.borrow().is_none() {
            return (None, Some(CLOSED.to_owned()));
        }
        let (state, host) = (self.state_dir.clone(), reading.host.clone());
        let read = blocking(move || Baseline::read(&state, &host)).await;
        match read {
            Ok(Ok(Some(baseline))) => (Some(Arc::new(baseline)), None),
            Ok(Ok(None)) => match self.keep(reading, None).await {
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
    async fn keep(&self, reading: &Reading, accepted: Option<Accepted>) -> Result<Arc<Baseline>, String> {
        let Some(vault) = self.vault.borrow().clone() else {
            return Err(CLOSED.to_owned());
        };
        let log = self.boot_log.clone();
        let baseline = Baseline {
            host: reading.host.clone(),
            recorded: reading.at,
            pcrs: reading.pcrs.clone(),
            boot_log: blocking(move || log.read()).await?,
            accepted,
        };
        let written = baseline.written();
        vault.write(baseline::NAME, baseline::VERSION, &written).await.map_err(|e| e.to_string())?;
        Ok(Arc::new(baseline))
    }

    /// Reads the IMA list on, which has grown since the quote at most.
    async fn follow_measurements(&self, reading: &Reading) {
        let Some(pcr) = reading.pcrs.get(&IMA).copied() else { return };
        if self.agents.registry().asks_for_measured() {
            let (measured, list) = (self.watched.measured().clone(), self.ima.clone());
            // A list that cannot be followed is said to whoever asks for a digest.
            let _ = blocking(move || measured.follow(&list, &pcr)).await;
        }
    }

    async fn obey(&mut self, order: Order) {
        // Whoever gave up is not to find a baseline later.
        if order.reply.is_closed() {
            return;
        }
        let done = match &order.want {
            Want::Look => self.look().await.map(drop).map_err(Undone::from),
            Want::Accept { digest, by } => self.accept(digest, by).await,
        };
        let _ = order.reply.send(done);
    }

    async fn accept(&mut self, wanted: &str, by: &str) -> Result<(), Undone> {
        if let Some(problem) = self.audit.health().problem() {
            return Err(format!("the audit log cannot be written: {problem}").into());
        }
        let reading = self.look().await?;
        let digest = digest(&self.config.pcrs, &reading.pcrs);
        if digest != wanted {
            return Err(Undone::Another { now: digest });
        }
        let changes = self.changes(&reading).await;
        let accepted = Accepted { at: self.clock.now(), by: by.to_owned(), digest: digest.clone() };
        let baseline = self.keep(&reading, Some(accepted)).await?;
        let mut seen = Seen::clone(&self.watched.seen());
        seen.verdict = Some(baseline.judge(&self.config.pcrs, &reading.pcrs));
        (seen.baseline, seen.trouble) = (Some(baseline), None);
        self.watched.set(seen);
        let what = format!("{by} accepted the host's state {digest}{changes}");
        // Too late to take back: the file says so already.
        if let Err(unrecorded) = self.audit.event(Event::PostureAccepted, &what).await {
            tracing::error!("{what}; {unrecorded}");
        }
        Ok(())
    }

    /// Says each change once: another posture, or the same for another reason.
    async fn tell(&self, told: &mut Option<(Posture, String)>) {
        let condition = self.watched.condition(Uptime::now());
        // The reason of a stale posture has its age in it, which changes all the time.
        let why = if condition.posture == Posture::Stale { String::new() } else { condition.why() };
        let now = (condition.posture, why);
        // A start in the usual state is no news.
        if told.is_none() && now.0 == Posture::Accepted || told.as_ref() == Some(&now) {
            *told = Some(now);
            return;
        }
        let changes = match &condition.seen().reading {
            Some(reading) if now.0 == Posture::Changed => self.changes(reading).await,
            _ => String::new(),
        };
        let why = condition.why();
        let because = if why.is_empty() { why } else { format!(": {why}") };
        let what = format!("the host's posture is {}{because}{changes}", now.0);
        // Where nothing can be written down nothing is issued either, and it is told when it can.
        if self.audit.event(Event::PostureChanged, &what).await.is_ok() {
            *told = Some(now);
        }
    }

    /// What changed against the baseline, in a few words.
    async fn changes(&self, reading: &Reading) -> String {
        let Some(baseline) = self.watched.seen().baseline.clone() else { return String::new() };
        let (log, now, compared) = (self.boot_log.clone(), reading.pcrs.clone(), self.config.pcrs.clone());
        let lines = blocking(move || {
            let before = baseline.pcrs.iter().filter(|(number, _)| compared.contains(number));
            let before = before.map(|(number, value)| (*number, *value)).collect();
            explain(&before, baseline.boot_log.as_deref(), &now, log.read().as_deref())
        });
        let lines = lines.await.unwrap_or_default();
        let more = if lines.len() > TOLD { "; and more: hostbadge posture diff" } else { "" };
        lines.iter().take(TOLD).map(|line| format!("; {line}")).collect::<String>() + more
    }
}

async fn blocking<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(what).await.map_err(|e| e.to_string())
}

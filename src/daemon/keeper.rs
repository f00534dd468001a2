//! Brings the issuer to its feet, and goes on trying while the TPM or a file stands in the way.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::changes;
use super::news::news;
use super::{Rotator, RsaKeeper};
use crate::api::TpmFacts;
use crate::audit::Event;
use crate::clock::Clock;
use crate::issue::{self, Established, Issuer, Naming, Order, Rotation, What};
use crate::posture::BootLog;
use crate::tpm::{self, State, StateKind, Tpm, TpmConfig};
use crate::vault::{self, RecoveryKey, Vault};

/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Owns the TPM's handle for the life of the daemon.
pub struct Keeper {
    pub config: TpmConfig,
    pub state_dir: PathBuf,
    pub naming: Naming,
    pub rotation: Rotation,
    /// PCRs that the keys are to be sealed to.
    pub pcrs: Vec<u8>,
    /// To say what changed where they do not open.
    pub boot_log: BootLog,
    pub issuer: Issuer,
    pub clock: Clock,
    pub tell: Tell,
}

/// What became of an attempt to stand.
enum Outcome {
    Stands(Box<Established>),
    /// The administrator moved the state to the TPM that is there.
    Moved(Tpm),
    /// The TPM is to be opened anew, with the stored objects.
    Again,
}

/// What the rest of the daemon sees of the keeper's work.
#[derive(Clone)]
pub struct View {
    pub tpm: watch::Receiver<State>,
    /// Something other than the TPM that keeps the issuer from standing.
    pub trouble: watch::Receiver<Option<String>>,
    pub facts: watch::Receiver<Option<TpmFacts>>,
    /// Whether the first attempt has ended, one way or the other.
    pub settled: watch::Receiver<bool>,
    /// For the end of the daemon.
    pub handle: watch::Receiver<Option<Tpm>>,
    /// What state is kept with, once the keys are open.
    pub vault: watch::Receiver<Option<Arc<Vault>>>,
}

/// Where the keeper tells what it finds.
pub struct Tell {
    tpm: watch::Sender<State>,
    trouble: watch::Sender<Option<String>>,
    facts: watch::Sender<Option<TpmFacts>>,
    settled: watch::Sender<bool>,
    handle: watch::Sender<Option<Tpm>>,
    vault: watch::Sender<Option<Arc<Vault>>>,
}

impl View {
    /// Both ends of what the keeper tells.
    pub fn new() -> (Tell, View) {
        let (tpm, tpm_seen) = watch::channel(State::starting());
        let (trouble, trouble_seen) = watch::channel(None);
        let (facts, facts_seen) = watch::channel(None);
        let (settled, settled_seen) = watch::channel(false);
        let (handle, handle_seen) = watch::channel(None);
        let (vault, vault_seen) = watch::channel(None);
        let tell = Tell { tpm, trouble, facts, settled, handle, vault };
        let view = View {
            tpm: tpm_seen,
            trouble: trouble_seen,
            facts: facts_seen,
            settled: settled_seen,
            handle: handle_seen,
            vault: vault_seen,
        };
        (tell, view)
    }
}

impl Keeper {
    /// Runs for ever. Once the issuer stands, its keys are the rotator's.
    pub async fn keep(self, mut rotator: Rotator, rsa: RsaKeeper) {
        let mut tpm = self.open().await;
        loop {
            self.tell.handle.send_replace(Some(tpm.clone()));
            let issue = async {
                match self.establish(&tpm, &mut rotator, &rsa).await {
                    Outcome::Stands(established) => {
                        let (by, has_rsa) = (established.keys.endorser(), established.keys.rsa().is_some());
                        let keep_rsa = async {
                            if !has_rsa {
                                rsa.keep(&tpm, &by).await;
                            }
                        };
                        tokio::join!(rotator.run(&tpm, *established), keep_rsa);
                        None
                    }
                    Outcome::Moved(tpm) => Some(tpm),
                    Outcome::Again => Some(self.open().await),
                }
            };
            let next = tokio::select! {
                next = issue => next,
                () = self.forward_state(tpm.state()) => None,
            };
            match next {
                Some(next) => tpm = next,
                None => return,
            }
        }
    }

    /// Opens the TPM with the stored objects; a file that cannot be read is tried until somebody has mended it.
    async fn open(&self) -> Tpm {
        loop {
            let opened = issue::stored_objects(&self.state_dir).and_then(|stored| {
                Tpm::open(self.config.clone(), stored).map_err(|e| {
                    issue::Error::Key(format!("{}: {e}", self.state_dir.join("tpm.json").display()))
                })
            });
            match opened {
                Ok(tpm) => {
                    self.trouble(None);
                    return tpm;
                }
                Err(e) => self.failed(e.to_string()).await,
            }
        }
    }

    /// Loads or makes the keys, until it has succeeded or an administrator has changed what there is to load.
    async fn establish(&self, tpm: &Tpm, rotator: &mut Rotator, rsa: &RsaKeeper) -> Outcome {
        loop {
            let (naming, pcrs) = (&self.naming, &self.pcrs);
            let established =
                issue::establish(tpm, &self.state_dir, naming, self.rotation, pcrs, &self.clock).await;
            let established = match established {
                Ok(mut established) => {
                    // Before anybody is served, so that the key set is whole from the start.
                    let by = established.keys.endorser();
                    established.keys.take_up(rsa.load(tpm, &by).await);
                    Ok(established)
                }
                failed => failed,
            };
            match established.and_then(|established| Ok((established.keys.standing()?, established))) {
                Ok((standing, established)) => {
                    let key = standing.key().kid().to_owned();
                    let host = standing.host().clone();
                    if let Ok(facts) = tpm.facts().await {
                        self.tell.facts.send_replace(Some(TpmFacts {
                            manufacturer: facts.manufacturer,
                            vendor: facts.vendor,
                            firmware: facts.firmware,
                            ek_certificate: facts.ek_certificate.is_some(),
                            ak_name: facts.ak_name,
                        }));
                    }
                    self.tell.vault.send_replace(Some(established.keys.vault().clone()));
                    self.issuer.set(standing);
                    self.trouble(None);
                    tracing::info!(
                        event = "issuer-ready",
                        "host {} issues as {} with key {key}, guarded by a {} TPM",
                        host.id,
                        host.issuer,
                        host.tpm()
                    );
                    self.tell.settled.send_replace(true);
                    return Outcome::Stands(Box::new(established));
                }
                // The TPM's state says it better, and its change is awaited below.
                Err(issue::Error::Tpm(e)) if waits_for_tpm(&e) => {
                    self.trouble(None);
                    self.tell.settled.send_replace(true);
                    let mut state = tpm.state();
                    state.mark_unchanged();
                    if let Some(outcome) = self.wait(tpm, rotator, state.changed()).await {
                        return outcome;
                    }
                }
                Err(e) => {
                    let changes = match &e {
                        issue::Error::Vault(vault::Error::PcrsChanged { sealed_to, .. }) => {
                            changes::since_sealed(tpm, &self.state_dir, &self.boot_log, sealed_to).await
                        }
                        _ => String::new(),
                    };
                    self.trouble(Some(format!("{e}{changes}")));
                    self.tell.settled.send_replace(true);
                    if let Some(outcome) = self.wait(tpm, rotator, std::future::pending::<()>()).await {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Waits for another attempt, and takes orders meanwhile.
    async fn wait<T>(
        &self,
        tpm: &Tpm,
        rotator: &mut Rotator,
        news: impl Future<Output = T>,
    ) -> Option<Outcome> {
        tokio::select! {
            _ = news => None,
            () = tokio::time::sleep(RETRY) => None,
            Some(order) = rotator.desk.orders.recv() => self.obey(tpm, rotator, order).await,
        }
    }

    /// What an administrator can do about keys that do not open.
    async fn obey(&self, tpm: &Tpm, rotator: &Rotator, order: Order) -> Option<Outcome> {
        if order.is_given_up() {
            return None;
        }
        let Order { what, by } = order;
        match what {
            What::Accept(reply) => {
                let done = self.accept(tpm).await;
                let told =
                    self.told(rotator, Event::StateAccepted, done, &by, "took the state directory as it is");
                let _ = reply.send(told.await);
                None
            }
            What::Recover { key, accept, reply } => {
                let (outcome, done) = self.recover(tpm, (&key, accept)).await;
                let what = "opened the keys with the recovery key and sealed them anew";
                let _ = reply.send(self.told(rotator, Event::StateRecovered, done, &by, what).await);
                outcome
            }
            what => {
                Order { what, by }.refuse("no keys are open; see hostbadge status");
                None
            }
        }
    }

    async fn accept(&self, tpm: &Tpm) -> Result<(), issue::Error> {
        let stored = issue::stored_objects(&self.state_dir)?.ok_or(tpm::Error::NotProvisioned)?;
        Ok(vault::accept(tpm, &self.state_dir, &stored.kek).await?)
    }

    /// On the host's own TPM, or, where there is another in its place, on that one.
    async fn recover(
        &self,
        tpm: &Tpm,
        way: (&RecoveryKey, bool),
    ) -> (Option<Outcome>, Result<(), issue::Error>) {
        let (dir, naming, pcrs) = (&self.state_dir, &self.naming, &self.pcrs);
        let kind = tpm.state().borrow().kind;
        if !matches!(kind, StateKind::Replaced | StateKind::Cleared) {
            return (None, issue::recover(tpm, dir, naming, pcrs, way, &self.clock).await);
        }
        // A wrong key is to change nothing, not even for a moment.
        if let Err(e) = issue::opens(dir, way) {
            return (None, Err(e));
        }
        let old = tpm.clone();
        let _ = tokio::task::spawn_blocking(move || old.shutdown()).await;
        let opened = Tpm::open(self.config.clone(), None).map_err(|e| issue::Error::Key(e.to_string()));
        let new = match opened {
            Ok(new) => new,
            Err(e) => return (Some(Outcome::Again), Err(e)),
        };
        match issue::recover(&new, dir, naming, pcrs, way, &self.clock).await {
            Ok(()) => (Some(Outcome::Moved(new)), Ok(())),
            Err(e) => {
                let _ = tokio::task::spawn_blocking(move || new.shutdown()).await;
                (Some(Outcome::Again), Err(e))
            }
        }
    }

    /// Writes down what was done, and gives the administrator the outcome.
    async fn told(
        &self,
        rotator: &Rotator,
        event: Event,
        done: Result<(), issue::Error>,
        by: &str,
        what: &str,
    ) -> Result<(), String> {
        done.map_err(|e| e.to_string())?;
        rotator.audit.event(event, &format!("{by} {what}")).await.map_err(|e| e.to_string())
    }

    async fn forward_state(&self, mut state: watch::Receiver<State>) {
        loop {
            let now = state.borrow_and_update().clone();
            // The keys in memory are another TPM's: whoever swapped it, this is not the host that they vouch for.
            self.issuer.bar(now.foreign);
            self.tell.tpm.send_replace(now);
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    async fn failed(&self, what: String) {
        self.trouble(Some(what));
        self.tell.settled.send_replace(true);
        tokio::time::sleep(RETRY).await;
    }

    /// Says each trouble once.
    fn trouble(&self, what: Option<String>) {
        if let Some(what) = news(&self.tell.trouble, what) {
            tracing::error!(event = "issuer-waiting", "no tokens are issued: {what}");
        }
    }
}

/// Whether an error is one that the TPM's named state explains and time or the administrator mends.
fn waits_for_tpm(error: &tpm::Error) -> bool {
    matches!(error, tpm::Error::State(_) | tpm::Error::Deadline(_) | tpm::Error::QueueFull)
}

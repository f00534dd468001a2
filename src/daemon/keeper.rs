//! Brings the issuer to its feet, and goes on trying while the TPM or a file stands in the way.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use super::Rotator;
use super::news::news;
use crate::api::TpmFacts;
use crate::clock::Clock;
use crate::issue::{self, Established, Issuer, Naming, Rotation};
use crate::tpm::{self, State, StateKind, Tpm, TpmConfig};

/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Owns the TPM's handle for the life of the daemon.
pub struct Keeper {
    pub config: TpmConfig,
    pub state_dir: PathBuf,
    pub naming: Naming,
    pub rotation: Rotation,
    pub issuer: Issuer,
    pub clock: Clock,
    tell: Tell,
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
}

struct Tell {
    tpm: watch::Sender<State>,
    trouble: watch::Sender<Option<String>>,
    facts: watch::Sender<Option<TpmFacts>>,
    settled: watch::Sender<bool>,
    handle: watch::Sender<Option<Tpm>>,
}

impl Keeper {
    pub fn new(
        config: TpmConfig,
        state_dir: PathBuf,
        naming: Naming,
        rotation: Rotation,
        issuer: Issuer,
        clock: Clock,
    ) -> (Keeper, View) {
        let starting = State { kind: StateKind::Starting, detail: String::new() };
        let (tpm, tpm_seen) = watch::channel(starting);
        let (trouble, trouble_seen) = watch::channel(None);
        let (facts, facts_seen) = watch::channel(None);
        let (settled, settled_seen) = watch::channel(false);
        let (handle, handle_seen) = watch::channel(None);
        let tell = Tell { tpm, trouble, facts, settled, handle };
        let view = View {
            tpm: tpm_seen,
            trouble: trouble_seen,
            facts: facts_seen,
            settled: settled_seen,
            handle: handle_seen,
        };
        (Keeper { config, state_dir, naming, rotation, issuer, clock, tell }, view)
    }

    /// Runs for ever. Once the issuer stands, its keys are the rotator's.
    pub async fn keep(self, rotator: Rotator) {
        let tpm = self.open().await;
        self.tell.handle.send_replace(Some(tpm.clone()));
        let issue = async {
            let established = self.establish(&tpm).await;
            rotator.run(&tpm, established).await;
        };
        tokio::join!(self.forward_state(tpm.state()), issue);
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

    /// Loads or makes the keys, until it has succeeded.
    async fn establish(&self, tpm: &Tpm) -> Established {
        loop {
            let established =
                issue::establish(tpm, &self.state_dir, &self.naming, self.rotation, &self.clock).await;
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
                    return established;
                }
                // The TPM's state says it better, and its change is awaited below.
                Err(issue::Error::Tpm(e)) if waits_for_tpm(&e) => {
                    self.trouble(None);
                    self.tell.settled.send_replace(true);
                    let mut state = tpm.state();
                    state.mark_unchanged();
                    let _ = tokio::time::timeout(RETRY, state.changed()).await;
                }
                Err(e) => self.failed(e.to_string()).await,
            }
        }
    }

    async fn forward_state(&self, mut state: watch::Receiver<State>) {
        loop {
            let now = state.borrow_and_update().clone();
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

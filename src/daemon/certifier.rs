//! Keeps the authority that agents' certificates come from: makes and renews its CAs, and revokes what is to be revoked.
//!
//! A step that cannot be taken, because the TPM is away or a disk is full, is tried again; the issuing CA in force goes on
//! until it expires.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::news::news;
use crate::agents::Agents;
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::issue::{Enrollment, Host, Issuer};
use crate::pki::{Authority, Change, Error, HostCa};
use crate::tpm::Tpm;
use crate::vault::Vault;

/// How soon a step that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The longest sleep: new leaves are written down this soon, and the machine's clock may be set meanwhile.
const NAP: Duration = Duration::from_secs(10);

/// Who keeps it.
pub struct Certifier {
    pub authority: Authority,
    pub issuer: Issuer,
    pub agents: Agents,
    pub audit: Audit,
    pub clock: Clock,
    pub enrollment: Enrollment,
    pub state_dir: PathBuf,
    pub handle: watch::Receiver<Option<Tpm>>,
    pub vault: watch::Receiver<Option<Arc<Vault>>>,
    /// Whether the issuer's first attempt has ended: before, there is no host to speak of.
    pub issuer_settled: watch::Receiver<bool>,
    /// Told once the first attempt has ended, one way or the other.
    pub settled: watch::Sender<bool>,
}

impl Certifier {
    /// Runs for ever.
    pub async fn keep(mut self) {
        let (authority, dir) = (self.authority.clone(), self.state_dir.clone());
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || authority.read_leaves(&dir)).await {
            tracing::warn!("which certificates of before have not expired is not known: {e}");
        }
        let _ = self.issuer_settled.wait_for(|settled| *settled).await;
        loop {
            let vault = self.vault.borrow_and_update().clone();
            let Some(vault) = vault else {
                self.settled.send_replace(true);
                if self.vault.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut other = self.vault.clone();
            tokio::select! {
                () = self.tend(vault) => {}
                // The state was moved to another TPM, and this is another host since.
                Ok(()) = other.changed() => self.authority.set(None),
            }
        }
    }

    async fn tend(&self, vault: Arc<Vault>) {
        // From before it is first read, so that no change of it is missed.
        let mut signing = self.enrollment.signing();
        let mut ca = loop {
            let opened = self.open(&vault).await;
            self.settled.send_replace(true);
            match opened {
                Ok(ca) => break ca,
                Err(why) => self.waits(Some(why)),
            }
            tokio::time::sleep(RETRY).await;
        };
        let (mut changed, mut binding) = (self.agents.changed(), vault.binding());
        loop {
            binding.borrow_and_update();
            changed.borrow_and_update();
            let done = self.turn(&mut ca).await;
            let pause = match done {
                Ok(()) => ca.wake().since(self.clock.now()).clamp(Duration::from_millis(10), NAP),
                Err(_) => RETRY,
            };
            self.waits(done.err());
            self.write_leaves().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The sender lives as long as the agents do.
                _ = changed.changed() => {}
                _ = binding.changed() => {}
                Ok(()) = signing.changed() => {
                    ca.sign_with(signing.borrow_and_update().clone());
                    // What cannot be written now is written with the next step.
                    let _ = ca.touch().await;
                    if let Err(e) = self.put_in_force(&ca) {
                        tracing::error!("the certificate that was installed is not signed with: {e}");
                    }
                }
            }
        }
    }

    async fn open(&self, vault: &Arc<Vault>) -> Result<HostCa, String> {
        let tpm = self.handle.borrow().clone().ok_or("the TPM is starting")?;
        let host = self.host(&tpm).await?;
        self.can_record()?;
        let opened = HostCa::open(&tpm, vault.clone(), &self.state_dir, &host, &self.clock).await;
        let (mut ca, changes) = opened.map_err(|e| e.to_string())?;
        self.record(&changes).await;
        ca.sign_with(self.enrollment.signing().borrow().clone());
        // What is there serves at once, though it may be time for the next.
        self.put_in_force(&ca).map_err(|e| e.to_string())?;
        if !self.authority.stands() {
            self.renew(&mut ca).await?;
        }
        Ok(ca)
    }

    /// The host, once the issuer stands as the one that this TPM makes it.
    async fn host(&self, tpm: &Tpm) -> Result<Host, String> {
        let standing = self.issuer.standing().ok_or("the issuer does not stand; see hostbadge status")?;
        let host = standing.host().clone();
        let facts = tpm.facts().await.map_err(|e| e.to_string())?;
        match facts.host_id == host.id {
            true => Ok(host),
            false => Err("the host is being moved to another TPM".into()),
        }
    }

    async fn turn(&self, ca: &mut HostCa) -> Result<(), String> {
        self.can_record()?;
        // What waits for the TPM must not hold up what does not.
        self.revoke(ca).await?;
        self.renew(ca).await
    }

    async fn renew(&self, ca: &mut HostCa) -> Result<(), String> {
        let changes = ca.turn().await.map_err(|e| e.to_string())?;
        if changes.is_empty() {
            return Ok(());
        }
        self.put_in_force(ca).map_err(|e| e.to_string())?;
        self.record(&changes).await;
        Ok(())
    }

    /// Whoever is no registered agent any more has no certificate either.
    async fn revoke(&self, ca: &mut HostCa) -> Result<(), String> {
        let Some(standing) = self.issuer.standing() else { return Ok(()) };
        let registry = self.agents.registry();
        let there: std::collections::HashSet<String> =
            registry.iter().map(|entry| standing.host().spiffe_id(entry)).collect();
        let gone = self.authority.leaves_of_others(|id| there.contains(id));
        if gone.is_empty() {
            return Ok(());
        }
        let leaves: Vec<_> = gone.iter().flat_map(|(_, leaves)| leaves.iter().copied()).collect();
        ca.revoke(&leaves).await.map_err(|e| e.to_string())?;
        self.put_in_force(ca).map_err(|e| e.to_string())?;
        for (id, leaves) in gone {
            self.authority.strike(&id, &leaves);
            let what =
                format!("{} certificates of {id} are revoked: it is no registered agent", leaves.len());
            self.tell(Event::CertificatesRevoked, &what).await;
        }
        Ok(())
    }

    fn put_in_force(&self, ca: &HostCa) -> Result<(), Error> {
        let force = ca.in_force()?;
        self.authority.set(force);
        Ok(())
    }

    async fn write_leaves(&self) {
        let (authority, dir, now) = (self.authority.clone(), self.state_dir.clone(), self.clock.now());
        let written = tokio::task::spawn_blocking(move || authority.write_leaves(&dir, now)).await;
        if let Ok(Err(e)) = written {
            tracing::debug!("which certificates have not expired could not be written: {e}");
        }
    }

    /// What nobody could write down is not done: nothing is issued meanwhile either.
    fn can_record(&self) -> Result<(), String> {
        match self.audit.health().problem() {
            None => Ok(()),
            Some(problem) => Err(format!("the audit log cannot be written: {problem}")),
        }
    }

    async fn record(&self, changes: &[Change]) {
        for change in changes {
            let what = match change {
                Change::Root { until } => {
                    format!("the host key signed the root of the host's CA, until {until}")
                }
                Change::Issuing { name, until } => {
                    format!(
                        "the host CA signed issuing CA {name}, which signs from now on, until {until} at most"
                    )
                }
                Change::Lost { name } => {
                    format!(
                        "the key of issuing CA {name} does not open; its certificates stay good until they expire"
                    )
                }
            };
            self.tell(Event::CaMade, &what).await;
        }
    }

    async fn tell(&self, event: Event, what: &str) {
        // Too late to take back: the file says so already.
        if let Err(unrecorded) = self.audit.event(event, what).await {
            tracing::error!("{what}; {unrecorded}");
        }
    }

    /// Says each trouble once.
    fn waits(&self, why: Option<String>) {
        if let Some(why) = news(self.authority.waits(), why) {
            let so = if self.authority.stands() {
                "the issuing CA signs on"
            } else {
                "no certificates are issued"
            };
            tracing::warn!(event = "ca-waiting", "a change of the host's CA waits, and {so}: {why}");
        }
    }
}

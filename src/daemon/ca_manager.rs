//! Keeps the authority that agents' certificates come from: makes and renews its CAs, and revokes what is to be revoked.
//!
//! A step that cannot be taken, because the TPM is away or a disk is full, is tried again; the issuing CA in force goes on
//! until it expires.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::watch_ext::set_if_changed;
use crate::agents::AgentRegistry;
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::issue::{Enrollment, HostIdentity, Issuer};
use crate::keystore::Keystore;
use crate::pki::{CaChange, CertificateIssuer, Error, HostCa};
use crate::tpm::Tpm;

/// How soon a step that failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// The longest sleep: new leaves are written down this soon, and the machine's clock may be set meanwhile.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Who keeps it.
pub struct CaManager {
    pub certificate_issuer: CertificateIssuer,
    pub issuer: Issuer,
    pub agents: AgentRegistry,
    pub audit: Audit,
    pub clock: Clock,
    pub enrollment: Enrollment,
    pub state_dir: PathBuf,
    pub tpm: watch::Receiver<Option<Tpm>>,
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// Whether the issuer's first attempt has ended: before, there is no host to speak of.
    pub issuer_startup_done: watch::Receiver<bool>,
    /// Told once the first attempt has ended, one way or the other.
    pub startup_done: watch::Sender<bool>,
}

impl CaManager {
    /// Runs for ever.
    pub async fn run(mut self) {
        let (certificate_issuer, dir) = (self.certificate_issuer.clone(), self.state_dir.clone());
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || certificate_issuer.load_issued(&dir)).await {
            tracing::warn!("which certificates of before have not expired is not known: {e}");
        }
        let _ = self.issuer_startup_done.wait_for(|done| *done).await;
        loop {
            let keystore = self.keystore.borrow_and_update().clone();
            let Some(keystore) = keystore else {
                self.startup_done.send_replace(true);
                if self.keystore.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut keystore_rx = self.keystore.clone();
            tokio::select! {
                () = self.run_with_keystore(keystore) => {}
                // The state was moved to another TPM, and this is another host since.
                Ok(()) = keystore_rx.changed() => self.certificate_issuer.set_active(None),
            }
        }
    }

    async fn run_with_keystore(&self, keystore: Arc<Keystore>) {
        // From before it is first read, so that no change of it is missed.
        let mut delegated_ca = self.enrollment.delegated_ca();
        let mut ca = loop {
            let result = self.open_ca(&keystore).await;
            self.startup_done.send_replace(true);
            match result {
                Ok(ca) => break ca,
                Err(reason) => self.report_blocked(Some(reason)),
            }
            tokio::time::sleep(RETRY_DELAY).await;
        };
        let (mut agents_changed, mut seal_status) = (self.agents.subscribe(), keystore.seal_status());
        loop {
            seal_status.borrow_and_update();
            agents_changed.borrow_and_update();
            let result = self.advance(&mut ca).await;
            let pause = match result {
                Ok(()) => ca
                    .next_renewal()
                    .since(self.clock.now())
                    .clamp(Duration::from_millis(10), MAX_POLL_INTERVAL),
                Err(_) => RETRY_DELAY,
            };
            self.report_blocked(result.err());
            self.save_issued().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The sender lives as long as the agents do.
                _ = agents_changed.changed() => {}
                _ = seal_status.changed() => {}
                Ok(()) = delegated_ca.changed() => {
                    ca.set_parent(delegated_ca.borrow_and_update().clone());
                    // What cannot be written now is written with the next step.
                    let _ = ca.reissue_crls().await;
                    if let Err(e) = self.activate(&ca) {
                        tracing::error!("the certificate that was installed is not signed with: {e}");
                    }
                }
            }
        }
    }

    async fn open_ca(&self, keystore: &Arc<Keystore>) -> Result<HostCa, String> {
        let tpm = self.tpm.borrow().clone().ok_or("the TPM is starting")?;
        let host = self.resolve_host(&tpm).await?;
        self.ensure_auditable()?;
        let opened = HostCa::open(&tpm, keystore.clone(), &self.state_dir, &host, &self.clock).await;
        let (mut ca, changes) = opened.map_err(|e| e.to_string())?;
        self.record_changes(&changes).await;
        ca.set_parent(self.enrollment.delegated_ca().borrow().clone());
        // What is there serves at once, though it may be time for the next.
        self.activate(&ca).map_err(|e| e.to_string())?;
        if !self.certificate_issuer.is_ready() {
            self.renew(&mut ca).await?;
        }
        Ok(ca)
    }

    /// The host, once the issuer stands as the one that this TPM makes it.
    async fn resolve_host(&self, tpm: &Tpm) -> Result<HostIdentity, String> {
        let issuer_state = self.issuer.state().ok_or("the issuer does not stand; see hostbadge status")?;
        let host = issuer_state.host().clone();
        let facts = tpm.info().await.map_err(|e| e.to_string())?;
        match facts.host_id == host.id {
            true => Ok(host),
            false => Err("the host is being moved to another TPM".into()),
        }
    }

    async fn advance(&self, ca: &mut HostCa) -> Result<(), String> {
        self.ensure_auditable()?;
        // What waits for the TPM must not hold up what does not.
        self.revoke(ca).await?;
        self.renew(ca).await
    }

    async fn renew(&self, ca: &mut HostCa) -> Result<(), String> {
        let changes = ca.advance().await.map_err(|e| e.to_string())?;
        if changes.is_empty() {
            return Ok(());
        }
        self.activate(ca).map_err(|e| e.to_string())?;
        self.record_changes(&changes).await;
        Ok(())
    }

    /// Whoever is no registered agent any more has no certificate either.
    async fn revoke(&self, ca: &mut HostCa) -> Result<(), String> {
        let Some(issuer_state) = self.issuer.state() else { return Ok(()) };
        let agent_set = self.agents.current();
        let registered: std::collections::HashSet<String> =
            agent_set.iter().map(|entry| issuer_state.host().spiffe_id(entry)).collect();
        let orphaned = self.certificate_issuer.orphaned(|id| registered.contains(id));
        if orphaned.is_empty() {
            return Ok(());
        }
        let leaves: Vec<_> = orphaned.iter().flat_map(|(_, leaves)| leaves.iter().copied()).collect();
        ca.revoke(&leaves).await.map_err(|e| e.to_string())?;
        self.activate(ca).map_err(|e| e.to_string())?;
        for (id, leaves) in orphaned {
            self.certificate_issuer.remove_revoked(&id, &leaves);
            let message =
                format!("{} certificates of {id} are revoked: it is no registered agent", leaves.len());
            self.record_event(Event::CertificatesRevoked, &message).await;
        }
        Ok(())
    }

    fn activate(&self, ca: &HostCa) -> Result<(), Error> {
        let snapshot = ca.snapshot()?;
        self.certificate_issuer.set_active(snapshot);
        Ok(())
    }

    async fn save_issued(&self) {
        let (certificate_issuer, dir, now) =
            (self.certificate_issuer.clone(), self.state_dir.clone(), self.clock.now());
        let result = tokio::task::spawn_blocking(move || certificate_issuer.save_issued(&dir, now)).await;
        if let Ok(Err(e)) = result {
            tracing::debug!("which certificates have not expired could not be written: {e}");
        }
    }

    /// What nobody could write down is not done: nothing is issued meanwhile either.
    fn ensure_auditable(&self) -> Result<(), String> {
        match self.audit.health().write_error() {
            None => Ok(()),
            Some(problem) => Err(format!("the audit log cannot be written: {problem}")),
        }
    }

    async fn record_changes(&self, changes: &[CaChange]) {
        for change in changes {
            let message = match change {
                CaChange::RootCreated { not_after: until } => {
                    format!("the host key signed the root of the host's CA, until {until}")
                }
                CaChange::IssuingCaCreated { name, not_after: until } => {
                    format!(
                        "the host CA signed issuing CA {name}, which signs from now on, until {until} at most"
                    )
                }
                CaChange::IssuingKeyLost { name } => {
                    format!(
                        "the key of issuing CA {name} does not open; its certificates stay good until they expire"
                    )
                }
            };
            self.record_event(Event::CaCertified, &message).await;
        }
    }

    async fn record_event(&self, event: Event, message: &str) {
        // Too late to take back: the file says so already.
        if let Err(audit_error) = self.audit.record_event(event, message).await {
            tracing::error!("{message}; {audit_error}");
        }
    }

    /// Says each trouble once.
    fn report_blocked(&self, reason: Option<String>) {
        if let Some(reason) = set_if_changed(self.certificate_issuer.blocked_reason(), reason) {
            let effect = if self.certificate_issuer.is_ready() {
                "the issuing CA signs on"
            } else {
                "no certificates are issued"
            };
            tracing::warn!(event = "ca-blocked", "a change of the host's CA waits, and {effect}: {reason}");
        }
    }
}

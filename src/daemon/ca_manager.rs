//! Manages the host's certificate authority: creates and renews its CAs, and revokes certificates of agents
//! that are removed or matched by other conditions.
//!
//! A step that fails, because the TPM is unavailable or the disk is full, is retried after 2 s; the active
//! issuing CA keeps signing until it expires.

mod rotation;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::audit_ext::record_completed;
use super::ca_messages::{describe, revocation_reason};
use super::component::ComponentTask;
use super::ended_leaves::EndedLeaves;
use super::startup::{Startup, StartupSignal, StartupStep};
use super::watch_ext::set_if_changed;
use crate::agents::{AgentEntry, AgentRegistry, TagCheck, root_agent};
use crate::audit::{Audit, AuditUnavailable, Event};
use crate::clock::ClockState;
use crate::issue::{Enrollment, HostIdentity, Issuer};
use crate::keystore::Keystore;
use crate::mutex::lock;
use crate::pki::{self, CaChange, CertificateIssuer, HostCa, LeafRecord, NotRevoked};
use crate::revocation::{BATCH_INTERVAL, RevocationSet, Revocations};
use crate::tpm::{self, Tpm};
use crate::verify::agent_of_id;

/// Delay before a failed step is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Longest wait between two steps: `leaves.json` is written this often, and the wall clock may have been set
/// meanwhile.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Shortest wait between two steps.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What the CA manager is built from.
#[derive(Clone)]
pub(super) struct CaDeps {
    /// Signs agents' certificates with the CA that this component activates.
    pub certificate_issuer: CertificateIssuer,
    /// Names the host, once its keys are loaded.
    pub issuer: Issuer,
    /// Registered agents: certificates of others, and of other conditions, are revoked.
    pub agents: AgentRegistry,
    /// What has been revoked: certificates of agents that get nothing any more are revoked.
    pub revocations: Revocations,
    /// Audit log, for each new CA and each revocation.
    pub audit: Audit,
    /// Time source.
    pub clock: ClockState,
    /// Names the organization's CA that delegates to this host, if there is one.
    pub enrollment: Enrollment,
    /// State directory: `ca.json`, `signing.json` and `leaves.json`.
    pub state_dir: PathBuf,
    /// The TPM in use, whose host key signs the CAs.
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// The keystore, once it is open.
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// First attempt of the issuer supervisor: before its end the host has no name.
    pub issuer_first_attempt: StartupStep,
}

/// The running CA manager.
pub(super) struct CaHandle {
    deps: CaDeps,
    task: ComponentTask,
}

/// Starts the CA manager on the current runtime.
pub(super) fn spawn(deps: CaDeps, startup: &mut Startup) -> CaHandle {
    let (startup, _) = startup.register();
    let manager = |stop| {
        let ended = EndedLeaves::default();
        CaManager { deps: deps.clone(), startup, stop, ended, saved_at: Mutex::default() }.run()
    };
    let task = ComponentTask::spawn(manager);
    CaHandle { deps, task }
}

impl CaHandle {
    /// Stops the CA manager, then writes `leaves.json` with the certificates issued up to now. Call it after
    /// the last request has been served.
    pub async fn stop(self) {
        self.task.stop().await;
        if let Err(e) = save_issued(&self.deps).await {
            tracing::warn!("cannot write leaves.json: {e}");
        }
    }
}

/// Why a step cannot be taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("the TPM is starting")]
    TpmStarting,
    #[error("the issuer is not ready; see hostbadge status")]
    IssuerNotReady,
    #[error("the host is being moved to another TPM")]
    HostMoving,
    #[error(
        "the revocation lists are full, and {0} certificates that have to be revoked are not on them yet"
    )]
    RevocationListsFull(usize),
    #[error(transparent)]
    Tpm(#[from] tpm::Error),
    #[error(transparent)]
    Audit(#[from] AuditUnavailable),
    #[error(transparent)]
    Pki(#[from] pki::Error),
}

struct CaManager {
    deps: CaDeps,
    startup: StartupSignal,
    stop: CancellationToken,
    ended: EndedLeaves,
    /// When `ca.json` was written last for a revocation.
    saved_at: Mutex<Option<Instant>>,
}

impl CaManager {
    async fn run(self) {
        let (certificate_issuer, dir) = (self.deps.certificate_issuer.clone(), self.deps.state_dir.clone());
        let now = self.deps.clock.now();
        let load = move || certificate_issuer.load_issued(&dir, now);
        if let Ok(Err(lost)) = tokio::task::spawn_blocking(load).await {
            record_completed(&self.deps.audit, Event::CertificateRecordsLost, &lost.to_string()).await;
        }
        let mut issuer_first_attempt = self.deps.issuer_first_attempt.clone();
        tokio::select! {
            () = self.stop.cancelled() => return,
            () = issuer_first_attempt.wait() => {}
        }
        let mut keystore_rx = self.deps.keystore.clone();
        loop {
            let keystore = keystore_rx.borrow_and_update().clone();
            let Some(keystore) = keystore else {
                self.startup.complete();
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    changed = keystore_rx.changed() => if changed.is_err() { return },
                }
                continue;
            };
            tokio::select! {
                () = self.run_with_keystore(keystore) => return,
                // The state was moved to another TPM, so that this is another host from now on.
                Ok(()) = keystore_rx.changed() => self.deps.certificate_issuer.set_active(None),
            }
        }
    }

    /// Opens the CA and takes its due steps until the daemon stops.
    async fn run_with_keystore(&self, keystore: Arc<Keystore>) {
        // Subscribed before the first read, so that no change is missed.
        let mut delegated_ca = self.deps.enrollment.delegated_ca();
        let mut ca = loop {
            let result = self.open_ca(&keystore).await;
            self.startup.complete();
            match result {
                Ok(ca) => break ca,
                Err(e) => self.report_blocked(Some(e.to_string())),
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(RETRY_DELAY) => {}
            }
        };
        let (mut agents_changed, mut seal_status) = (self.deps.agents.subscribe(), keystore.seal_status());
        let mut names_changed = self.deps.agents.names().subscribe();
        let mut clock_changed = self.deps.clock.subscribe();
        let mut revocations_changed = self.deps.revocations.subscribe();
        loop {
            clock_changed.borrow_and_update();
            revocations_changed.borrow_and_update();
            names_changed.borrow_and_update();
            seal_status.borrow_and_update();
            agents_changed.borrow_and_update();
            let result = self.advance(&mut ca).await;
            let pause = match result {
                Ok(()) => {
                    ca.next_renewal().since(self.deps.clock.now()).clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL)
                }
                Err(_) => RETRY_DELAY,
            };
            // A failed step is repeated after its delay only, however many requests wait for it.
            let is_ready = result.is_ok();
            self.report_blocked(result.err().map(|e| e.to_string()));
            if let Err(e) = save_issued(&self.deps).await {
                tracing::debug!("cannot write leaves.json: {e}");
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                // Fails only if the registry is gone, which this component holds.
                _ = agents_changed.changed() => {}
                _ = names_changed.changed() => {}
                _ = seal_status.changed() => {}
                _ = clock_changed.changed() => {}
                _ = revocations_changed.changed() => {}
                () = self.deps.certificate_issuer.renewal_wanted(), if is_ready => {}
                () = self.deps.certificate_issuer.rotation_wanted() => self.rotate_on_request(&mut ca).await,
                Ok(()) = delegated_ca.changed() => {
                    ca.set_parent(delegated_ca.borrow_and_update().clone());
                    // CRLs that cannot be written now are written in the next step.
                    let _ = ca.reissue_crls().await;
                    if let Err(e) = self.activate(&mut ca) {
                        tracing::error!("the installed CA certificate is not used: {e}");
                    }
                }
            }
        }
    }

    async fn open_ca(&self, keystore: &Arc<Keystore>) -> Result<HostCa, StepError> {
        let tpm = self.deps.tpm.borrow().clone().ok_or(StepError::TpmStarting)?;
        let host = self.resolve_host(&tpm).await?;
        self.deps.audit.ensure_writable()?;
        let (mut ca, changes) =
            HostCa::open(&tpm, keystore.clone(), &self.deps.state_dir, &host, self.deps.clock.clock())
                .await?;
        self.record_changes(&changes).await;
        ca.set_parent(self.deps.enrollment.delegated_ca().borrow().clone());
        self.deps.certificate_issuer.set_registered(self.deps.agents.current().iter().count());
        // The stored CA serves at once, even if it is due for renewal, unless relying parties refuse its
        // root.
        if ca.is_root_valid() {
            self.activate(&mut ca)?;
        }
        if !self.deps.certificate_issuer.is_ready() {
            self.renew(&mut ca).await?;
        }
        Ok(ca)
    }

    /// The host's names, once the issuer is ready and if its keys belong to this TPM.
    async fn resolve_host(&self, tpm: &Tpm) -> Result<HostIdentity, StepError> {
        let issuer_state = self.deps.issuer.state().ok_or(StepError::IssuerNotReady)?;
        let host = issuer_state.host().clone();
        if tpm.info().await?.host_id != host.id {
            return Err(StepError::HostMoving);
        }
        Ok(host)
    }

    async fn advance(&self, ca: &mut HostCa) -> Result<(), StepError> {
        self.deps.audit.ensure_writable()?;
        // Revocation takes effect without the TPM, and so comes before renewal, which may have to wait.
        let revocations = self.deps.revocations.current();
        let left = self.revoke(ca, &revocations).await?;
        if left == 0 {
            self.deps.revocations.certificates_revoked(revocations.latest_epoch());
        }
        if ca.crls_are_not_yet_valid() {
            ca.reissue_crls().await?;
            self.activate(ca)?;
        }
        self.renew(ca).await?;
        if left > 0 { Err(StepError::RevocationListsFull(left)) } else { Ok(()) }
    }

    async fn renew(&self, ca: &mut HostCa) -> Result<(), StepError> {
        let changes = ca.advance().await?;
        if changes.is_empty() {
            return Ok(());
        }
        self.activate(ca)?;
        self.record_changes(&changes).await;
        Ok(())
    }

    /// Revokes the certificates of agents that are revoked or no longer registered, or not with the conditions under
    /// which the certificates were issued, and those that were issued while the clock was ahead, once it can
    /// be trusted: a clock that is behind makes all of them look so. While the number of a user or group is
    /// not known, that is not known either, nor before the agents have been read without faults once, nor if
    /// there were none at the start.
    ///
    /// The certificates of invocations that have ended are revoked too. Units end often, and each write of `ca.json`
    /// increments the counter in the TPM, so it is written for them at most every [`BATCH_INTERVAL`].
    ///
    /// The lists that callers get have them at once. Their records are dropped when `ca.json` has them: until
    /// then, and after a crash, the next step finds them again. Returns how many are on no list for want of
    /// room.
    async fn revoke(&self, ca: &mut HostCa, revocations: &RevocationSet) -> Result<usize, StepError> {
        let certificate_issuer = &self.deps.certificate_issuer;
        let Some(issuer_state) = self.deps.issuer.state() else { return Ok(0) };
        let registrations = self.deps.agents.registrations();
        let is_frozen = revocations.freeze().is_some();
        let knows_agents = registrations.agents.has_removed_others();
        if !knows_agents && !is_frozen {
            return Ok(0);
        }
        let registered: HashMap<String, &AgentEntry> =
            registrations.all().map(|entry| (issuer_state.host().spiffe_id(entry), &**entry)).collect();
        certificate_issuer.set_registered(registered.len());
        certificate_issuer.set_revoked(ca.count_revoked());
        let (future, is_trusted) = (ca.future_leaves(), self.deps.clock.is_trusted());
        certificate_issuer.count_future(&future);
        let agent_of = |id: &str| registered.get(id).map(|entry| entry.name.as_str());
        self.ended.mark(certificate_issuer, revocations, agent_of);
        // Sub-agents end as often as invocations do.
        certificate_issuer.end_invocations(|id, _| {
            let is_of_sub_agent = agent_of_id(id).is_some_and(|name| root_agent(name) != name);
            is_of_sub_agent && !registered.contains_key(id)
        });
        let orphaned = certificate_issuer.orphaned(|id, leaf| {
            if leaf.has_ended() {
                return true;
            }
            let Some(entry) = registered.get(id) else { return knows_agents || is_frozen };
            if revocations.blocking_entry(entry).is_some() {
                return true;
            }
            if is_trusted && future.contains(leaf) {
                return true;
            }
            leaf.match_tag.is_some_and(|tag| registrations.check_tag(entry, tag) == TagCheck::Changed)
        });
        if orphaned.is_empty() {
            ca.save().await?;
            self.ended.marked(revocations);
            return Ok(0);
        }
        let leaves: Vec<_> = orphaned.iter().flat_map(|(_, leaves)| leaves.iter().copied()).collect();
        let NotRevoked { no_room, no_key, displaced } = ca.revoke(&leaves);
        if ca.has_unpublished() {
            self.activate(ca)?;
        }
        // No later step finds these again.
        if displaced > 0 {
            let message = format!(
                "{displaced} revoked certificates, issued while the clock was ahead, are no longer on the \
                 lists, which are full"
            );
            record_completed(&self.deps.audit, Event::CertificatesRevoked, &message).await;
        }
        for message in self.ended.messages(certificate_issuer) {
            record_completed(&self.deps.audit, Event::CertificatesRevoked, &message).await;
        }
        self.ended.marked(revocations);
        // Their records stay marked until the lists are in ca.json, so a crash before that only repeats this.
        let have_all_ended = orphaned.iter().all(|(_, leaves)| leaves.iter().all(LeafRecord::has_ended));
        let was_saved = lock(&self.saved_at).is_some_and(|at| at.elapsed() < BATCH_INTERVAL);
        if have_all_ended && was_saved && !self.ended.take_urgent() {
            return Ok(no_room.len());
        }
        ca.save().await?;
        *lock(&self.saved_at) = Some(Instant::now());
        for (id, leaves) in orphaned {
            let (ended, mut leaves): (Vec<_>, Vec<_>) = leaves.into_iter().partition(LeafRecord::has_ended);
            let on_list: Vec<_> = ended.into_iter().filter(|leaf| !no_room.contains(&leaf.serial)).collect();
            if !on_list.is_empty() {
                certificate_issuer.remove_revoked(&id, &on_list);
            }
            let total = leaves.len();
            leaves.retain(|leaf| !no_room.contains(&leaf.serial));
            if leaves.is_empty() {
                continue;
            }
            let lost = leaves.iter().filter(|leaf| no_key.contains(&leaf.serial)).count();
            certificate_issuer.remove_revoked(&id, &leaves);
            let of_future = leaves.iter().filter(|leaf| is_trusted && future.contains(leaf)).count();
            let reason = revocation_reason(registered.contains_key(&*id), of_future, leaves.len());
            let mut message = format!("{} certificates of {id} are revoked: {reason}", leaves.len() - lost);
            if lost > 0 {
                message += &format!("; {lost} cannot be, because the key of their issuing CA is lost");
            }
            if leaves.len() < total {
                message += &format!("; {} are not yet, because the lists are full", total - leaves.len());
            }
            record_completed(&self.deps.audit, Event::CertificatesRevoked, &message).await;
        }
        certificate_issuer.count_future(&future);
        Ok(no_room.len())
    }

    fn activate(&self, ca: &mut HostCa) -> Result<(), pki::Error> {
        self.deps.certificate_issuer.set_active(ca.snapshot()?);
        self.deps.certificate_issuer.set_revoked(ca.count_revoked());
        Ok(())
    }

    async fn record_changes(&self, changes: &[CaChange]) {
        for change in changes {
            record_completed(&self.deps.audit, Event::CaCertified, &describe(change)).await;
        }
    }

    /// Publishes why a due step is not taken (`None`: it is), and logs each reason once.
    fn report_blocked(&self, reason: Option<String>) {
        let certificate_issuer = &self.deps.certificate_issuer;
        if let Some(reason) = set_if_changed(certificate_issuer.blocked_reason(), reason) {
            let effect = if certificate_issuer.is_ready() {
                "the issuing CA keeps signing"
            } else {
                "no certificates are issued"
            };
            tracing::warn!(event = "ca-blocked", "a CA change is blocked, and {effect}: {reason}");
        }
    }
}

/// Writes `leaves.json`: the certificates that have been issued and have not expired.
async fn save_issued(deps: &CaDeps) -> std::io::Result<()> {
    let (certificate_issuer, dir, now) =
        (deps.certificate_issuer.clone(), deps.state_dir.clone(), deps.clock.now());
    let result = tokio::task::spawn_blocking(move || certificate_issuer.save_issued(&dir, now)).await?;
    result.map_err(std::io::Error::other)
}

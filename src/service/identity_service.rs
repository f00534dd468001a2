//! The service and the components that it is made of.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::bundle_cache::BundleCache;
use super::command_budget::CommandBudget;
use super::presented_proof::ProofReplays;
use super::request_metrics::RequestMetrics;
use super::status_list_cache::StatusListCache;
use super::worker_health::WorkerHealth;
use crate::agents::AgentRegistry;
use crate::anomaly::Anomalies;
use crate::approvals::Approvals;
use crate::audit::Audit;
use crate::clock::{Clock, ClockState, Timestamp};
use crate::config::{AnomalyActions, SignalSection};
use crate::credentials::CredentialStore;
use crate::delegation::Delegations;
use crate::federation::Federation;
use crate::invocations::Invocations;
use crate::issue::{Enrollment, EvidenceSlots, Issuer, KeyAdmin, RotationPolicy, TpmSigner};
use crate::keystore::Keystore;
use crate::peer::ServiceManager;
use crate::pki::CertificateIssuer;
use crate::policy::{AdminPolicy, Limiter, MarkQuota, Policies};
use crate::posture::{EventLogFile, ImaListFile, PostureCommandSender, PostureState};
use crate::present::ProofKeys;
use crate::revocation::Revocations;
use crate::revocation::status::StatusLists;
use crate::tpm::{Tpm, TpmState};
use crate::wire::status::TpmDescription;

/// What [`IdentityService::new`] needs: handles of the daemon's components.
pub struct ServiceDeps {
    /// The registered agents.
    pub agents: AgentRegistry,
    /// The policies.
    pub policies: Policies,
    /// Bundles of other trust domains.
    pub federation: Federation,
    /// Rates of agents and of unknown callers.
    pub limiter: Limiter,
    /// The sealed credentials, once they are available.
    pub credentials: CredentialStore,
    /// What has been revoked.
    pub revocations: Revocations,
    /// The invocations in which something was issued.
    pub invocations: Invocations,
    /// The proof keys of agents.
    pub proof_keys: ProofKeys,
    /// The cgroups of sub-agents.
    pub delegations: Delegations,
    /// The requests that wait for an approval.
    pub approvals: Approvals,
    /// What agents did, and the alerts about them.
    pub anomalies: Anomalies,
    /// What rules do, where an agent's file does not say it.
    pub anomaly_actions: AnomalyActions,
    /// The issuers whose signals revoke.
    pub signals: Vec<SignalSection>,
    /// Which index each token has in the status lists.
    pub status_lists: StatusLists,
    /// Who tells the user of a unit that is about to start.
    pub service_manager: ServiceManager,
    /// The issuing keys, once they are loaded.
    pub issuer: Issuer,
    /// The audit log.
    pub audit: Audit,
    /// Directory of the audit log, for `GET /v1/audit`.
    pub audit_dir: PathBuf,
    /// Time of day.
    pub clock: Clock,
    /// What has been observed of `clock`.
    pub clock_state: ClockState,
    /// Whether nothing is issued while the clock is not synchronized.
    pub requires_synchronized_clock: bool,
    /// State of the TPM.
    pub tpm_state: watch::Receiver<TpmState>,
    /// What the TPM reports about itself, once it has been read.
    pub tpm_description: watch::Receiver<Option<TpmDescription>>,
    /// Handle of the TPM, once it is open.
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// Why the issuer is not ready, where the TPM's state is not the reason: a corrupt file, for example.
    pub blocked_reason: watch::Receiver<Option<String>>,
    /// Signs tokens in the TPM, agent by agent in turn.
    pub tpm_signer: TpmSigner,
    /// Limits the evidence that is in memory at once.
    pub evidence_slots: EvidenceSlots,
    /// The boot's event log.
    pub event_log: EventLogFile,
    /// The kernel's list of measured files.
    pub ima_log: ImaListFile,
    /// Enrollment requests and the host key's certificate.
    pub enrollment: Enrollment,
    /// Last reading of the PCRs, with its baseline.
    pub posture: PostureState,
    /// PCRs that are compared with the baseline.
    pub compared_pcrs: Vec<u8>,
    /// Where posture commands are sent.
    pub posture_commands: PostureCommandSender,
    /// Where key commands are sent.
    pub key_admin: KeyAdmin,
    /// The keystore, once it is open: it has the key-encryption keys.
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// How often keys rotate.
    pub rotation_policy: RotationPolicy,
    /// Issues X.509 certificates.
    pub certificate_issuer: CertificateIssuer,
    /// Who is an administrator.
    pub admin_policy: AdminPolicy,
    /// How many agents have metrics of their own, unless a request says how many.
    pub agent_series: usize,
}

/// The request path. Cheap to clone; every clone works on the same components.
#[derive(Clone)]
pub struct IdentityService {
    pub(super) deps: Arc<ServiceDeps>,
    /// As in `deps`, with the write mode of this clone.
    pub(super) audit: Audit,
    pub(super) bundle_cache: Arc<BundleCache>,
    pub(super) status_list_cache: Arc<StatusListCache>,
    pub(super) started: Timestamp,
    /// The administrators' commands that changed protected state.
    pub(super) command_budget: Arc<CommandBudget>,
    pub(super) workers: WorkerHealth,
    /// The requests so far.
    pub(super) request_metrics: Arc<RequestMetrics>,
    /// Proofs that were presented for introspection.
    pub(super) proof_replays: Arc<ProofReplays>,
    /// Tokens that each agent has used up or revoked.
    pub(super) mark_quota: Arc<MarkQuota>,
}

impl IdentityService {
    /// A service on these components. `started` in its status is the time of this call.
    pub fn new(deps: ServiceDeps) -> IdentityService {
        IdentityService {
            audit: deps.audit.clone(),
            started: deps.clock.now(),
            bundle_cache: Arc::default(),
            status_list_cache: Arc::default(),
            command_budget: Arc::default(),
            workers: WorkerHealth::default(),
            request_metrics: Arc::default(),
            proof_replays: Arc::default(),
            mark_quota: Arc::new(MarkQuota::new(deps.clock.boot_time())),
            deps: Arc::new(deps),
        }
    }

    /// The same service for a worker thread: it writes its own audit records while the disk keeps up.
    pub fn with_inline_audit(&self) -> IdentityService {
        IdentityService { audit: self.audit.with_inline_writes(), ..self.clone() }
    }

    /// Where the server reports workers that do not run.
    pub fn worker_health(&self) -> &WorkerHealth {
        &self.workers
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.deps.clock.now()
    }
}

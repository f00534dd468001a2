//! The parts that several components share, and what each component gets of them.

use std::sync::Arc;

use super::activity_loader::ActivityDeps;
use super::alert_sender::ALERT_SOCKET;
use super::anomaly_monitor::AnomalyDeps;
use super::ca_manager::CaDeps;
use super::checkpointer::CheckpointDeps;
use super::credential_manager::CredentialDeps;
use super::delegation_manager::DelegationDeps;
use super::invocation_watcher::InvocationDeps;
use super::issuer_supervisor::{IssuerDeps, IssuerHandle};
use super::posture_monitor::{PostureDeps, PostureHandle};
use super::revocation_manager::RevocationDeps;
use crate::agents::{AgentRegistry, AgentSet, AgentSource, MAX_TOKEN_TTL};
use crate::anomaly::Anomalies;
use crate::approvals::Approvals;
use crate::audit::{Audit, Event};
use crate::clock::{Clock, ClockState};
use crate::config::{Config, TenantSection};
use crate::credentials::CredentialStore;
use crate::delegation::Delegations;
use crate::federation::Federation;
use crate::invocations::{HostFiles, Invocations};
use crate::issue::{Enrollment, EvidenceSlots, FairQueue, Issuer, IssuerConfig, RotationPolicy, TpmSigner};
use crate::names::Names;
use crate::peer::{DigestCache, Readers, ServiceManager, hidden_processes};
use crate::pki::CertificateIssuer;
use crate::policy::{
    AdminPolicy, Limiter, Policies, PolicyConfig, Rate, ReadPolicies, TenantQuota, TenantQuotas,
};
use crate::posture::{EventLogFile, ImaListFile, PostureState};
use crate::present::ProofKeys;
use crate::revocation::Revocations;
use crate::revocation::status::StatusLists;
use crate::service::{ServiceDeps, log_faults};
use crate::tpm::TpmConfig;

/// Handles that are cheap to clone; all clones work on the same state.
pub(super) struct Parts {
    pub audit: Audit,
    clock: Clock,
    /// What has been observed of `clock`.
    pub clock_state: ClockState,
    agents: AgentRegistry,
    policies: Policies,
    federation: Federation,
    credentials: CredentialStore,
    revocations: Revocations,
    status_lists: StatusLists,
    invocations: Invocations,
    delegations: Delegations,
    proof_keys: ProofKeys,
    anomalies: Anomalies,
    issuer: Issuer,
    certificate_issuer: CertificateIssuer,
    enrollment: Enrollment,
    posture: PostureState,
    event_log: EventLogFile,
    ima_list: ImaListFile,
}

impl Parts {
    /// Reads the agents, the policies, the bundles of other trust domains and the enrollment state. Faults are logged; what
    /// cannot be read is left out. Waits at most 5 s for the numbers of `names`.
    pub fn open(config: &Config, names: Names, audit: Audit) -> Parts {
        let (paths, clock) = (&config.paths, Clock::System);
        let digest_cache = DigestCache::with_readers(Readers::for_run_dir(&paths.run));
        let policies = new_policies(config, clock.clone());
        audit.state_policies(policies.clone());
        let agents = open_agents(config, names, clock.clone(), digest_cache, &policies);
        log_faults(Event::AgentsRejected, &agents.load_status().faults);
        log_faults(Event::PoliciesRejected, &policies.status().faults);
        let federation = Federation::open(&paths.federation, config.needs_federation);
        log_faults(Event::FederationRejected, &federation.diagnostics());
        if let Some(problem) = hidden_processes() {
            tracing::warn!("{problem}");
        }
        let credentials = CredentialStore::new(&paths.state, clock.clone());
        let anomalies = Anomalies::new(clock.clone(), config.policy.timezone.clone(), config.anomaly.learn);
        let stored = credentials.clone();
        anomalies.set_canaries(Box::new(move |tenant, agent, name| stored.is_canary(tenant, agent, name)));
        audit.watch(anomalies.clone());
        Parts {
            audit,
            anomalies,
            clock_state: ClockState::new(clock.clone()),
            credentials,
            revocations: Revocations::new(&paths.state, clock.clone()),
            status_lists: StatusLists::new(
                &paths.state,
                clock.clone(),
                config.tokens.status_list,
                config.tokens.status_list_ttl,
            ),
            invocations: Invocations::new(HostFiles::of_host()),
            delegations: Delegations::open(&paths.state, agents.clone(), clock.now(), clock.boot_time()),
            proof_keys: ProofKeys::new(MAX_TOKEN_TTL),
            clock,
            agents,
            policies,
            federation,
            issuer: Issuer::default(),
            certificate_issuer: CertificateIssuer::new(config.certificates.ttl),
            enrollment: Enrollment::open(&paths.state),
            posture: PostureState::new(config.posture.mode, config.posture.max_age),
            event_log: EventLogFile::in_dir(&paths.run),
            ima_list: ImaListFile::in_dir(&paths.run),
        }
    }

    /// The registered agents.
    pub fn agents(&self) -> AgentRegistry {
        self.agents.clone()
    }

    /// For the issuer supervisor.
    pub fn issuer_deps(&self, config: &Config, tpm_config: TpmConfig) -> IssuerDeps {
        IssuerDeps {
            tpm_config,
            state_dir: config.paths.state.clone(),
            issuer_config: IssuerConfig {
                trust_domain: config.trust_domain.clone(),
                issuer: config.issuer.clone(),
            },
            rotation_policy: rotation_policy(config),
            seal_pcrs: config.seal.pcrs.clone(),
            event_log: self.event_log.clone(),
            issuer: self.issuer.clone(),
            agents: self.agents.clone(),
            revocations: self.revocations.clone(),
            audit: self.audit.clone(),
            enrollment: self.enrollment.clone(),
            clock: self.clock_state.clone(),
        }
    }

    /// For the CA manager.
    pub fn ca_deps(&self, config: &Config, issuer: &IssuerHandle) -> CaDeps {
        CaDeps {
            certificate_issuer: self.certificate_issuer.clone(),
            issuer: self.issuer.clone(),
            agents: self.agents.clone(),
            revocations: self.revocations.clone(),
            audit: self.audit.clone(),
            clock: self.clock_state.clone(),
            enrollment: self.enrollment.clone(),
            state_dir: config.paths.state.clone(),
            tpm: issuer.tpm.clone(),
            keystore: issuer.keystore.clone(),
            issuer_first_attempt: issuer.first_attempt.clone(),
        }
    }

    /// For the credential manager.
    pub fn credential_deps(&self, issuer: &IssuerHandle) -> CredentialDeps {
        CredentialDeps {
            store: self.credentials.clone(),
            issuer: self.issuer.clone(),
            audit: self.audit.clone(),
            keystore: issuer.keystore.clone(),
            issuer_first_attempt: issuer.first_attempt.clone(),
        }
    }

    /// For the revocation manager.
    pub fn revocation_deps(&self, config: &Config, issuer: &IssuerHandle) -> RevocationDeps {
        RevocationDeps {
            revocations: self.revocations.clone(),
            issuer: self.issuer.clone(),
            keystore: issuer.keystore.clone(),
            issuer_first_attempt: issuer.first_attempt.clone(),
            invocations: self.invocation_deps(config),
        }
    }

    /// For the invocation watcher.
    pub fn invocation_deps(&self, config: &Config) -> InvocationDeps {
        InvocationDeps {
            invocations: self.invocations.clone(),
            delegations: self.delegations.clone(),
            proof_keys: self.proof_keys.clone(),
            revocations: self.revocations.clone(),
            audit: self.audit.clone(),
            clock: self.clock.clone(),
            state_dir: config.paths.state.clone(),
        }
    }

    /// For the delegation manager.
    pub fn delegation_deps(&self) -> DelegationDeps {
        DelegationDeps {
            delegations: self.delegations.clone(),
            proof_keys: self.proof_keys.clone(),
            audit: self.audit.clone(),
            clock: self.clock.clone(),
        }
    }

    /// The status lists.
    pub fn status_lists(&self) -> StatusLists {
        self.status_lists.clone()
    }

    /// For the activity loader.
    pub fn activity_deps(&self, config: &Config) -> ActivityDeps {
        ActivityDeps {
            audit: self.audit.clone(),
            audit_dir: config.paths.audit.clone(),
            agents: self.agents.clone(),
            revocations: self.revocations.clone(),
        }
    }

    /// For the anomaly monitor.
    pub fn anomaly_deps(&self, config: &Config) -> AnomalyDeps {
        AnomalyDeps {
            anomalies: self.anomalies.clone(),
            actions: config.anomaly.actions(),
            agents: self.agents.clone(),
            revocations: self.revocations.clone(),
            delegations: self.delegations.clone(),
            audit: self.audit.clone(),
            state_dir: config.paths.state.clone(),
            socket: config.paths.run.join(ALERT_SOCKET),
        }
    }

    /// For the component that makes checkpoints.
    pub fn checkpoint_deps(&self, config: &Config, issuer: &IssuerHandle) -> CheckpointDeps {
        CheckpointDeps {
            settings: config.audit.checkpoint_settings(),
            audit: self.audit.clone(),
            audit_dir: config.paths.audit.clone(),
            state_dir: config.paths.state.clone(),
            clock: self.clock.clone(),
            tpm: issuer.tpm.clone(),
            issuer_first_attempt: issuer.first_attempt.clone(),
        }
    }

    /// For the posture monitor.
    pub fn posture_deps(&self, config: &Config, issuer: &IssuerHandle) -> PostureDeps {
        PostureDeps {
            config: config.posture.clone(),
            state_dir: config.paths.state.clone(),
            event_log: self.event_log.clone(),
            ima_list: self.ima_list.clone(),
            posture: self.posture.clone(),
            agents: self.agents.clone(),
            audit: self.audit.clone(),
            clock: self.clock.clone(),
            tpm: issuer.tpm.clone(),
            keystore: issuer.keystore.clone(),
            issuer_first_attempt: issuer.first_attempt.clone(),
        }
    }

    /// For the service that the servers call.
    pub fn service_deps(
        self,
        config: &Config,
        issuer: &IssuerHandle,
        posture: &PostureHandle,
        admin_policy: AdminPolicy,
    ) -> ServiceDeps {
        let limits = &config.limits;
        ServiceDeps {
            agents: self.agents,
            policies: self.policies,
            federation: self.federation,
            limiter: Limiter::new(
                Rate { per_second: limits.rate, burst: limits.burst },
                Rate { per_second: limits.unknown_rate, burst: limits.unknown_burst },
                Rate { per_second: limits.tpm_rate, burst: limits.tpm_burst },
            )
            .with_tenants(tenant_quotas(config)),
            credentials: self.credentials,
            revocations: self.revocations,
            invocations: self.invocations,
            proof_keys: self.proof_keys,
            delegations: self.delegations,
            approvals: Approvals::new(config.approvals.clone(), self.clock.clone()),
            anomalies: self.anomalies,
            anomaly_actions: config.anomaly.actions(),
            signals: config.signals.clone(),
            status_lists: self.status_lists.clone(),
            service_manager: ServiceManager::from_env(),
            issuer: self.issuer,
            audit: self.audit,
            audit_dir: config.paths.audit.clone(),
            clock: self.clock,
            clock_state: self.clock_state,
            requires_synchronized_clock: config.clock.require_synchronized,
            tpm_state: issuer.tpm_state.clone(),
            tpm_description: issuer.tpm_info.clone(),
            tpm: issuer.tpm.clone(),
            blocked_reason: issuer.blocked_reason.clone(),
            tpm_signer: TpmSigner {
                statuses: self.status_lists,
                queue: FairQueue::default(),
                tpm: issuer.tpm.clone(),
                rsa_blocked_reason: issuer.rsa_blocked_reason.clone(),
            },
            evidence_slots: EvidenceSlots::default(),
            event_log: self.event_log,
            ima_log: self.ima_list,
            enrollment: self.enrollment,
            posture: self.posture,
            compared_pcrs: config.posture.pcrs.clone(),
            posture_commands: posture.commands.clone(),
            key_admin: issuer.key_admin.clone(),
            keystore: issuer.keystore.clone(),
            rotation_policy: rotation_policy(config),
            certificate_issuer: self.certificate_issuer,
            admin_policy,
            agent_series: config.metrics.agents,
        }
    }
}

/// How often keys rotate.
fn rotation_policy(config: &Config) -> RotationPolicy {
    RotationPolicy {
        interval: config.keys.rotate_every(),
        publish_before: config.keys.publish_before,
        risk: config.keys.risk,
        key_encryption: config.keys.rotate_encryption_every,
        rsa: config.keys.rotate_rsa_every,
    }
}

/// Policies that are not known until they are read.
fn new_policies(config: &Config, clock: Clock) -> Policies {
    Policies::new(
        PolicyConfig {
            dir: config.paths.policies.clone(),
            must_exist: config.needs_policies,
            require_permit: config.policy.require_permit,
            zone: config.policy.timezone.clone(),
        },
        clock,
    )
}

/// Reads the agents and the policies. With faults in the policies, nothing is permitted until a reload succeeds.
fn open_agents(
    config: &Config,
    names: Names,
    clock: Clock,
    digest_cache: DigestCache,
    policies: &Policies,
) -> AgentRegistry {
    let activate = |read: ReadPolicies, agents: &Arc<AgentSet>| {
        for warning in read.warnings(agents) {
            tracing::warn!("{warning}");
        }
        policies.activate(read, agents.clone());
    };
    let source = AgentSource::from(config);
    AgentRegistry::open_with(source, names, clock, digest_cache, || policies.read_beside(false), activate)
}

fn tenant_quotas(config: &Config) -> TenantQuotas {
    let quota = |section: &TenantSection| TenantQuota {
        rate: section.rate().map(|(per_second, burst)| Rate { per_second, burst }),
        live_tokens: section.live_tokens,
        credentials: section.credentials,
        certificates: section.certificates,
    };
    TenantQuotas::new(config.tenants.iter().map(|(name, section)| (name.clone(), quota(section))).collect())
}

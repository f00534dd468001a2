//! What an administrator sees at a glance: `GET /v1/status` and the line for `systemctl status`.

use super::admin::Admin;
use super::convert;
use super::identity_service::IdentityService;
use crate::clock::BootTime;
use crate::peer;
use crate::plural::counted;
use crate::wire::error::Fault;
use crate::wire::keys::{Key, KeyState};
use crate::wire::status::{
    AdminGroupStatus, AgentsStatus, AuditStatus, CheckpointStatus, CredentialsStatus, FederationStatus,
    HostNames, JournalStatus, PoliciesStatus, StatusListsStatus, StatusResponse, TpmStatus, WorkersStatus,
};

impl IdentityService {
    /// Everything as it is now. `connections` is the number of open connections of the agent socket and the
    /// workload socket, which the service does not know.
    pub async fn status(&self, admin: &Admin, connections: usize) -> StatusResponse {
        let activity = self.activity_summary().await;
        let deps = &self.deps;
        let issuer_state = deps.issuer.state();
        let host = issuer_state.as_ref().map(|issuer_state| issuer_state.host());
        let posture = deps.posture.evaluate(BootTime::now());
        let keys = issuer_state.iter().flat_map(|issuer_state| issuer_state.key_reports()).map(Key::from);
        StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started,
            status: self.health().into(),
            warnings: self.warnings(),
            host: HostNames {
                id: host.map(|host| host.id.clone()),
                trust_domain: host.map(|host| host.trust_domain.clone()),
                issuer: host.map(|host| host.issuer.clone()),
            },
            tpm: TpmStatus { kind: host.map(convert::tpm_kind), ..self.tpm_status() },
            certificate: deps.enrollment.certificate_report().map(Into::into),
            ca: deps.certificate_issuer.report(deps.clock.now()).into(),
            clock: self.clock_status(admin),
            posture: posture.posture.into(),
            posture_reason: Some(posture.reason()).filter(|reason| !reason.is_empty()),
            seal: deps.key_admin.seal_status().map(Into::into),
            issuer_blocked_reason: issuer_state.is_none().then(|| self.unavailable_reason()),
            keys: keys.filter(|key| key.state != KeyState::Destroyed).collect(),
            rsa_blocked_reason: deps.tpm_signer.rsa_blocked_reason.borrow().clone(),
            credentials: CredentialsStatus {
                stored: deps.credentials.reports().ok().map(|reports| reports.len()),
                blocked_reason: deps.credentials.blocked_reason().borrow().clone(),
            },
            agents: AgentsStatus { activity: Some(activity), ..self.agents_status() },
            policies: PoliciesStatus::from(&deps.policies.status()),
            status_lists: {
                let report = deps.status_lists.report();
                StatusListsStatus {
                    by_default: report.is_default,
                    ttl: report.ttl.as_secs(),
                    lists: report.lists,
                    tokens: report.tokens,
                    problem: report.problem,
                }
            },
            anomalies: self.anomalies_status(),
            admin_group: AdminGroupStatus {
                name: deps.admin_policy.admin_group.clone(),
                gid: deps.admin_policy.group_number().ok(),
                problem: deps.admin_policy.group_number().err().map(|problem| problem.to_string()),
            },
            hidden_processes: peer::hidden_processes().map(str::to_owned),
            name_problems: deps.agents.names().table().problems().to_vec(),
            federation: FederationStatus {
                trust_domains: deps.federation.bundles().keys().cloned().collect(),
                faults: deps.federation.diagnostics().iter().map(Fault::from).collect(),
            },
            audit: AuditStatus {
                last_seq: self.audit.health().last_seq(),
                problem: self.audit.health().write_error().map(|error| error.to_string()),
                disk_fault: self.audit.health().disk_fault().map(|error| error.to_string()),
                filling: self.audit.health().filling_warning(),
                directory: Some(deps.audit_dir.display().to_string()),
                checkpoint: {
                    let report = self.audit.checkpoints().report();
                    CheckpointStatus { covered_to: report.covered_to, at: report.at, problem: report.problem }
                },
            },
            journal: JournalStatus {
                sink: self.audit.journal().sink_name().to_owned(),
                dropped: self.audit.journal().dropped(),
            },
            workers: WorkersStatus { count: self.workers.total(), problem: self.workers.problem() },
            connections,
        }
    }

    /// One line for `systemctl status`.
    pub fn status_line(&self) -> String {
        let load_status = self.deps.agents.load_status();
        let agents = match load_status.faults.len() {
            0 => counted(load_status.agents, "agent"),
            n if !load_status.is_loaded => format!("agents not known, {} in agents.d", counted(n, "fault")),
            n => format!("{}, {} in agents.d", counted(load_status.agents, "agent"), counted(n, "fault")),
        };
        if let Some(problem) = self.workers.problem() {
            return format!("{problem}; {agents}");
        }
        match self.deps.issuer.state() {
            Some(issuer_state) => {
                let tpm_state = self.deps.tpm_state.borrow().kind;
                format!("host {}; {agents}; TPM {tpm_state}", issuer_state.host().id)
            }
            None => format!("no tokens are issued: {}; {agents}", self.unavailable_reason()),
        }
    }

    fn tpm_status(&self) -> TpmStatus {
        let state = self.deps.tpm_state.borrow().clone();
        TpmStatus {
            state: state.kind.to_string(),
            remedy: state.kind.remedy().to_owned(),
            detail: state.detail,
            kind: None,
            waiting_to_sign: self.deps.tpm_signer.queue.waiting_count(),
            description: self.deps.tpm_description.borrow().clone(),
        }
    }
}

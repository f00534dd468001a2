//! What an administrator wants to know at a glance.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::ConnectionLimits;
use crate::agents::LoadStatus;
use crate::clock::{BootTime, Timestamp};
use crate::config::Diagnostic;
use crate::issue::{CertificateReport, KeyReport, KeyState};
use crate::keystore::SealStatus;
use crate::pki;
use crate::posture::{Posture, PostureMode};
use crate::service::IdentityService;

/// What is known at the start and does not change.
#[derive(Debug)]
pub struct StatusReporter {
    pub started: Timestamp,
    pub audit_dir: PathBuf,
    pub connection_limits: Arc<ConnectionLimits>,
    pub tpm_description: tokio::sync::watch::Receiver<Option<TpmDescription>>,
}

/// What the TPM says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct TpmDescription {
    pub manufacturer: String,
    pub vendor: String,
    pub firmware: String,
    /// Whether the TPM has a certificate for its ECC P-256 endorsement key.
    pub ek_certificate: bool,
    /// Name of the attestation key in hexadecimal, for `hostbadge verify evidence --ak`.
    pub ak_name: Option<String>,
}

/// The answer to `hostbadge status`.
#[derive(Serialize)]
pub struct StatusReport {
    version: &'static str,
    pid: u32,
    started: Timestamp,
    status: &'static str,
    host: HostReport,
    tpm: TpmReport,
    /// What an organisation gave the host key; none where the host is not enrolled.
    certificate: Option<CertificateReport>,
    /// The authority that agents' certificates come from.
    ca: pki::CaReport,
    posture: Posture,
    #[serde(skip_serializing_if = "String::is_empty")]
    posture_why: String,
    /// How the keys are guarded at rest; none while they are not open.
    seal: Option<SealStatus>,
    /// What keeps tokens from being issued; none where they are.
    trouble: Option<String>,
    keys: Vec<KeyReport>,
    /// Why there is no RSA key, where a grant asks for RS256.
    rsa_waits: Option<String>,
    agents: Arc<LoadStatus>,
    federation: FederationReport,
    audit: AuditReport,
    journal: JournalReport,
    connections: usize,
}

#[derive(Serialize)]
struct HostReport {
    id: Option<String>,
    trust_domain: Option<String>,
    issuer: Option<String>,
}

#[derive(Serialize)]
struct TpmReport {
    state: String,
    detail: String,
    remedy: &'static str,
    kind: Option<&'static str>,
    /// Requests for tokens that wait for their agent's turn to have the TPM sign.
    waiting: usize,
    #[serde(flatten)]
    description: Option<TpmDescription>,
}

#[derive(Serialize)]
struct FederationReport {
    /// Other trust domains whose bundles are in force.
    trust_domains: Vec<String>,
    /// Of the last reading; while there are any, the bundles before it stay in force.
    faults: Arc<Vec<Diagnostic>>,
}

#[derive(Serialize)]
struct AuditReport {
    last: u64,
    problem: Option<String>,
}

#[derive(Serialize)]
struct JournalReport {
    to: &'static str,
    dropped: u64,
}

impl StatusReporter {
    pub fn audit_dir(&self) -> &Path {
        &self.audit_dir
    }

    /// Everything as it is now.
    pub fn report(&self, service: &IdentityService, seal: Option<SealStatus>) -> StatusReport {
        let not_destroyed = |key: &&KeyReport| key.state != KeyState::Destroyed;
        let issuer_state = service.issuer.state();
        let host = issuer_state.as_ref().map(|issuer_state| issuer_state.host());
        let state = service.tpm_state.borrow().clone();
        let problem = service.audit.health().write_error().map(|problem| problem.to_string());
        let posture = service.posture.evaluate(BootTime::now());
        let healthy = issuer_state.is_some()
            && state.kind == crate::tpm::StateKind::Ready
            && problem.is_none()
            && (posture.posture == Posture::Accepted || posture.mode != PostureMode::Enforce);
        StatusReport {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: self.started,
            status: if healthy { "ok" } else { "degraded" },
            host: HostReport {
                id: host.map(|host| host.id.clone()),
                trust_domain: host.map(|host| host.trust_domain.clone()),
                issuer: host.map(|host| host.issuer.clone()),
            },
            tpm: TpmReport {
                state: state.kind.to_string(),
                remedy: state.kind.remedy(),
                detail: state.detail,
                kind: host.map(|host| host.tpm_kind()),
                waiting: service.tpm_signer.queue.waiting_count(),
                description: self.tpm_description.borrow().clone(),
            },
            certificate: service.enrollment.certificate_report(),
            ca: service.certificate_issuer.report(),
            posture: posture.posture,
            posture_why: posture.reason(),
            seal,
            trouble: issuer_state.is_none().then(|| service.unavailable_reason()),
            keys: issuer_state
                .iter()
                .flat_map(|issuer_state| issuer_state.key_reports())
                .filter(not_destroyed)
                .cloned()
                .collect(),
            rsa_waits: service.tpm_signer.rsa_blocked_reason.borrow().clone(),
            agents: service.agents.load_status(),
            federation: FederationReport {
                trust_domains: service.federation.bundles().keys().cloned().collect(),
                faults: service.federation.diagnostics(),
            },
            audit: AuditReport { last: service.audit.health().last_seq(), problem },
            journal: JournalReport {
                to: service.audit.journal().sink_name(),
                dropped: service.audit.journal().dropped(),
            },
            connections: self.connection_limits.len(),
        }
    }
}

//! What an administrator wants to know at a glance.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::Crowd;
use crate::agents::Loaded;
use crate::clock::{Timestamp, Uptime};
use crate::config::Fault;
use crate::issue::{CertificateReport, KeyReport, KeyState};
use crate::pki;
use crate::posture::{Mode, Posture};
use crate::road::Road;
use crate::vault::Binding;

/// What is known at the start and does not change.
#[derive(Debug)]
pub struct Status {
    pub started: Timestamp,
    pub audit: PathBuf,
    pub crowd: Arc<Crowd>,
    pub tpm: tokio::sync::watch::Receiver<Option<TpmFacts>>,
}

/// What the TPM says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct TpmFacts {
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
pub struct Report {
    version: &'static str,
    pid: u32,
    started: Timestamp,
    status: &'static str,
    host: HostReport,
    tpm: TpmReport,
    /// What an organisation gave the host key; none where the host is not enrolled.
    certificate: Option<CertificateReport>,
    /// The authority that agents' certificates come from.
    ca: pki::Report,
    posture: Posture,
    #[serde(skip_serializing_if = "String::is_empty")]
    posture_why: String,
    /// How the keys are guarded at rest; none while they are not open.
    seal: Option<Binding>,
    /// What keeps tokens from being issued; none where they are.
    trouble: Option<String>,
    keys: Vec<KeyReport>,
    /// Why there is no RSA key, where a grant asks for RS256.
    rsa_waits: Option<String>,
    agents: Arc<Loaded>,
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
    facts: Option<TpmFacts>,
}

#[derive(Serialize)]
struct FederationReport {
    /// Other trust domains whose bundles are in force.
    trust_domains: Vec<String>,
    /// Of the last reading; while there are any, the bundles before it stay in force.
    faults: Arc<Vec<Fault>>,
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

impl Status {
    pub fn audit_dir(&self) -> &Path {
        &self.audit
    }

    /// Everything as it is now.
    pub fn report(&self, road: &Road, seal: Option<Binding>) -> Report {
        let living = |key: &&KeyReport| key.state != KeyState::Destroyed;
        let standing = road.issuer.standing();
        let host = standing.as_ref().map(|standing| standing.host());
        let state = road.tpm.borrow().clone();
        let problem = road.audit.health().problem().map(|problem| problem.to_string());
        let posture = road.posture.condition(Uptime::now());
        let well = standing.is_some()
            && state.kind == crate::tpm::StateKind::Ready
            && problem.is_none()
            && (posture.posture == Posture::Accepted || posture.mode != Mode::Enforce);
        Report {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: self.started,
            status: if well { "ok" } else { "degraded" },
            host: HostReport {
                id: host.map(|host| host.id.clone()),
                trust_domain: host.map(|host| host.trust_domain.clone()),
                issuer: host.map(|host| host.issuer.clone()),
            },
            tpm: TpmReport {
                state: state.kind.to_string(),
                remedy: state.kind.remedy(),
                detail: state.detail,
                kind: host.map(|host| host.tpm()),
                waiting: road.by_tpm.turns.waiting(),
                facts: self.tpm.borrow().clone(),
            },
            certificate: road.enrollment.report(),
            ca: road.authority.report(),
            posture: posture.posture,
            posture_why: posture.why(),
            seal,
            trouble: standing.is_none().then(|| road.why_not_standing()),
            keys: standing.iter().flat_map(|standing| standing.keys()).filter(living).cloned().collect(),
            rsa_waits: road.by_tpm.rsa_waits.borrow().clone(),
            agents: road.agents.loaded(),
            federation: FederationReport {
                trust_domains: road.federation.bundles().keys().cloned().collect(),
                faults: road.federation.faults(),
            },
            audit: AuditReport { last: road.audit.health().last(), problem },
            journal: JournalReport { to: road.audit.journal().to(), dropped: road.audit.journal().dropped() },
            connections: self.crowd.len(),
        }
    }
}

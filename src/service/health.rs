//! Whether the host is healthy: one predicate for `GET /v1/health`, `GET /v1/status` and the gRPC health
//! service.

use std::sync::Arc;

use super::error::NotReady;
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use crate::clock::BootTime;
use crate::issue::IssuerState;
use crate::policy::{ErrorCode, Refusal};
use crate::posture::{Posture, PostureMode};
use crate::tpm::StateKind;
use crate::wire::agent::HealthResponse;
use crate::wire::host::Health;

/// How much of its work the daemon can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceHealth {
    /// Everything: the issuer is ready, the agents are known, the audit log can be written, the posture
    /// permits, the TPM is ready, the sealed credentials are available, and all workers run. Files of
    /// `agents.d` or `federation` that a reload refused are not part of this: what was read before is in
    /// force as a whole, and the status has a warning.
    Full,
    /// Some workers do not run: the callers that they serve wait.
    WithStalledWorkers,
    /// Everything is issued. Certificates or keys were made while the clock was ahead, if it is right now, or
    /// certificates cannot be revoked, because their records were lost.
    WithUnsafeCredentials,
    /// Tokens and SVIDs are issued, and no sealed credential is released: their database cannot be used.
    WithoutCredentials,
    /// Tokens and SVIDs are issued by keys in memory. The TPM is not ready, so it signs and quotes nothing,
    /// and keys do not rotate.
    WithoutTpm,
    /// Nothing is issued: the issuer is not ready, the agents have not been read without faults, the audit
    /// log cannot be written, the posture or the clock forbids it, the host is frozen, its revocations are not
    /// known, or no worker runs.
    NotIssuing,
}

impl ServiceHealth {
    /// All values, from the best to the worst.
    pub const ALL: [ServiceHealth; 6] = [
        ServiceHealth::Full,
        ServiceHealth::WithStalledWorkers,
        ServiceHealth::WithUnsafeCredentials,
        ServiceHealth::WithoutCredentials,
        ServiceHealth::WithoutTpm,
        ServiceHealth::NotIssuing,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            ServiceHealth::Full => "full",
            ServiceHealth::WithStalledWorkers => "stalled_workers",
            ServiceHealth::WithUnsafeCredentials => "unsafe_credentials",
            ServiceHealth::WithoutCredentials => "without_credentials",
            ServiceHealth::WithoutTpm => "without_tpm",
            ServiceHealth::NotIssuing => "not_issuing",
        }
    }

    /// Whether SVIDs are issued. The gRPC health service reports SERVING exactly then, because a SPIFFE
    /// client has no use for the TPM's state: a daemon whose TPM is away for a while still issues what such a
    /// client asks for.
    pub fn issues_svids(self) -> bool {
        self != ServiceHealth::NotIssuing
    }
}

impl From<ServiceHealth> for Health {
    fn from(health: ServiceHealth) -> Health {
        match health {
            ServiceHealth::Full => Health::Ok,
            ServiceHealth::WithStalledWorkers
            | ServiceHealth::WithUnsafeCredentials
            | ServiceHealth::WithoutCredentials
            | ServiceHealth::WithoutTpm
            | ServiceHealth::NotIssuing => Health::Degraded,
        }
    }
}

impl IdentityService {
    /// The health of this host now. All three front ends derive what they report from it.
    pub fn health(&self) -> ServiceHealth {
        let posture = self.deps.posture.evaluate(BootTime::now());
        let posture_permits = posture.posture == Posture::Accepted || posture.mode != PostureMode::Enforce;
        let audit_works = self.audit.health().write_error().is_none();
        let (workers, stalled) = (self.workers.total(), self.workers.stalled());
        let no_worker_runs = stalled > 0 && stalled == workers;
        let knows_agents = self.deps.agents.current().is_loaded();
        let permits = knows_agents && audit_works && posture_permits && !no_worker_runs;
        let permits = permits && self.clock_permits() && self.revocations_permit();
        let issuer_state = self.deps.issuer.state().filter(|_| permits);
        let Some(issuer_state) = issuer_state else {
            return ServiceHealth::NotIssuing;
        };
        let now = self.deps.clock.now();
        let ca = self.deps.certificate_issuer.report(now);
        let is_unsafe = ca.future_certificates > 0
            || ca.lost_records.is_some()
            || issuer_state.count_future_keys(now) > 0;
        let has_credentials = self.deps.credentials.blocked_reason().borrow().is_none();
        match self.deps.tpm_state.borrow().kind {
            StateKind::Ready if stalled > 0 => ServiceHealth::WithStalledWorkers,
            StateKind::Ready if is_unsafe => ServiceHealth::WithUnsafeCredentials,
            StateKind::Ready if !has_credentials => ServiceHealth::WithoutCredentials,
            StateKind::Ready => ServiceHealth::Full,
            _ => ServiceHealth::WithoutTpm,
        }
    }

    /// The response to `GET /v1/health`.
    pub fn health_response(&self) -> HealthResponse {
        HealthResponse {
            status: self.health().into(),
            tpm: self.deps.tpm_state.borrow().kind.to_string(),
            posture: self.posture().into(),
        }
    }

    /// Whether the revocations are known, and the host is not frozen.
    fn revocations_permit(&self) -> bool {
        self.deps.revocations.is_open() && self.deps.revocations.current().freeze().is_none()
    }

    /// The host's posture now.
    pub(super) fn posture(&self) -> Posture {
        self.deps.posture.evaluate(BootTime::now()).posture
    }

    /// Why nothing is issued, with the remedy.
    pub(super) fn unavailable_reason(&self) -> String {
        if let Some(reason) = &*self.deps.blocked_reason.borrow() {
            return reason.clone();
        }
        let state = self.deps.tpm_state.borrow();
        match state.kind {
            StateKind::Ready => "the issuing key is being loaded; try again in a moment".into(),
            kind => format!("the TPM is {}: {}", *state, kind.remedy()),
        }
    }

    /// The issuer, or a refusal with the reason.
    pub(super) fn issuer_state(&self) -> Result<Arc<IssuerState>, Rejection> {
        let unavailable = |e: NotReady| Refusal::new(ErrorCode::TemporarilyUnavailable, e.to_string());
        let issuer_state = self.ready_issuer().map_err(unavailable)?;
        self.require_revocations()?;
        Ok(issuer_state)
    }

    /// The issuer, or the reason why it is not ready.
    pub(super) fn ready_issuer(&self) -> Result<Arc<IssuerState>, NotReady> {
        self.deps.issuer.state().ok_or_else(|| NotReady(self.unavailable_reason()))
    }
}

//! Evidence about the host, for a remote verifier.

use std::time::Duration;

use super::error::{InvalidRequest, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use super::requests;
use crate::issue::{EvidenceResponse, MeasurementLogs, Nonce, Requester};
use crate::peer::PeerLookup;
use crate::policy::{self, ErrorCode, RateLimitKey};
use crate::wire::agent::AttestRequest;

/// `Retry-After` when all evidence slots are in use.
const EVIDENCE_RETRY_DELAY: Duration = Duration::from_secs(5);

impl IdentityService {
    /// Evidence for a verifier's nonce, for any registered agent, at most once a second.
    ///
    /// # Errors
    /// A recorded refusal, also where `request` is an error.
    pub async fn attest(
        &self,
        lookup: PeerLookup,
        request: Result<AttestRequest, InvalidRequest>,
    ) -> RequestResult<EvidenceResponse> {
        let decision = async {
            match self.collect_evidence(lookup, request).await {
                Ok((evidence, nonce)) => Ok(self.audit.record_attestation(evidence, &nonce).await?),
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::Evidence, decision).await
    }

    async fn collect_evidence(
        &self,
        lookup: PeerLookup,
        request: Result<AttestRequest, InvalidRequest>,
    ) -> Result<(EvidenceResponse, Nonce), Rejection> {
        let request = request.and_then(requests::attest_request);
        let peer = self.require_peer(lookup)?;
        let agent = self.identify_any(&peer).await?;
        let reject = |code, description: &str| Rejection::new(code, description, &peer).with_agent(&agent);
        let request = request.map_err(|e| reject(ErrorCode::InvalidRequest, &e.to_string()))?;
        self.check_rate(RateLimitKey::TpmQuote(agent.root_name().clone()), Some(&peer))
            .map_err(|rejection| rejection.with_agent(&agent))?;
        let permit = policy::decide_attestation(agent.clone(), &self.circumstances())?;
        let policies = permit.policy();
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
        let tpm = self.deps.tpm.borrow().clone();
        let tpm = tpm.ok_or_else(|| reject(ErrorCode::TemporarilyUnavailable, "the TPM is starting"))?;
        let slot = self.deps.evidence_slots.acquire(agent.root_name(), peer.uid).await.ok_or_else(|| {
            let description = "as many callers as allowed are receiving evidence; ask again later";
            let mut rejection = reject(ErrorCode::TemporarilyUnavailable, description);
            rejection.refusal.retry_after = Some(EVIDENCE_RETRY_DELAY);
            rejection
        })?;
        let logs =
            MeasurementLogs { boot: self.deps.event_log.clone(), ima: Some(self.deps.ima_log.clone()) };
        let certificate = self.deps.enrollment.certificate();
        let requester = Requester { permit, slot };
        let now = self.deps.clock.now();
        let evidence =
            issuer_state.attest(&tpm, logs, requester, &request, certificate.as_deref(), now).await?;
        // A reload may have taken place while the request waited for the TPM.
        self.ensure_current(&agent)?;
        self.ensure_policies(policies, &agent)?;
        Ok((evidence, request.nonce))
    }
}

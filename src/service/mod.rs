//! The way of a request, from one end to the other.
//!
//! ```text
//! Peer ─ agents ─> Agent ─ posture ─> Posture ─ policy ─> Permit ─ issue ─> Token ─ audit ─> Recorded<Token>
//!            └── no agent: Refusal ─────────────────┴── denied: Refusal ── audit ──> Recorded<Refusal>
//! ```
//!
//! Each step takes what only the step before can make. Nothing here blocks, and nothing is done twice.

mod admin;
mod authenticate;
mod rejection;
mod svids;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agents::{AgentEntry, AgentRegistry};
use crate::audit::{Audit, AuditUnavailable, Recorded};
use crate::clock::{BootTime, Clock};
use crate::federation::Federation;
use crate::issue::{
    AccessToken, AttestRequest, Enrollment, EvidenceResponse, EvidenceSlots, HostIdentity, Introspection,
    IntrospectionRequest, Issuer, IssuerState, MeasurementLogs, Requester, TpmSigner,
};
use crate::peer::{Peer, PeerLookup};
use crate::pki::{CertificateIssuer, CertificateParams, IssuedX509Svid, SubjectKey};
use crate::policy::{self, ErrorCode, Limiter, RateLimitKey, Refusal, Signer, TokenRequest};
use crate::posture::{EventLogFile, ImaListFile, Posture, PostureState};
use crate::tpm::{self, Tpm};
pub use rejection::Rejection;

/// When to ask again for evidence, where others are being given theirs.
const EVIDENCE_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Why there is no answer of the wanted kind.
#[derive(Debug)]
pub enum RequestError {
    /// A refusal, written down.
    Denied(Recorded<Refusal>),
    /// Nothing could be written down, so nothing else may be said.
    AuditUnavailable(AuditUnavailable),
}

/// What a request comes to.
pub type RequestResult<T> = Result<Recorded<T>, RequestError>;

/// Who the caller is, in its own eyes and ours.
#[derive(Debug)]
pub struct WhoamiInfo {
    pub peer: Peer,
    pub agents: Vec<Arc<AgentEntry>>,
    /// Where this host has been named already.
    pub host: Option<HostIdentity>,
    pub posture: Posture,
}

/// Everything that the road passes. Cheap to clone.
#[derive(Clone)]
pub struct IdentityService {
    pub agents: AgentRegistry,
    /// What is known of other trust domains.
    pub federation: Federation,
    pub limiter: Arc<Limiter>,
    pub issuer: Issuer,
    pub audit: Audit,
    pub clock: Clock,
    /// Why the issuer may be waiting.
    pub tpm_state: watch::Receiver<tpm::TpmState>,
    /// What else keeps the issuer from standing, such as a torn file.
    pub blocked_reason: watch::Receiver<Option<String>>,
    /// The way to the TPM, for what it has to do itself.
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// The same for tokens, for which agents take turns.
    pub tpm_signer: TpmSigner,
    /// For proofs, which are large.
    pub evidence_slots: EvidenceSlots,
    pub event_log: EventLogFile,
    /// What an operator has certified.
    pub enrollment: Enrollment,
    pub ima_log: ImaListFile,
    pub posture: PostureState,
    /// Where certificates come from.
    pub certificate_issuer: CertificateIssuer,
}

/// What a request for a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateRequest {
    /// A PKCS#10 request, PEM or DER in base64; none has a key made.
    pub csr: Option<String>,
    /// Which agent the caller wants to be, where it is several.
    pub agent: Option<String>,
    pub ttl: Option<Duration>,
}

impl IdentityService {
    /// A token, or why not. `ask` is what the request's body came to.
    pub async fn issue_token(
        &self,
        lookup: PeerLookup,
        request: Result<TokenRequest, String>,
    ) -> RequestResult<AccessToken> {
        match self.decide_token(lookup, request).await {
            Ok(token) => self.audit.record_token(token).await.map_err(RequestError::AuditUnavailable),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// A certificate for the caller's own identity.
    pub async fn issue_certificate(
        &self,
        lookup: PeerLookup,
        request: Result<CertificateRequest, String>,
    ) -> RequestResult<IssuedX509Svid> {
        match self.decide_certificate(lookup, request).await {
            Ok(certificate) => self.record_certificate(certificate).await,
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// What a token is worth, for a registered agent.
    pub async fn introspect(
        &self,
        lookup: PeerLookup,
        request: Result<IntrospectionRequest, String>,
    ) -> RequestResult<Introspection> {
        let outcome = async {
            let peer = self.require_peer(lookup)?;
            // Whichever of its agents asks: the answer is the same.
            let agent = self.identify_any(&peer).await?;
            let request = request.map_err(|description| {
                Rejection::new(ErrorCode::InvalidRequest, description, &peer).with_agent(&agent)
            })?;
            let issuer_state =
                self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
            let introspection = issuer_state.introspect(&request, &self.agents.current(), self.clock.now());
            Ok((agent, introspection))
        };
        match outcome.await {
            Ok((agent, introspection)) => self
                .audit
                .record_introspection(&agent, introspection)
                .await
                .map_err(RequestError::AuditUnavailable),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// Evidence about the host for a verifier's nonce, for a registered agent.
    pub async fn attest(
        &self,
        lookup: PeerLookup,
        request: Result<AttestRequest, String>,
    ) -> RequestResult<EvidenceResponse> {
        let outcome = async {
            let peer = self.require_peer(lookup)?;
            let agent = self.identify_any(&peer).await?;
            let request = request.map_err(|description| {
                Rejection::new(ErrorCode::InvalidRequest, description, &peer).with_agent(&agent)
            })?;
            self.check_rate(RateLimitKey::TpmQuote(agent.name().clone()), Some(&peer))
                .map_err(|rejection| rejection.with_agent(&agent))?;
            let issuer_state =
                self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
            // Whoever stands has a handle.
            let tpm = self.tpm.borrow().clone().ok_or_else(|| {
                Rejection::new(ErrorCode::TemporarilyUnavailable, "the TPM is starting", &peer)
                    .with_agent(&agent)
            })?;
            let slot = self.evidence_slots.acquire().await.ok_or_else(|| {
                let description = "evidence is being made and taken for others; ask again later";
                let mut rejection =
                    Rejection::new(ErrorCode::TemporarilyUnavailable, description, &peer).with_agent(&agent);
                rejection.refusal.retry_after = Some(EVIDENCE_RETRY_DELAY);
                rejection
            })?;
            let logs = MeasurementLogs { boot: self.event_log.clone(), ima: Some(self.ima_log.clone()) };
            let certificate = self.enrollment.certificate();
            let evidence = issuer_state
                .attest(
                    &tpm,
                    logs,
                    Requester { agent, slot },
                    &request,
                    certificate.as_deref(),
                    self.clock.now(),
                )
                .await?;
            Ok((evidence, request.nonce))
        };
        match outcome.await {
            Ok((evidence, nonce)) => {
                self.audit.record_attestation(evidence, &nonce).await.map_err(RequestError::AuditUnavailable)
            }
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// Who is asking. Nothing is given away, so only refusals are written down.
    pub async fn whoami(&self, lookup: PeerLookup) -> Result<WhoamiInfo, RequestError> {
        let outcome = async {
            let peer = self.require_peer(lookup)?;
            let agent = self.identify_any(&peer).await?;
            let agents = self.agents.matching_entries(agent.peer(), self.posture.ima_digests()).await;
            let host = self.issuer.state().map(|issuer_state| issuer_state.host().clone());
            Ok(WhoamiInfo { peer, agents, host, posture: self.posture() })
        };
        match outcome.await {
            Ok(info) => Ok(info),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// The issuer's standing, or why there is none yet.
    pub fn issuer_state(&self) -> Result<Arc<IssuerState>, Rejection> {
        self.issuer.state().ok_or_else(|| Rejection {
            refusal: Refusal::new(ErrorCode::TemporarilyUnavailable, self.unavailable_reason()),
            log: true,
        })
    }

    /// What keeps the issuer waiting, with the mend.
    pub fn unavailable_reason(&self) -> String {
        if let Some(reason) = &*self.blocked_reason.borrow() {
            return reason.clone();
        }
        let state = self.tpm_state.borrow();
        match state.kind {
            tpm::StateKind::Ready => "the issuing key is being loaded; try again in a moment".into(),
            kind => format!("the TPM is {}: {}", *state, kind.remedy()),
        }
    }

    /// The host's posture as it is known now.
    pub fn posture(&self) -> Posture {
        self.posture.evaluate(BootTime::now()).posture
    }

    async fn decide_token(
        &self,
        lookup: PeerLookup,
        request: Result<TokenRequest, String>,
    ) -> Result<AccessToken, Rejection> {
        let peer = self.require_peer(lookup)?;
        let requested_agent = request.as_ref().ok().and_then(|request| request.agent.as_deref());
        let agent = match request {
            Ok(_) => self.identify(&peer, requested_agent).await?,
            Err(_) => self.identify_any(&peer).await?,
        };
        let request = request.map_err(|description| {
            Rejection::new(ErrorCode::InvalidRequest, description, &peer).with_agent(&agent)
        })?;
        let permit = policy::decide(agent.clone(), &self.posture.evaluate(BootTime::now()), request)?;
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
        if permit.signer() == Signer::Issuing {
            return Ok(issuer_state.mint_token(permit, self.clock.now())?);
        }
        self.check_rate(RateLimitKey::TpmSign(agent.name().clone()), Some(&peer))
            .map_err(|rejection| rejection.with_agent(&agent))?;
        Ok(self.tpm_signer.mint_token(&issuer_state, permit, &self.clock).await?)
    }

    async fn decide_certificate(
        &self,
        lookup: PeerLookup,
        request: Result<CertificateRequest, String>,
    ) -> Result<IssuedX509Svid, Rejection> {
        let peer = self.require_peer(lookup)?;
        let requested_agent = request.as_ref().ok().and_then(|request| request.agent.as_deref());
        let agent = match request {
            Ok(_) => self.identify(&peer, requested_agent).await?,
            Err(_) => self.identify_any(&peer).await?,
        };
        let invalid =
            |description| Rejection::new(ErrorCode::InvalidRequest, description, &peer).with_agent(&agent);
        let request = request.map_err(invalid)?;
        // Only now: a signature is not checked for strangers, nor beyond the agent's rate.
        let key = request.csr.as_deref().map(SubjectKey::from_csr).transpose();
        let key = key.map_err(|e| invalid(e.to_string()))?;
        let permit = policy::decide_identity(agent.clone(), &self.posture.evaluate(BootTime::now()))?;
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
        let params = CertificateParams { key, ttl: request.ttl };
        Ok(self.certificate_issuer.issue(permit, issuer_state.host(), params, self.clock.now())?)
    }
}

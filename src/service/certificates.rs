//! X.509 certificates: on request, and for streams of the Workload API.

use super::error::{InvalidRequest, RequestError, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use super::requests::{self, CheckedCertificateRequest};
use crate::agents::AuthenticatedAgent;
use crate::clock::Timestamp;
use crate::issue::HostIdentity;
use crate::peer::PeerLookup;
use crate::pki::{CertificateIssuer, CertificateParams, IssuedX509Svid, SubjectKey};
use crate::policy::{self, ErrorCode, IdentityPermit, Refusal};
use crate::wire::agent::CertificateRequest;

impl IdentityService {
    /// An X.509-SVID for the agent that the caller matches.
    ///
    /// # Errors
    /// A recorded refusal, also where `request` is an error; unregistered callers get `invalid_client`
    /// instead.
    pub async fn issue_certificate(
        &self,
        lookup: PeerLookup,
        request: Result<CertificateRequest<'_>, InvalidRequest>,
    ) -> RequestResult<IssuedX509Svid> {
        let decision = async {
            match self.decide_certificate(lookup, request.and_then(requests::certificate_request)).await {
                Ok(certificate) => self.record_certificate(certificate).await,
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::X509Svid, decision).await
    }

    /// An X.509-SVID with a key that the daemon generates, for an agent with an open stream. With
    /// `denial_logged`, a refusal is counted and not recorded, because the stream's previous refusal was.
    ///
    /// # Errors
    /// A refusal, also where the agent is no longer registered as it was when the stream identified it.
    pub async fn issue_x509_svid(
        &self,
        agent: &AuthenticatedAgent,
        denial_logged: bool,
    ) -> RequestResult<IssuedX509Svid> {
        let decision = async {
            self.deps.certificate_issuer.wait_until_usable(&self.deps.clock).await;
            let issue = || -> Result<IssuedX509Svid, Rejection> {
                let (permit, issuer_state) = self.permit_stream_identity(agent)?;
                let now = self.deps.clock.now();
                self.check_certificate_quota(&permit, issuer_state.host(), now)?;
                Ok(self.deps.certificate_issuer.issue_for_stream(permit, issuer_state.host(), now)?)
            };
            match issue() {
                Ok(certificate) => {
                    let recorded = self.record_certificate(certificate).await?;
                    self.deps.certificate_issuer.cache_for_sharing(recorded.get());
                    Ok(recorded)
                }
                Err(rejection) => Err(self.record_rejection(rejection.counted_if(denial_logged)).await),
            }
        };
        self.measured(RequestKind::X509Svid, decision).await
    }

    /// Records a signed certificate. If the record fails, the certificate is discarded and no longer counts
    /// as issued.
    async fn record_certificate(&self, certificate: IssuedX509Svid) -> RequestResult<IssuedX509Svid> {
        self.watch_invocation(certificate.permit().agent(), certificate.expires());
        let leaf = CertificateIssuer::record_of(&certificate);
        self.audit.record_certificate(certificate).await.map_err(|unavailable| {
            leaf.into_iter().for_each(|leaf| self.deps.certificate_issuer.forget(leaf));
            RequestError::AuditUnavailable(unavailable)
        })
    }

    /// Refuses a certificate beyond the quota of the agent's tenant.
    fn check_certificate_quota(
        &self,
        permit: &IdentityPermit,
        host: &HostIdentity,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let tenant = permit.agent().entry().tenant.as_deref();
        match self.deps.limiter.tenants().of(tenant).certificates {
            Some(quota) => self.deps.certificate_issuer.check_tenant_quota(permit, host, quota, now),
            None => Ok(()),
        }
    }

    async fn decide_certificate(
        &self,
        lookup: PeerLookup,
        request: Result<CheckedCertificateRequest<'_>, InvalidRequest>,
    ) -> Result<IssuedX509Svid, Rejection> {
        let peer = self.require_peer(lookup)?;
        let (agent, request) = self.identify_for(&peer, request, |request| request.agent.as_deref()).await?;
        let invalid =
            |description| Rejection::new(ErrorCode::InvalidRequest, description, &peer).with_agent(&agent);
        self.deps.certificate_issuer.wait_until_usable(&self.deps.clock).await;
        let permit = policy::decide_identity(agent.clone(), &self.circumstances())?;
        self.require_clock()
            .map_err(|refusal| Rejection::from(refusal).with_peer(&peer).with_agent(&agent))?;
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
        // A reload may have taken place while the request waited for the CA.
        self.ensure_current(&agent)?;
        let now = self.deps.clock.now();
        self.check_certificate_quota(&permit, issuer_state.host(), now)?;
        // The CSR's signature is verified only here: for registered agents within their rate and quota.
        if request.csr.is_some() {
            self.deps.certificate_issuer.check_quota(&permit, issuer_state.host(), now)?;
        }
        let key = request.csr.as_deref().map(SubjectKey::from_csr).transpose();
        let key = key.map_err(|e| invalid(e.to_string()))?;
        let params = CertificateParams { key, ttl: request.ttl };
        Ok(self.deps.certificate_issuer.issue(permit, issuer_state.host(), params, now)?)
    }
}

//! What SPIFFE's Workload API asks: tokens for audiences, and credentials that show who an agent is.

use super::{IdentityService, Rejection, RequestError, RequestResult};
use crate::agents::AuthenticatedAgent;
use crate::clock::BootTime;
use crate::issue::{Introspection, JwtSvid, ValidationRequest, WitSvid};
use crate::peer::PeerLookup;
use crate::pki::{CertificateIssuer, IssuedX509Svid};
use crate::policy::{self, ErrorCode, IdentityPermit, JwtSvidRequest, Refusal};

impl IdentityService {
    /// SPIFFE tokens of all the caller's identities that are granted the audiences, or why there are none.
    pub async fn issue_jwt_svids(
        &self,
        lookup: PeerLookup,
        request: Result<JwtSvidRequest, String>,
    ) -> RequestResult<Vec<JwtSvid>> {
        match self.decide_jwt_svids(lookup, request).await {
            Ok(svids) => self.audit.record_jwt_svids(svids).await.map_err(RequestError::AuditUnavailable),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// Whether a SPIFFE token holds, for a registered agent.
    pub async fn validate_jwt_svid(
        &self,
        lookup: PeerLookup,
        request: Result<ValidationRequest, String>,
    ) -> RequestResult<Introspection> {
        let outcome = async {
            let peer = self.require_peer(lookup)?;
            let agent = self.identify_any(&peer).await?;
            let request = request.map_err(|description| {
                Rejection::new(ErrorCode::InvalidRequest, description, &peer).with_agent(&agent)
            })?;
            let issuer_state =
                self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
            let bundles = self.federation.bundles();
            let federated_keys = |domain: &str| bundles.get(domain).map(|bundle| &bundle.jwt_authorities);
            let introspection = issuer_state.validate_jwt_svid(
                &request,
                &self.agents.current(),
                federated_keys,
                self.clock.now(),
            );
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

    /// Every agent that the caller is, the default one first: who may follow a stream.
    pub async fn authenticate_agents(
        &self,
        lookup: PeerLookup,
    ) -> Result<Vec<AuthenticatedAgent>, RequestError> {
        let outcome = async {
            let peer = self.require_peer(lookup)?;
            self.identify_all(&peer).await
        };
        match outcome.await {
            Ok(agents) => Ok(agents),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// Whether an agent that follows a stream may show who it is, as the host is now.
    pub fn posture_allows_identity(&self, agent: &AuthenticatedAgent) -> bool {
        self.permit_identity(agent).is_ok()
    }

    /// An X509-SVID with a key that was made for it, for an agent that follows a stream. With `told` a refusal has its line already.
    pub async fn issue_x509_svid(
        &self,
        agent: &AuthenticatedAgent,
        denial_logged: bool,
    ) -> RequestResult<IssuedX509Svid> {
        let issue = || {
            self.ensure_current(agent)?;
            let permit = self.permit_identity(agent)?;
            let issuer_state = self
                .issuer_state()
                .map_err(|rejection| rejection.with_peer(agent.peer()).with_agent(agent))?;
            Ok(self.certificate_issuer.issue_for_stream(permit, issuer_state.host(), self.clock.now())?)
        };
        match issue() {
            Ok(certificate) => {
                let recorded = self.record_certificate(certificate).await?;
                self.certificate_issuer.cache_for_sharing(recorded.get());
                Ok(recorded)
            }
            Err(rejection) => {
                Err(self.record_rejection(Rejection { log: !denial_logged, ..rejection }).await)
            }
        }
    }

    /// Writes down what was signed. What cannot be is nobody's, and forgotten.
    pub(super) async fn record_certificate(
        &self,
        certificate: IssuedX509Svid,
    ) -> RequestResult<IssuedX509Svid> {
        let record = CertificateIssuer::record_of(&certificate);
        self.audit.record_certificate(certificate).await.map_err(|unavailable| {
            record.into_iter().for_each(|record| self.certificate_issuer.forget(record));
            RequestError::AuditUnavailable(unavailable)
        })
    }

    /// A WIT-SVID with its key, for an agent that follows a stream. `told` as above.
    pub async fn issue_wit_svid(
        &self,
        agent: &AuthenticatedAgent,
        denial_logged: bool,
    ) -> RequestResult<WitSvid> {
        let issue = || {
            self.ensure_current(agent)?;
            let permit = self.permit_identity(agent)?;
            let issuer_state = self
                .issuer_state()
                .map_err(|rejection| rejection.with_peer(agent.peer()).with_agent(agent))?;
            Ok(issuer_state.mint_wit_svid(permit, self.certificate_issuer.ttl(), self.clock.now())?)
        };
        match issue() {
            Ok(svid) => self.audit.record_wit_svid(svid).await.map_err(RequestError::AuditUnavailable),
            Err(rejection) => {
                Err(self.record_rejection(Rejection { log: !denial_logged, ..rejection }).await)
            }
        }
    }

    /// Who follows a stream was looked at a while ago, or is being looked at: nothing new for who is another since.
    fn ensure_current(&self, agent: &AuthenticatedAgent) -> Result<(), Rejection> {
        if self.agents.is_current(agent) {
            return Ok(());
        }
        let description = "the agents were changed; who asks is looked at anew";
        Err(Rejection::new(ErrorCode::TemporarilyUnavailable, description, agent.peer()).with_agent(agent))
    }

    fn permit_identity(&self, agent: &AuthenticatedAgent) -> Result<IdentityPermit, Rejection> {
        Ok(policy::decide_identity(agent.clone(), &self.posture.evaluate(BootTime::now()))?)
    }

    async fn decide_jwt_svids(
        &self,
        lookup: PeerLookup,
        request: Result<JwtSvidRequest, String>,
    ) -> Result<Vec<JwtSvid>, Rejection> {
        let peer = self.require_peer(lookup)?;
        let agents = self.identify_all(&peer).await?;
        let request =
            request.map_err(|description| Rejection::new(ErrorCode::InvalidRequest, description, &peer))?;
        let issuer_state = self.issuer_state().map_err(|rejection| rejection.with_peer(&peer))?;
        let posture = self.posture.evaluate(BootTime::now());
        let (mut svids, mut first_refusal) = (Vec::new(), None);
        for agent in agents {
            let spiffe_id = issuer_state.host().spiffe_id(agent.entry());
            if request.spiffe_id.as_ref().is_some_and(|requested| *requested != spiffe_id) {
                continue;
            }
            match policy::decide_jwt_svid(agent, &posture, &request.audiences) {
                Ok(permit) => svids.push(issuer_state.mint_jwt_svid(permit, self.clock.now())?),
                Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
            }
        }
        if !svids.is_empty() {
            return Ok(svids);
        }
        let no_match = || {
            Refusal::new(ErrorCode::InvalidClient, "this process is not of that SPIFFE ID").with_peer(&peer)
        };
        Err(first_refusal.unwrap_or_else(no_match).into())
    }
}

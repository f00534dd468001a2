//! Access tokens, introspection and JWT-SVIDs.

use super::approvals::rejection_of;
use super::error::{InvalidRequest, RequestResult};
use super::identity_service::IdentityService;
use super::presented_proof::Presented;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use super::requests::{self, CheckedTokenRequest, JwtSvidParams};
use crate::agents::{AuthenticatedAgent, Registrations};
use crate::clock::Timestamp;
use crate::issue::{AccessToken, Introspection, IssuerState, JwtSvid, Undecided, ValidNow};
use crate::peer::{Peer, PeerLookup};
use crate::policy::{self, ErrorCode, JwtSvidRequest, RateLimitKey, Refusal, Signer};
use crate::wire::agent::{IntrospectionRequest, TokenRequest};

impl IdentityService {
    /// An access token for one audience (RFC 9068), for the agent that the caller matches.
    ///
    /// # Errors
    /// A recorded refusal, also where `request` is an error; unregistered callers get `invalid_client`
    /// instead.
    pub async fn issue_token(
        &self,
        lookup: PeerLookup,
        request: Result<TokenRequest<'_>, InvalidRequest>,
    ) -> RequestResult<AccessToken> {
        let decision = async {
            match self.decide_token(lookup, request.and_then(requests::token_request)).await {
                Ok(token) => {
                    self.watch_invocation(token.permit().agent(), token.expires());
                    Ok(self.audit.record_token(token).await?)
                }
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::AccessToken, decision).await
    }

    /// Whether a token of this host is valid now (RFC 7662), for any registered agent.
    ///
    /// # Errors
    /// A recorded refusal, also where `request` is an error.
    pub async fn introspect(
        &self,
        lookup: PeerLookup,
        request: Result<IntrospectionRequest, InvalidRequest>,
    ) -> RequestResult<Introspection> {
        let decision = async {
            let peer = self.require_peer(lookup)?;
            let mut others = self.matching_agents(&peer).await?;
            let agent = others.remove(0);
            self.check_agent_rate(&agent)?;
            let mut request = request.map_err(|e| invalid(e, &peer).with_agent(&agent))?;
            let presented = Presented::of(&mut request).map_err(|e| invalid(e, &peer).with_agent(&agent))?;
            let issuer_state =
                self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
            let once = request.once;
            let request = requests::introspection_request(request);
            let inspect = |tenant: Option<&str>| {
                let registrations = self.deps.agents.registrations();
                let valid = self.valid_now(&registrations);
                let now = self.deps.clock.now();
                match presented.as_ref().is_some_and(Presented::is_of_wit) {
                    true => issuer_state.introspect_wit(
                        &request.token,
                        request.audience.as_deref(),
                        tenant,
                        valid,
                        now,
                    ),
                    false => issuer_state.introspect(&request, tenant, valid, now),
                }
            };
            let refuse = |e: Undecided| undecided(&e, &peer).with_agent(&agent);
            let (of, introspection) = for_each_tenant(agent.clone(), others, inspect).map_err(refuse)?;
            let introspection = match &presented {
                None => introspection,
                Some(presented) => {
                    let tenant = of.entry().tenant.as_deref();
                    self.check_presented(&issuer_state, tenant, &request.token, presented, introspection)
                        .map_err(refuse)?
                }
            };
            if !once || !introspection.active {
                return Ok((of, introspection));
            }
            let used = self.use_up(&of, introspection).await?;
            if !used.active {
                return Ok((of, used));
            }
            // The token may have been revoked while the disk stored its use.
            let introspection = inspect(of.entry().tenant.as_deref()).map_err(refuse)?;
            Ok((of, Introspection { is_used_up: true, ..introspection }))
        };
        let recorded = async { self.record_introspection(decision.await).await };
        self.measured(RequestKind::Introspection, recorded).await
    }

    /// JWT-SVIDs of the caller's agents that are granted all the audiences, at least one.
    ///
    /// # Errors
    /// A recorded refusal; where several agents are refused, that of the first by name.
    pub async fn issue_jwt_svids(
        &self,
        lookup: PeerLookup,
        params: JwtSvidParams,
    ) -> RequestResult<Vec<JwtSvid>> {
        let decision = async {
            match self.decide_jwt_svids(lookup, requests::jwt_svid_request(params)).await {
                Ok(svids) => {
                    for svid in &svids {
                        self.watch_invocation(svid.permit().agent(), svid.expires());
                    }
                    Ok(self.audit.record_jwt_svids(svids).await?)
                }
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::JwtSvid, decision).await
    }

    /// Whether a JWT-SVID of this trust domain or of a federated one is valid for `audience`, for any
    /// registered agent.
    ///
    /// # Errors
    /// A recorded refusal, also where a parameter is empty.
    pub async fn validate_jwt_svid(
        &self,
        lookup: PeerLookup,
        svid: String,
        audience: String,
    ) -> RequestResult<Introspection> {
        let decision = async {
            let peer = self.require_peer(lookup)?;
            let mut others = self.matching_agents(&peer).await?;
            let agent = others.remove(0);
            self.check_agent_rate(&agent)?;
            let request = requests::validation_request(svid, audience)
                .map_err(|e| invalid(e, &peer).with_agent(&agent))?;
            let issuer_state =
                self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
            let bundles = self.deps.federation.bundles();
            let federated_keys = |domain: &str| bundles.get(domain).map(|bundle| &bundle.jwt_authorities);
            let registrations = self.deps.agents.registrations();
            let valid = self.valid_now(&registrations);
            for_each_tenant(agent.clone(), others, |tenant| {
                let now = self.deps.clock.now();
                issuer_state.validate_jwt_svid(&request, tenant, valid, federated_keys, now)
            })
            .map_err(|e| undecided(&e, &peer).with_agent(&agent))
        };
        let recorded = async { self.record_introspection(decision.await).await };
        self.measured(RequestKind::JwtSvidValidation, recorded).await
    }

    /// The same token, which is inactive unless what was presented with it is what it is bound to.
    fn check_presented(
        &self,
        issuer_state: &IssuerState,
        tenant: Option<&str>,
        token: &str,
        presented: &Presented,
        introspection: Introspection,
    ) -> Result<Introspection, Undecided> {
        let Some(claims) = &introspection.claims else { return Ok(introspection) };
        let now = self.deps.clock.now();
        let identity = match presented.wit() {
            None => None,
            Some(wit) => {
                let registrations = self.deps.agents.registrations();
                let valid = self.valid_now(&registrations);
                let identity = issuer_state.introspect_wit(wit, None, tenant, valid, now)?;
                if let Some(reason) = identity.inactive_reason {
                    return Ok(introspection.with_reason(&format!("the WIT: {reason}")));
                }
                identity.claims
            }
        };
        Ok(match presented.check(token, claims, identity.as_ref(), &self.proof_replays, now) {
            Ok(()) => introspection,
            Err(reason) => introspection.with_reason(&reason),
        })
    }

    /// Has the end of the invocation noticed in which something was issued. Call it after the issue and before the
    /// answer: what ended meanwhile is noticed too.
    pub(super) fn watch_invocation(&self, agent: &AuthenticatedAgent, expires: Timestamp) {
        self.deps.invocations.issued(agent.peer(), agent.name(), expires);
    }

    fn valid_now<'a>(&'a self, registrations: &'a Registrations) -> ValidNow<'a> {
        ValidNow { registrations, revocations: &self.deps.revocations, invocations: &self.deps.invocations }
    }

    async fn record_introspection(
        &self,
        decision: Result<(AuthenticatedAgent, Introspection), Rejection>,
    ) -> RequestResult<Introspection> {
        match decision {
            Ok((agent, introspection)) => Ok(self.audit.record_introspection(&agent, introspection).await?),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    async fn decide_token(
        &self,
        lookup: PeerLookup,
        request: Result<CheckedTokenRequest<'_>, InvalidRequest>,
    ) -> Result<AccessToken, Rejection> {
        let peer = self.require_peer(lookup)?;
        let (agent, checked) =
            self.identify_for(&peer, request, |checked| checked.request.agent.as_deref()).await?;
        let CheckedTokenRequest { request, certificate } = checked;
        self.wait_for_signer(std::slice::from_ref(&agent)).await?;
        if agent.entry().grant(&request.audience).is_some_and(|grant| grant.approval.is_some()) {
            self.prepare_approval(&agent)
                .await
                .map_err(|rejection| rejection.with_audience(&request.audience))?;
        }
        let permit = policy::decide(agent, &self.circumstances(), request).map_err(rejection_of)?;
        let agent = permit.agent();
        self.require_clock()
            .map_err(|refusal| Rejection::from(refusal).with_peer(&peer).with_agent(agent))?;
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(agent))?;
        self.check_live_tokens(agent, permit.ttl())?;
        let permit = self.bind(permit, certificate.as_deref(), issuer_state.host())?;
        let agent = permit.agent();
        if permit.signer() == Signer::Issuing {
            return Ok(issuer_state.mint_token(permit, &self.deps.status_lists, self.deps.clock.now())?);
        }
        let (agent, audience, policies) = (agent.clone(), permit.audience().to_owned(), permit.policy());
        self.check_rate(RateLimitKey::TpmSign(agent.root_name().clone()), Some(&peer))
            .map_err(|rejection| rejection.with_agent(&agent))?;
        // Boxed, because tokens that are signed in memory do not need the room for it.
        let token =
            Box::pin(self.deps.tpm_signer.mint_token(&issuer_state, permit, &self.deps.clock)).await?;
        // A reload or a revocation may have taken place while the token waited for the TPM.
        self.ensure_current(&agent)
            .and_then(|()| self.ensure_policies(policies, &agent))
            .and_then(|()| self.ensure_not_revoked(&agent))
            .map_err(|rejection| rejection.with_audience(&audience))?;
        Ok(token)
    }

    async fn decide_jwt_svids(
        &self,
        lookup: PeerLookup,
        request: Result<JwtSvidRequest, InvalidRequest>,
    ) -> Result<Vec<JwtSvid>, Rejection> {
        let peer = self.require_peer(lookup)?;
        let agents = self.identify_all(&peer).await?;
        let request = request.map_err(|e| invalid(e, &peer))?;
        self.wait_for_signer(&agents).await?;
        self.require_clock().map_err(|refusal| Rejection::from(refusal).with_peer(&peer))?;
        let issuer_state = self.issuer_state().map_err(|rejection| rejection.with_peer(&peer))?;
        let circumstances = self.circumstances();
        let (mut svids, mut first_refusal) = (Vec::new(), None);
        for agent in agents {
            let spiffe_id = issuer_state.host().spiffe_id(agent.entry());
            if request.spiffe_id.as_ref().is_some_and(|requested| *requested != spiffe_id) {
                continue;
            }
            match policy::decide_jwt_svid(agent, &circumstances, &request.audiences) {
                Ok(permit) => match self.check_live_tokens(permit.agent(), permit.ttl()) {
                    Ok(()) => {
                        let (statuses, now) = (&self.deps.status_lists, self.deps.clock.now());
                        svids.push(issuer_state.mint_jwt_svid(permit, statuses, now)?);
                    }
                    Err(rejection) => first_refusal = first_refusal.or(Some(rejection.refusal)),
                },
                Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
            }
        }
        if !svids.is_empty() {
            return Ok(svids);
        }
        let no_match = || {
            let description = "this process does not have the requested SPIFFE ID";
            Refusal::new(ErrorCode::InvalidClient, description).with_peer(&peer)
        };
        Err(first_refusal.unwrap_or_else(no_match).into())
    }
}

/// What the first of these agents learns that learns something: an agent learns nothing about tokens of
/// another tenant. Otherwise what `first` learns. Almost every process is one agent.
fn for_each_tenant(
    first: AuthenticatedAgent,
    others: Vec<AuthenticatedAgent>,
    inspect: impl Fn(Option<&str>) -> Result<Introspection, Undecided>,
) -> Result<(AuthenticatedAgent, Introspection), Undecided> {
    let introspection = inspect(first.entry().tenant.as_deref())?;
    if introspection.active {
        return Ok((first, introspection));
    }
    let mut tenants = vec![first.entry().tenant.clone()];
    for agent in others {
        let tenant = agent.entry().tenant.clone();
        if tenants.contains(&tenant) {
            continue;
        }
        let introspection = inspect(tenant.as_deref())?;
        if introspection.active {
            return Ok((agent, introspection));
        }
        tenants.push(tenant);
    }
    Ok((first, introspection))
}

fn invalid(error: InvalidRequest, peer: &Peer) -> Rejection {
    Rejection::new(ErrorCode::InvalidRequest, error.to_string(), peer)
}

fn undecided(error: &Undecided, peer: &Peer) -> Rejection {
    Rejection::new(ErrorCode::TemporarilyUnavailable, error.to_string(), peer)
}

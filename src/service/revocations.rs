//! Revocation: of an agent's own tokens, and the commands of administrators.

use tokio::sync::watch;

use super::admin::{Admin, RootAdmin};
use super::command_budget::StateCommand;
use super::error::{AdminError, InvalidRequest, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use crate::agents::{AgentName, AuthenticatedAgent, is_tenant_name};
use crate::audit::Event;
use crate::clock::BACKDATE;
use crate::issue::OwnToken;
use crate::peer::PeerLookup;
use crate::policy::{ErrorCode, Refusal};
use crate::revocation::{self, MAX_REASON, NewRevocation, Outcome, Target, TargetKind};
use crate::wire::revocation::{
    FreezeRequest, MAX_LISTED_REVOCATIONS, Revocation, RevocationsResponse, RevokeOutcome, RevokeOwnRequest,
    RevokeRequest, RevokeResponse,
};

/// Longest `jti` and owner of a request in bytes.
const MAX_VALUE: usize = 512;

/// The revocation of a token by the agent that it was issued to.
struct RevokedToken {
    agent: AuthenticatedAgent,
    jti: Option<String>,
    detail: String,
}

/// What a request of an administrator names.
enum Named {
    Token { jti: String, expires: crate::clock::Timestamp, is_expired: bool, token: Option<Box<OwnToken>> },
    Target(Target),
}

impl IdentityService {
    /// Revokes a token that was issued to the caller (RFC 7009). A text that is no valid token of this host is
    /// no error.
    ///
    /// # Errors
    /// A recorded refusal: `access_denied` for a token of another agent, `temporarily_unavailable` where the
    /// revocation cannot be stored.
    pub async fn revoke_own_token(
        &self,
        lookup: PeerLookup,
        request: Result<RevokeOwnRequest, InvalidRequest>,
    ) -> RequestResult<()> {
        let decision = async {
            match self.decide_revocation(lookup, request).await {
                Ok(revoked) => {
                    let RevokedToken { agent, jti, detail } = revoked;
                    Ok(self.audit.record_token_revocation(&agent, jti.as_deref(), &detail).await?)
                }
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::TokenRevocation, decision).await
    }

    async fn decide_revocation(
        &self,
        lookup: PeerLookup,
        request: Result<RevokeOwnRequest, InvalidRequest>,
    ) -> Result<RevokedToken, Rejection> {
        let peer = self.require_peer(lookup)?;
        let agents = self.matching_agents(&peer).await?;
        let caller = agents[0].clone();
        self.check_agent_rate(&caller)?;
        let refuse = |code, text: String, agent: &_| Rejection::new(code, text, &peer).with_agent(agent);
        let request = request.map_err(|e| refuse(ErrorCode::InvalidRequest, e.to_string(), &caller))?;
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&caller))?;
        let token = match issuer_state.own_token(&request.token) {
            Ok(token) => token,
            Err(e) => return Ok(RevokedToken { agent: caller, jti: None, detail: format!("no token: {e}") }),
        };
        let owner = agents
            .into_iter()
            .find(|agent| issuer_state.host().spiffe_id(agent.entry()) == token.spiffe_id());
        let Some(agent) = owner else {
            let text = "this token was issued to another agent".to_owned();
            return Err(refuse(ErrorCode::AccessDenied, text, &caller));
        };
        let jti = Some(token.jti().to_owned());
        if token.expires() <= self.deps.clock.now() {
            return Ok(RevokedToken { agent, jti, detail: "the token has expired".to_owned() });
        }
        if self.deps.revocations.is_token_revoked(token.jti()) {
            return Ok(RevokedToken { agent, jti, detail: "the token was revoked before".to_owned() });
        }
        self.take_mark(&agent, token.expires())?;
        match self.deps.revocations.revoke_token(token.jti(), token.expires()).await {
            Ok(_) => {
                self.note_revoked(&token);
                Ok(RevokedToken { agent, jti, detail: "the token is revoked".to_owned() })
            }
            Err(e) => {
                let mut rejection = refuse(unavailable(&e), e.to_string(), &agent);
                rejection.refusal.is_imposed = true;
                Err(rejection)
            }
        }
    }

    /// Revokes what `request` names. It is in effect and on disk when this returns.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`], [`AdminError::UnknownAgent`], [`AdminError::Revocation`],
    /// [`AdminError::AuditUnavailable`], [`AdminError::BudgetExceeded`].
    pub async fn revoke(&self, admin: &Admin, request: RevokeRequest) -> Result<RevokeResponse, AdminError> {
        let reason = checked_reason(request.reason.clone())?;
        let target = match self.target(request)? {
            Named::Target(target) => target,
            Named::Token { jti, is_expired: true, .. } => {
                return Ok(response("token", &jti, RevokeOutcome::Expired));
            }
            Named::Token { jti, expires, token, .. } => {
                let outcome = self.deps.revocations.revoke_token(&jti, expires).await?;
                if let Some(token) = token.filter(|_| outcome == Outcome::Revoked) {
                    self.note_revoked(&token);
                }
                let done = format!("{} revoked the token {jti}{}", admin.id(), because(&reason));
                self.audit.record_token_event(Event::TokenRevoked, &jti, &done).await?;
                return Ok(response("token", &jti, outcome.into()));
            }
        };
        self.revoke_target(admin, target, reason).await
    }

    /// Revokes everything, and issues nothing until [`IdentityService::thaw`].
    ///
    /// # Errors
    /// As [`IdentityService::revoke`].
    pub async fn freeze(&self, admin: &Admin, request: FreezeRequest) -> Result<RevokeResponse, AdminError> {
        let reason = checked_reason(request.reason)?;
        self.revoke_target(admin, Target::everything(), reason).await
    }

    pub(super) async fn revoke_target(
        &self,
        admin: &Admin,
        target: Target,
        reason: String,
    ) -> Result<RevokeResponse, AdminError> {
        let revoked = async {
            let new = NewRevocation {
                target: target.clone(),
                is_blocking: true,
                revoked_by: admin.id(),
                reason: reason.clone(),
            };
            let revoked = self.deps.revocations.revoke(new).await;
            // Here too, so that it is in effect when the administrator reads the answer.
            self.deps.issuer.apply_revocations(&self.deps.revocations.current());
            // What is in effect and not on disk yet ends the rest too.
            if matches!(revoked, Ok(_) | Err(revocation::Error::NotStored(_))) {
                self.end_with_revoked(&target).await;
            }
            let outcome = revoked?;
            if outcome == Outcome::Revoked {
                let (event, what) = match target.kind() {
                    TargetKind::Everything => (Event::HostFrozen, "froze this host".to_owned()),
                    _ => (Event::RevocationAdded, format!("revoked {target}")),
                };
                let done = format!("{} {what}{}", admin.id(), because(&reason));
                self.record_revocation(event, self.tenant_of(&target).as_deref(), &done).await?;
            }
            Ok(response(target.kind().name(), target.value(), outcome.into()))
        };
        let changed = |response: &RevokeResponse| response.outcome == RevokeOutcome::Revoked;
        self.within_budget_if(admin, StateCommand::Revoke, revoked, changed).await
    }

    /// Ends the proof keys and the sub-agents that a revoked agent or invocation has, on disk too.
    async fn end_with_revoked(&self, target: &Target) {
        match target.kind() {
            TargetKind::Agent => {
                self.deps.proof_keys.end_agent(target.value());
                self.deps.delegations.end_agents(target.value(), "it or an agent above it was revoked");
            }
            TargetKind::Invocation => {
                self.deps.proof_keys.end_invocation(target.value());
                self.deps.delegations.end_invocation(target.value(), "its invocation was revoked");
            }
            _ => return,
        }
        // Before the administrator is answered, so that they are not back after a crash.
        self.deps.delegations.store().await;
    }

    /// Lifts the revocation of an agent, invocation, owner or tenant: what was issued before stays revoked.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`], [`AdminError::Revocation`], [`AdminError::AuditUnavailable`],
    /// [`AdminError::BudgetExceeded`].
    pub async fn lift_revocation(
        &self,
        admin: &RootAdmin,
        request: RevokeRequest,
    ) -> Result<RevokeResponse, AdminError> {
        // A name that no file has any more can be lifted too.
        match self.target(RevokeRequest { unregistered: true, ..request })? {
            Named::Target(target) if target.kind() != TargetKind::Key => self.lift(admin, target).await,
            _ => Err(InvalidRequest::new("a token or a key stays revoked; it cannot be lifted").into()),
        }
    }

    /// Lifts the revocation of everything.
    ///
    /// # Errors
    /// As [`IdentityService::lift_revocation`].
    pub async fn thaw(&self, admin: &RootAdmin) -> Result<RevokeResponse, AdminError> {
        self.lift(admin, Target::everything()).await
    }

    async fn lift(&self, admin: &RootAdmin, target: Target) -> Result<RevokeResponse, AdminError> {
        let lifted = async {
            self.audit.ensure_writable()?;
            self.forget_revoked_approvals();
            self.deps.revocations.lift(&target).await?;
            if target.kind() == TargetKind::Agent {
                self.deps.anomalies.resume(target.value());
            }
            let (event, what) = match target.kind() {
                TargetKind::Everything => (Event::HostThawed, "thawed this host".to_owned()),
                _ => (Event::RevocationLifted, format!("lifted the revocation of {target}")),
            };
            let done = format!("{} {what}; what was issued before stays revoked", admin.id());
            self.record_revocation(event, self.tenant_of(&target).as_deref(), &done).await?;
            Ok(response(target.kind().name(), target.value(), RevokeOutcome::Lifted))
        };
        self.within_budget(admin, StateCommand::Revoke, lifted).await
    }

    /// Accepts `revocations.db` as it is: everything that was issued is revoked, and nothing is issued until
    /// [`IdentityService::thaw`].
    ///
    /// # Errors
    /// [`AdminError::Revocation`], [`AdminError::AuditUnavailable`].
    pub async fn accept_revocations(&self, admin: &RootAdmin) -> Result<RevokeResponse, AdminError> {
        self.audit.ensure_writable()?;
        self.deps.revocations.accept(&admin.id()).await?;
        let done = format!("{} accepted revocations.db; this host is frozen", admin.id());
        self.record_revocation(Event::HostFrozen, None, &done).await?;
        Ok(response(TargetKind::Everything.name(), "", RevokeOutcome::Revoked))
    }

    /// The token does not count as live any more.
    fn note_revoked(&self, token: &OwnToken) {
        let invocation = token.host_claim("invocation");
        self.audit.activity().note_revoked_token(token.agent(), invocation, token.expires());
    }

    /// What is revoked now.
    pub fn revocations(&self, _: &Admin) -> RevocationsResponse {
        let set = self.deps.revocations.current();
        let mut revocations: Vec<_> = set.iter().collect();
        revocations.sort_by_key(|one| (!one.is_blocking, std::cmp::Reverse(one.epoch)));
        let (tokens, used_tokens) = self.deps.revocations.token_counts();
        RevocationsResponse {
            frozen: set.freeze().is_some(),
            revocations: revocations.into_iter().take(MAX_LISTED_REVOCATIONS).map(Revocation::from).collect(),
            count: set.len(),
            tokens,
            used_tokens,
        }
    }

    /// Changes with each revocation.
    pub fn subscribe_revocations(&self) -> watch::Receiver<u64> {
        self.deps.revocations.subscribe()
    }

    /// Refuses what depends on the revocations while they are not known.
    pub(super) fn require_revocations(&self) -> Result<(), Refusal> {
        if self.deps.revocations.is_open() {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::TemporarilyUnavailable, self.why_revocations_are_unknown()))
    }

    /// The reason, with the remedy: mostly that of the issuer, which opens the keystore.
    pub(super) fn why_revocations_are_unknown(&self) -> String {
        let reason = self.deps.revocations.blocked_reason().borrow().clone();
        match reason.filter(|_| self.deps.issuer.state().is_some()) {
            Some(reason) => format!("the revocations of this host are not available: {reason}"),
            None => self.unavailable_reason(),
        }
    }

    /// A token of this host that a text is.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`] for any other text, [`AdminError::NotReady`].
    pub(super) fn own_token(&self, text: &str) -> Result<OwnToken, AdminError> {
        let issuer_state = self.ready_issuer()?;
        issuer_state
            .own_token(text.trim_ascii())
            .map_err(|e| InvalidRequest::new(format!("this is not a token of this host: {e}")).into())
    }

    fn target(&self, request: RevokeRequest) -> Result<Named, AdminError> {
        let RevokeRequest { token, jti, agent, invocation, owner, tenant, key, unregistered, .. } = request;
        let named = [&token, &jti, &agent, &invocation, &owner, &tenant, &key];
        if named.iter().filter(|member| member.is_some()).count() != 1 {
            let expected =
                "name exactly one of token, jti, agent, invocation, owner, tenant and key in the request";
            return Err(InvalidRequest::new(expected).into());
        }
        let now = self.deps.clock.now();
        if let Some(text) = token {
            let token = self.own_token(&text)?;
            let (expires, jti) = (token.expires(), token.jti().to_owned());
            let (is_expired, token) = (expires <= now, Some(Box::new(token)));
            return Ok(Named::Token { jti, expires, is_expired, token });
        }
        if let Some(jti) = jti {
            let jti = checked("jti", jti)?;
            // When it expires is not known. No token lives longer.
            let expires = now.after(crate::agents::MAX_TOKEN_TTL).after(BACKDATE);
            return Ok(Named::Token { jti, expires, is_expired: false, token: None });
        }
        let registrations = self.deps.agents.registrations();
        let agents = &registrations.agents;
        if let Some(name) = agent {
            if AgentName::parse_any(&name).is_err() {
                return Err(InvalidRequest::new("agent must be an agent's name").into());
            }
            if !unregistered && registrations.find(&name).is_none() {
                return Err(AdminError::UnknownAgent);
            }
            return Ok(Named::Target(Target::new(TargetKind::Agent, &name)));
        }
        if let Some(id) = invocation {
            let id = id.to_ascii_lowercase();
            if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(InvalidRequest::new("invocation must have 32 hexadecimal digits").into());
            }
            return Ok(Named::Target(Target::new(TargetKind::Invocation, &id)));
        }
        if let Some(owner) = owner {
            let owner = checked("owner", owner)?;
            if !unregistered && !agents.iter().any(|entry| entry.owner.as_ref() == Some(&owner)) {
                return Err(InvalidRequest::new("no agent has this owner").into());
            }
            return Ok(Named::Target(Target::new(TargetKind::Owner, &owner)));
        }
        if let Some(tenant) = tenant {
            if !is_tenant_name(&tenant) {
                return Err(InvalidRequest::new("tenant must be a tenant's name").into());
            }
            if !unregistered && !agents.iter().any(|entry| entry.tenant.as_ref() == Some(&tenant)) {
                return Err(InvalidRequest::new("no agent is of this tenant").into());
            }
            return Ok(Named::Target(Target::new(TargetKind::Tenant, &tenant)));
        }
        let kid = checked("key", key.unwrap_or_default())?;
        Ok(Named::Target(self.revocable_key(&kid)?))
    }

    /// The tenant that a record about the target is for.
    fn tenant_of(&self, target: &Target) -> Option<String> {
        match target.kind() {
            TargetKind::Tenant => Some(target.value().to_owned()),
            TargetKind::Agent => self.deps.agents.registrations().find(target.value())?.tenant.clone(),
            _ => None,
        }
    }

    /// Records what is in effect already.
    async fn record_revocation(
        &self,
        event: Event,
        tenant: Option<&str>,
        done: &str,
    ) -> Result<(), AdminError> {
        Ok(self.audit.record_tenant_event(event, tenant, done).await?)
    }
}

impl From<Outcome> for RevokeOutcome {
    fn from(outcome: Outcome) -> RevokeOutcome {
        match outcome {
            Outcome::Revoked => RevokeOutcome::Revoked,
            Outcome::AlreadyRevoked => RevokeOutcome::AlreadyRevoked,
        }
    }
}

impl From<&revocation::Revocation> for Revocation {
    fn from(revocation: &revocation::Revocation) -> Revocation {
        Revocation {
            kind: revocation.target.kind().name().to_owned(),
            value: revocation.target.value().to_owned(),
            revoked_at: revocation.revoked_at,
            revoked_by: revocation.revoked_by.clone(),
            reason: revocation.reason.clone(),
            blocks: revocation.is_blocking,
            lapses_at: revocation.lapses,
        }
    }
}

fn response(kind: &str, value: &str, outcome: RevokeOutcome) -> RevokeResponse {
    RevokeResponse { kind: kind.to_owned(), value: value.to_owned(), outcome }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

pub(super) fn checked_reason(reason: Option<String>) -> Result<String, InvalidRequest> {
    checked_remark("reason", reason)
}

/// Checks what an administrator remarks in the member `what`.
pub(super) fn checked_remark(what: &str, text: Option<String>) -> Result<String, InvalidRequest> {
    let text = text.unwrap_or_default();
    if text.len() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(InvalidRequest::new(format!(
            "{what} must have at most {MAX_REASON} bytes and no control characters"
        )));
    }
    Ok(text)
}

fn checked(what: &str, value: String) -> Result<String, InvalidRequest> {
    if value.is_empty() || value.len() > MAX_VALUE || value.chars().any(char::is_control) {
        let text = format!("{what} must have 1 to {MAX_VALUE} bytes and no control characters");
        return Err(InvalidRequest::new(text));
    }
    Ok(value)
}

pub(super) fn unavailable(error: &revocation::Error) -> ErrorCode {
    match error {
        revocation::Error::LimitReached(_) => ErrorCode::SlowDown,
        _ => ErrorCode::TemporarilyUnavailable,
    }
}

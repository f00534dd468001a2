//! What is valid once: tokens that a relying party uses up, and nonces that this host made.

use std::time::Duration;

use super::error::{InvalidRequest, RequestError, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use super::revocations::unavailable;
use crate::agents::{AgentName, AuthenticatedAgent};
use crate::clock::Timestamp;
use crate::issue::Introspection;
use crate::peer::PeerLookup;
use crate::policy::{ErrorCode, Marks, TooManyMarks};
use crate::revocation::{self, InvalidNonce, NONCE_TTL};
use crate::wire::agent::{NonceResponse, UseNonceRequest};

/// Why a token is inactive that was used up, for the audit log.
const USED: &str = "used once already";

/// The use of a nonce: who asked, and whether the nonce was valid.
struct UsedNonce {
    agent: AuthenticatedAgent,
    outcome: Result<(), InvalidNonce>,
}

impl IdentityService {
    /// Uses an active token up for an agent. The token is inactive if it was used up before.
    ///
    /// # Errors
    /// `slow_down` where the agent has used up as many tokens as it may, which uses nothing up;
    /// `temporarily_unavailable` where the use cannot be stored, and the token counts as used.
    pub(super) async fn use_up(
        &self,
        agent: &AuthenticatedAgent,
        introspection: Introspection,
    ) -> Result<Introspection, Rejection> {
        let (Some(jti), Some(expires)) = (&introspection.jti, introspection.expires()) else {
            return Ok(introspection.with_reason("the token has no identifier or no end"));
        };
        if self.deps.revocations.is_token_used(jti) {
            return Ok(introspection.with_reason(USED));
        }
        let lifetime = self.take_mark(agent, expires)?;
        match self.deps.revocations.use_once(jti, expires).await {
            Ok(true) => Ok(introspection),
            Ok(false) => {
                self.give_mark_back(agent, lifetime);
                Ok(introspection.with_reason(USED))
            }
            Err(error) => Err(not_stored("token", &error, agent)),
        }
    }

    /// A nonce for the agent that the caller is, valid once. Only refusals are recorded; its use is.
    ///
    /// # Errors
    /// A recorded refusal; `temporarily_unavailable` until the host's keys are loaded.
    pub async fn make_nonce(&self, lookup: PeerLookup) -> Result<NonceResponse, RequestError> {
        let made = async {
            let peer = self.require_peer(lookup)?;
            let agent = self.identify_any(&peer).await?;
            self.deps.revocations.make_nonce(agent.name()).map_err(|error| {
                Rejection::new(unavailable(&error), error.to_string(), &peer).with_agent(&agent)
            })
        };
        let decision = async {
            match made.await {
                Ok(nonce) => Ok(NonceResponse { nonce, expires_in: NONCE_TTL.as_secs() }),
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::Nonce, decision).await
    }

    /// Whether a nonce was made for the caller by [`IdentityService::make_nonce`] and is used for the first time.
    ///
    /// # Errors
    /// A recorded refusal, as [`IdentityService::introspect`].
    pub async fn use_nonce(
        &self,
        lookup: PeerLookup,
        request: Result<UseNonceRequest, InvalidRequest>,
    ) -> RequestResult<bool> {
        let decision = async {
            match self.decide_nonce(lookup, request).await {
                Ok(UsedNonce { agent, outcome }) => {
                    let reason = outcome.err().map(|invalid| invalid.to_string());
                    Ok(self.audit.record_used_nonce(&agent, reason.as_deref()).await?)
                }
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::Nonce, decision).await
    }

    async fn decide_nonce(
        &self,
        lookup: PeerLookup,
        request: Result<UseNonceRequest, InvalidRequest>,
    ) -> Result<UsedNonce, Rejection> {
        let peer = self.require_peer(lookup)?;
        let agents = self.matching_agents(&peer).await?;
        let agent = agents[0].clone();
        self.check_agent_rate(&agent)?;
        let refuse = |code, text: String| Rejection::new(code, text, &peer).with_agent(&agent);
        let request = request.map_err(|e| refuse(ErrorCode::InvalidRequest, e.to_string()))?;
        let expires = self.deps.clock.now().after(NONCE_TTL);
        let lifetime = self.take_mark(&agent, expires)?;
        let names: Vec<&AgentName> = agents.iter().map(AuthenticatedAgent::name).collect();
        let outcome = self
            .deps
            .revocations
            .use_nonce(&names, &request.nonce)
            .await
            .map_err(|error| not_stored("nonce", &error, &agent))?;
        if outcome.is_err() {
            self.give_mark_back(&agent, lifetime);
        }
        Ok(UsedNonce { agent, outcome })
    }

    /// Counts a mark on a token that expires at this time, and returns how long the token lives.
    pub(super) fn take_mark(
        &self,
        agent: &AuthenticatedAgent,
        expires: Timestamp,
    ) -> Result<Duration, Rejection> {
        let lifetime = expires.since(self.deps.clock.now());
        let (revoked, used) = self.deps.revocations.token_counts();
        let marks = Marks { kept: revoked + used, registered: self.deps.agents.current().len() };
        let now = self.deps.clock.boot_time();
        self.mark_quota.take(agent.root_name(), marks, lifetime, now).map_err(|TooManyMarks { retry_after }| {
            let description = "this agent has used up or revoked as many tokens as it may; those that expire make \
                               room";
            let mut rejection =
                Rejection::new(ErrorCode::SlowDown, description, agent.peer()).with_agent(agent);
            rejection.refusal.retry_after = Some(retry_after);
            rejection
        })?;
        Ok(lifetime)
    }

    /// Takes a mark back that was not made.
    pub(super) fn give_mark_back(&self, agent: &AuthenticatedAgent, lifetime: Duration) {
        self.mark_quota.take_back(agent.root_name(), lifetime, self.deps.clock.boot_time());
    }
}

/// A use that is not on disk. After a crash, the same token or nonce could be used again, so its first use is not
/// acknowledged.
fn not_stored(what: &str, error: &revocation::Error, agent: &AuthenticatedAgent) -> Rejection {
    let description = match error {
        revocation::Error::NotStored(reason) => {
            format!("the use of the {what} cannot be stored, and the {what} counts as used: {reason}")
        }
        other => other.to_string(),
    };
    let mut rejection = Rejection::new(unavailable(error), description, agent.peer()).with_agent(agent);
    // Also where the host has as many as it can have.
    rejection.refusal.is_imposed = true;
    rejection
}

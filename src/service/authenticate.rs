//! Identifies callers: the peer, the agents that it matches, and their rates.

use std::time::{Duration, Instant};

use super::error::{InvalidRequest, RequestError};
use super::identity_service::IdentityService;
use super::rejection::{Recording, Rejection};
use crate::agents::{AuthenticatedAgent, Identification, IdentifyError};
use crate::peer::{self, Peer, PeerLookup};
use crate::policy::{ErrorCode, RateLimitKey, Refusal, TooManyTokens};

/// `Retry-After` for a caller that cannot be identified yet: failed lookups of users and groups are repeated
/// after this time, and an administrator may have corrected the agents' files.
pub(super) const UNKNOWN_RETRY: Duration = Duration::from_secs(5);

impl IdentityService {
    /// Every agent that the caller matches, in alphabetical order of their names: the first is its default
    /// identity.
    ///
    /// # Errors
    /// A recorded refusal where the caller cannot be read, matches no agent, or exceeds its rate.
    pub async fn authenticate_agents(
        &self,
        lookup: PeerLookup,
    ) -> Result<Vec<AuthenticatedAgent>, RequestError> {
        let identified = async {
            let peer = self.require_peer(lookup)?;
            self.identify_all(&peer).await
        };
        match identified.await {
            Ok(agents) => Ok(agents),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// Whether the caller is an agent, at no cost of its rate: for a request that has not arrived completely,
    /// and is identified again when it has.
    ///
    /// # Errors
    /// A recorded refusal where the caller cannot be read or matches no agent.
    pub async fn require_agent(&self, lookup: PeerLookup) -> Result<(), RequestError> {
        let matched = async {
            let peer = self.require_peer(lookup)?;
            self.matching_agents(&peer).await
        };
        match matched.await {
            Ok(_) => Ok(()),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// The peer, unless the kernel's information about it cannot be read.
    pub(super) fn require_peer(&self, lookup: PeerLookup) -> Result<Peer, Rejection> {
        lookup.peer.or_else(|e| {
            self.check_rate(RateLimitKey::UnknownUid(lookup.uid), None)?;
            let code = match e {
                // Nothing is known about the caller.
                peer::Error::Hidden | peer::Error::Kernel(_) => ErrorCode::TemporarilyUnavailable,
                peer::Error::Exited
                | peer::Error::ConcurrentChange
                | peer::Error::CredentialsChanged
                | peer::Error::OtherNamespace => ErrorCode::InvalidClient,
            };
            let mut refusal = Refusal::new(code, e.to_string());
            refusal.retry_after = (code == ErrorCode::TemporarilyUnavailable).then_some(UNKNOWN_RETRY);
            Err(refusal.into())
        })
    }

    /// The agent that the peer matches, within its rate. `requested_agent` chooses one of several.
    pub(super) async fn identify(
        &self,
        peer: &Peer,
        requested_agent: Option<&str>,
    ) -> Result<AuthenticatedAgent, Rejection> {
        let (identification, is_counted) = self.compare(peer).await?;
        let agent = identification
            .one(requested_agent)
            .or_else(|error| self.unidentified(peer, error, is_counted))?;
        self.check_agent_rate(&agent)?;
        Ok(agent)
    }

    /// The agent that a request is for, within its rate, and the request. `requested_agent` is the agent that the request
    /// names. One that is invalid is refused as a request of the first agent by name that the peer matches.
    pub(super) async fn identify_for<R>(
        &self,
        peer: &Peer,
        request: Result<R, InvalidRequest>,
        requested_agent: impl Fn(&R) -> Option<&str>,
    ) -> Result<(AuthenticatedAgent, R), Rejection> {
        match request {
            Ok(request) => Ok((self.identify(peer, requested_agent(&request)).await?, request)),
            Err(error) => {
                let agent = self.identify_any(peer).await?;
                Err(Rejection::new(ErrorCode::InvalidRequest, error.to_string(), peer).with_agent(&agent))
            }
        }
    }

    /// Every agent that the peer matches, each within its rate.
    pub(super) async fn identify_all(&self, peer: &Peer) -> Result<Vec<AuthenticatedAgent>, Rejection> {
        let agents = self.matching_agents(peer).await?;
        agents.iter().try_for_each(|agent| self.check_agent_rate(agent))?;
        Ok(agents)
    }

    /// The first agent by name that the peer matches, within its rate, for requests whose answer is the same
    /// for each.
    pub(super) async fn identify_any(&self, peer: &Peer) -> Result<AuthenticatedAgent, Rejection> {
        let agent = self.matching_agents(peer).await?.swap_remove(0);
        self.check_agent_rate(&agent)?;
        Ok(agent)
    }

    /// Every agent that the peer matches, at least one, sorted by name. The caller checks their rates.
    pub(super) async fn matching_agents(&self, peer: &Peer) -> Result<Vec<AuthenticatedAgent>, Rejection> {
        let (identification, is_counted) = self.compare(peer).await?;
        identification.all().or_else(|error| self.unidentified(peer, error, is_counted))
    }

    pub(super) fn check_agent_rate(&self, agent: &AuthenticatedAgent) -> Result<(), Rejection> {
        let check =
            |key| self.check_rate(key, Some(agent.peer())).map_err(|rejection| rejection.with_agent(agent));
        // Sub-agents share the rate of the agent that they act for, so that delegating gives no more of it.
        check(RateLimitKey::Agent(agent.root_name().clone()))?;
        match &agent.entry().tenant {
            Some(tenant) if self.deps.limiter.tenants().of(Some(tenant)).rate.is_some() => {
                check(RateLimitKey::Tenant(tenant.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Counts a token that is about to be issued against the quota of the agent's tenant.
    pub(super) fn check_live_tokens(
        &self,
        agent: &AuthenticatedAgent,
        lifetime: Duration,
    ) -> Result<(), Rejection> {
        let tenant = agent.entry().tenant.as_deref();
        let taken = self.deps.limiter.tenants().take_token(tenant, lifetime, self.deps.clock.boot_time());
        taken.map_err(|TooManyTokens { limit, retry_after }| {
            let description = format!("the agents of this tenant have {limit} tokens, which is its quota");
            let mut rejection =
                Rejection::new(ErrorCode::SlowDown, description, agent.peer()).with_agent(agent);
            rejection.refusal.retry_after = Some(retry_after);
            rejection.refusal.is_imposed = true;
            rejection
        })
    }

    /// Compares the peer with the agents. A peer that is not yet known to be an agent counts against the rate
    /// of its uid before the comparison waits for anything; whether it did is the second value.
    pub(super) async fn compare(&self, peer: &Peer) -> Result<(Identification, bool), Rejection> {
        let candidates = self.deps.agents.candidates(peer);
        let is_counted = candidates.has_to_wait();
        if is_counted {
            self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(peer))?;
        }
        let identification = self.deps.agents.identify(candidates, self.deps.posture.ima_digests()).await;
        Ok((identification, is_counted))
    }

    /// Refuses a peer that is no agent, within the rate of its uid.
    fn unidentified<T>(&self, peer: &Peer, error: IdentifyError, is_counted: bool) -> Result<T, Rejection> {
        if !is_counted {
            self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(peer))?;
        }
        let code = error_code(&error);
        let mut rejection = Rejection::new(code, error.to_string(), peer);
        if matches!(error, IdentifyError::NotLoaded | IdentifyError::Unresolved) {
            rejection.refusal.retry_after = Some(UNKNOWN_RETRY);
        }
        Err(rejection)
    }

    pub(super) fn check_rate(&self, key: RateLimitKey, peer: Option<&Peer>) -> Result<(), Rejection> {
        // The rate of a tenant is used up by any of its agents, and its bucket counts the refusals of all.
        let is_shared = matches!(key, RateLimitKey::Tenant(_));
        self.deps.limiter.take(key, Instant::now()).map_err(|limited| {
            let mut refusal = Refusal::new(ErrorCode::SlowDown, "too many requests; ask again later");
            refusal.peer = peer.cloned();
            refusal.retry_after = Some(limited.retry_after);
            refusal.is_imposed = is_shared;
            let Some(unlogged) = limited.unlogged else {
                return Rejection { refusal, recording: Recording::CountedByLimiter };
            };
            refusal.suppressed = unlogged;
            let own = if is_shared { 0 } else { unlogged };
            refusal.own_suppressed = u32::try_from(own).unwrap_or(u32::MAX);
            refusal.into()
        })
    }
}

fn error_code(error: &IdentifyError) -> ErrorCode {
    match error {
        IdentifyError::NoDigest { error, .. } if error.is_temporary() => ErrorCode::TemporarilyUnavailable,
        IdentifyError::Content { is_temporary: true, .. } => ErrorCode::TemporarilyUnavailable,
        IdentifyError::NotLoaded | IdentifyError::Unresolved | IdentifyError::UnknownDelegations { .. } => {
            ErrorCode::TemporarilyUnavailable
        }
        IdentifyError::NoMatch
        | IdentifyError::NotSubAgent { .. }
        | IdentifyError::AgentMismatch(_)
        | IdentifyError::TooManyGroups
        | IdentifyError::Unmeasured { .. }
        | IdentifyError::Content { .. }
        | IdentifyError::NoDigest { .. } => ErrorCode::InvalidClient,
        IdentifyError::Ambiguous(_) => ErrorCode::InvalidRequest,
    }
}

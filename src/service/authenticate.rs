//! Identifies callers: the peer, the agents that it matches, and their rates.

use std::time::Instant;

use super::error::RequestError;
use super::identity_service::IdentityService;
use super::rejection::{Recording, Rejection};
use crate::agents::{AuthenticatedAgent, IdentifyError};
use crate::peer::{Peer, PeerLookup};
use crate::policy::{ErrorCode, RateLimitKey, Refusal};

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

    /// The peer, unless the kernel's information about it cannot be read.
    pub(super) fn require_peer(&self, lookup: PeerLookup) -> Result<Peer, Rejection> {
        lookup.peer.or_else(|e| {
            self.check_rate(RateLimitKey::UnknownUid(lookup.uid), None)?;
            Err(Refusal::new(ErrorCode::InvalidClient, e.to_string()).into())
        })
    }

    /// The agent that the peer matches, within its rate. `requested_agent` chooses one of several.
    pub(super) async fn identify(
        &self,
        peer: &Peer,
        requested_agent: Option<&str>,
    ) -> Result<AuthenticatedAgent, Rejection> {
        let identified =
            self.deps.agents.identify(peer, requested_agent, self.deps.posture.ima_digests()).await;
        self.admit(peer, identified)
    }

    /// Takes the request of an identified agent, or of an unknown caller, from its rate.
    fn admit(
        &self,
        peer: &Peer,
        identified: Result<AuthenticatedAgent, IdentifyError>,
    ) -> Result<AuthenticatedAgent, Rejection> {
        match identified {
            Ok(agent) => {
                self.check_rate(RateLimitKey::Agent(agent.name().clone()), Some(peer))
                    .map_err(|rejection| rejection.with_agent(&agent))?;
                Ok(agent)
            }
            Err(error) => {
                self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(peer))?;
                Err(Rejection::new(error_code(&error), error.to_string(), peer))
            }
        }
    }

    /// Every agent that the peer matches, each within its rate.
    pub(super) async fn identify_all(&self, peer: &Peer) -> Result<Vec<AuthenticatedAgent>, Rejection> {
        match self.deps.agents.identify_all(peer, self.deps.posture.ima_digests()).await {
            Ok(agents) => {
                for agent in &agents {
                    self.check_rate(RateLimitKey::Agent(agent.name().clone()), Some(peer))
                        .map_err(|rejection| rejection.with_agent(agent))?;
                }
                Ok(agents)
            }
            Err(error) => {
                self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(peer))?;
                Err(Rejection::new(error_code(&error), error.to_string(), peer))
            }
        }
    }

    /// The first agent by name that the peer matches, for requests whose answer is the same for each.
    pub(super) async fn identify_any(&self, peer: &Peer) -> Result<AuthenticatedAgent, Rejection> {
        let ima_digests = self.deps.posture.ima_digests();
        match self.deps.agents.identify(peer, None, ima_digests).await {
            Err(IdentifyError::Ambiguous(mut names)) if !names.is_empty() => {
                self.identify(peer, Some(&names.swap_remove(0))).await
            }
            identified => self.admit(peer, identified),
        }
    }

    pub(super) fn check_rate(&self, key: RateLimitKey, peer: Option<&Peer>) -> Result<(), Rejection> {
        self.deps.limiter.take(key, Instant::now()).map_err(|limited| {
            let mut refusal = Refusal::new(ErrorCode::SlowDown, "too many requests; ask again later");
            refusal.peer = peer.cloned();
            refusal.retry_after = Some(limited.retry_after);
            let Some(unlogged) = limited.unlogged else {
                return Rejection { refusal, recording: Recording::CountedByLimiter };
            };
            refusal.suppressed = unlogged;
            refusal.into()
        })
    }
}

fn error_code(error: &IdentifyError) -> ErrorCode {
    match error {
        IdentifyError::NoDigest { error, .. } if error.is_temporary() => ErrorCode::TemporarilyUnavailable,
        IdentifyError::NoMatch
        | IdentifyError::AgentMismatch(_)
        | IdentifyError::Unmeasured { .. }
        | IdentifyError::NoDigest { .. } => ErrorCode::InvalidClient,
        IdentifyError::Ambiguous(_) => ErrorCode::InvalidRequest,
    }
}

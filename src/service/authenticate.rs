//! Who is calling: peers, the agents that they are, and how often they may.

use std::time::Instant;

use super::{IdentityService, Rejection};
use crate::agents::{AuthenticatedAgent, IdentifyError};
use crate::peer::{Peer, PeerLookup};
use crate::policy::{ErrorCode, RateLimitKey, Refusal};

impl IdentityService {
    /// A caller that cannot be told is nobody's agent.
    pub(super) fn require_peer(&self, lookup: PeerLookup) -> Result<Peer, Rejection> {
        lookup.peer.or_else(|e| {
            let rejection =
                Rejection { refusal: Refusal::new(ErrorCode::InvalidClient, e.to_string()), log: true };
            self.check_rate(RateLimitKey::UnknownUid(lookup.uid), None)?;
            Err(rejection)
        })
    }

    /// The agent that the peer is, within its rate.
    pub(super) async fn identify(
        &self,
        peer: &Peer,
        requested_agent: Option<&str>,
    ) -> Result<AuthenticatedAgent, Rejection> {
        match self.agents.identify(peer, requested_agent, self.posture.ima_digests()).await {
            Ok(agent) => {
                self.check_rate(RateLimitKey::Agent(agent.name().clone()), Some(peer))
                    .map_err(|rejection| rejection.with_agent(&agent))?;
                Ok(agent)
            }
            Err(error) => {
                self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(peer))?;
                let code = match error {
                    IdentifyError::NoMatch
                    | IdentifyError::AgentMismatch(_)
                    | IdentifyError::Unmeasured { .. } => ErrorCode::InvalidClient,
                    IdentifyError::Ambiguous(_) => ErrorCode::InvalidRequest,
                };
                Err(Rejection::new(code, error.to_string(), peer))
            }
        }
    }

    /// Every agent that the peer is, each within its rate.
    pub(super) async fn identify_all(&self, peer: &Peer) -> Result<Vec<AuthenticatedAgent>, Rejection> {
        match self.agents.identify_all(peer, self.posture.ima_digests()).await {
            Ok(agents) => {
                for agent in &agents {
                    self.check_rate(RateLimitKey::Agent(agent.name().clone()), Some(peer))
                        .map_err(|rejection| rejection.with_agent(agent))?;
                }
                Ok(agents)
            }
            Err(error) => {
                self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(peer))?;
                Err(Rejection::new(ErrorCode::InvalidClient, error.to_string(), peer))
            }
        }
    }

    /// Any of the agents that the peer is: the first by name.
    pub(super) async fn identify_any(&self, peer: &Peer) -> Result<AuthenticatedAgent, Rejection> {
        let first_match = match self.agents.identify(peer, None, self.posture.ima_digests()).await {
            Err(IdentifyError::Ambiguous(mut names)) if !names.is_empty() => Some(names.swap_remove(0)),
            _ => None,
        };
        self.identify(peer, first_match.as_deref()).await
    }

    pub(super) fn check_rate(&self, key: RateLimitKey, peer: Option<&Peer>) -> Result<(), Rejection> {
        self.limiter.take(key, Instant::now()).map_err(|limited| {
            let mut rejection =
                Rejection::from(Refusal::new(ErrorCode::SlowDown, "too many requests; ask again later"));
            rejection.refusal.peer = peer.cloned();
            rejection.refusal.retry_after = Some(limited.retry_after);
            rejection.refusal.suppressed = limited.unlogged.unwrap_or(0);
            rejection.log = limited.unlogged.is_some();
            rejection
        })
    }
}

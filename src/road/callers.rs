//! Who is calling: peers, the agents that they are, and how often they may.

use std::time::Instant;

use super::{No, Road};
use crate::agents::{Agent, Unidentified};
use crate::peer::{Look, Peer};
use crate::policy::{Reason, Refusal, Who};

impl Road {
    /// A caller that cannot be told is nobody's agent.
    pub(super) fn known(&self, look: Look) -> Result<Peer, No> {
        look.peer.or_else(|e| {
            let no = No { refusal: Refusal::new(Reason::InvalidClient, e.to_string()), tell: true };
            self.within_rate(Who::Stranger(look.uid), None)?;
            Err(no)
        })
    }

    /// The agent that the peer is, within its rate.
    pub(super) async fn identify(&self, peer: &Peer, wanted: Option<&str>) -> Result<Agent, No> {
        match self.agents.identify(peer, wanted, self.posture.measured()).await {
            Ok(agent) => {
                self.within_rate(Who::Agent(agent.name().clone()), Some(peer)).map_err(|no| no.of(&agent))?;
                Ok(agent)
            }
            Err(unidentified) => {
                self.within_rate(Who::Stranger(peer.uid), Some(peer))?;
                let reason = match unidentified {
                    Unidentified::Stranger | Unidentified::NotThat(_) | Unidentified::Unmeasured { .. } => {
                        Reason::InvalidClient
                    }
                    Unidentified::Ambiguous(_) => Reason::InvalidRequest,
                };
                Err(No::refusal(reason, unidentified.to_string(), peer))
            }
        }
    }

    /// Every agent that the peer is, each within its rate.
    pub(super) async fn identify_all(&self, peer: &Peer) -> Result<Vec<Agent>, No> {
        match self.agents.identify_all(peer, self.posture.measured()).await {
            Ok(agents) => {
                for agent in &agents {
                    self.within_rate(Who::Agent(agent.name().clone()), Some(peer))
                        .map_err(|no| no.of(agent))?;
                }
                Ok(agents)
            }
            Err(unidentified) => {
                self.within_rate(Who::Stranger(peer.uid), Some(peer))?;
                Err(No::refusal(Reason::InvalidClient, unidentified.to_string(), peer))
            }
        }
    }

    /// Any of the agents that the peer is: the first by name.
    pub(super) async fn identify_any(&self, peer: &Peer) -> Result<Agent, No> {
        let first = match self.agents.identify(peer, None, self.posture.measured()).await {
            Err(Unidentified::Ambiguous(mut names)) if !names.is_empty() => Some(names.swap_remove(0)),
            _ => None,
        };
        self.identify(peer, first.as_deref()).await
    }

    pub(super) fn within_rate(&self, who: Who, peer: Option<&Peer>) -> Result<(), No> {
        self.limiter.take(who, Instant::now()).map_err(|limited| {
            let mut no = No::from(Refusal::new(Reason::SlowDown, "too many requests; ask again later"));
            no.refusal.peer = peer.cloned();
            no.refusal.retry_after = Some(limited.retry_after);
            no.refusal.suppressed = limited.tell.unwrap_or(0);
            no.tell = limited.tell.is_some();
            no
        })
    }
}

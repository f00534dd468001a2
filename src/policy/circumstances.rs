//! What a decision depends on besides the agent and its request.

use crate::agents::AuthenticatedAgent;
use crate::clock::Timestamp;
use crate::posture::{Posture, PostureAtDecision};

use super::cedar::{Act, Approval, PolicySnapshot};
use super::refusal::Refusal;

/// The host and the time at a decision.
pub struct Circumstances {
    /// The host's posture.
    pub posture: PostureAtDecision,
    /// The policies.
    pub policies: PolicySnapshot,
    /// The time of day.
    pub now: Timestamp,
}

impl Circumstances {
    /// Asks the policies, after the grants have allowed what is requested.
    ///
    /// # Errors
    /// As [`PolicySnapshot::approve`].
    pub(super) fn approve(
        &self,
        agent: &AuthenticatedAgent,
        posture: Posture,
        act: Act<'_>,
    ) -> Result<Approval, Refusal> {
        self.policies.approve(agent, posture, self.now, act)
    }

    /// A refusal that is recorded with the policies in force.
    pub(super) fn refusal(&self, refusal: Refusal, agent: &AuthenticatedAgent) -> Refusal {
        refusal.with_peer(agent.peer()).with_agent(agent.name()).with_policy(self.policies.id())
    }
}

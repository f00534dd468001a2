//! What a decision depends on besides the agent and its request.

use crate::agents::{AuthenticatedAgent, TimeLimits};
use crate::clock::TimeAtDecision;
use crate::posture::PostureAtDecision;

use super::refusal::{ErrorCode, Refusal};

/// The host and the time at a decision.
pub struct Circumstances {
    /// The host's posture.
    pub posture: PostureAtDecision,
    /// The time of day.
    pub time: TimeAtDecision,
}

impl Circumstances {
    /// Whether a grant or credential with these limits counts now.
    ///
    /// # Errors
    /// The code and the description of the refusal; `what` begins it.
    pub(super) fn check_limits(&self, what: &str, limits: &TimeLimits) -> Result<(), (ErrorCode, String)> {
        limits
            .check(self.time)
            .map_err(|not_now| (ErrorCode::AccessDenied, format!("{what} does not count now: {not_now}")))
    }
}

/// Refuses an agent whose file says that it gets nothing new.
///
/// # Errors
/// `access_denied`.
pub(super) fn check_draining(agent: &AuthenticatedAgent) -> Result<(), Refusal> {
    if !agent.entry().is_draining {
        return Ok(());
    }
    let description = format!(
        "agent \"{}\" is being drained: what it has stays valid until it expires, and nothing new is issued",
        agent.name()
    );
    Err(Refusal::new(ErrorCode::AccessDenied, description).with_peer(agent.peer()).with_agent(agent.name()))
}

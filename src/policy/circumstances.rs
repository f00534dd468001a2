//! What a decision depends on besides the agent and its request.

use std::sync::Arc;

use crate::agents::{AgentEntry, AuthenticatedAgent, TimeLimits};
use crate::clock::TimeAtDecision;
use crate::posture::{Posture, PostureAtDecision, PostureMode};
use crate::revocation::RevocationSet;

use super::cedar::{Act, Approval, PolicySnapshot};
use super::refusal::{ErrorCode, Refusal, Stage};

/// How a refusal of [`Circumstances::check_limits`] names a grant.
pub(super) const GRANT: &str = "the grant for this audience";
/// How it names a `[[credential]]`.
pub(super) const CREDENTIAL: &str = "the permission for this credential";

/// The host and the time at a decision.
pub struct Circumstances {
    /// The host's posture.
    pub posture: PostureAtDecision,
    /// The policies.
    pub policies: PolicySnapshot,
    /// The time of day.
    pub time: TimeAtDecision,
    /// What has been revoked.
    pub revocations: Arc<RevocationSet>,
    /// Why it is not known what has been revoked; `None` where it is.
    pub unknown_revocations: Option<String>,
}

impl Circumstances {
    /// Refuses an agent to which nothing is issued, because it is revoked.
    ///
    /// # Errors
    /// `access_denied`; `temporarily_unavailable` while it is not known what is revoked.
    pub(super) fn check_revoked(&self, agent: &AuthenticatedAgent) -> Result<(), Refusal> {
        if !self.revocations.is_loaded() {
            let unknown = "the revocations of this host are not available; see hostbadge status";
            let description = self.unknown_revocations.as_deref().unwrap_or(unknown);
            return Err(self.refusal(Refusal::new(ErrorCode::TemporarilyUnavailable, description), agent));
        }
        match self.revocations.blocking(agent) {
            None => Ok(()),
            Some(revocation) => {
                let refusal = Refusal::new(ErrorCode::AccessDenied, revocation.description());
                Err(self.refusal(refusal.at(Stage::Identity).imposed(), agent))
            }
        }
    }

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
        self.policies.approve(agent, posture, self.time.now, act)
    }

    /// A refusal that is recorded with the policies in force, and with the posture where it is evaluated.
    pub(super) fn refusal(&self, refusal: Refusal, agent: &AuthenticatedAgent) -> Refusal {
        let posture = match self.posture.mode {
            PostureMode::Off => Posture::Off,
            PostureMode::Warn | PostureMode::Enforce => self.posture.posture,
        };
        refusal
            .with_peer(agent.peer())
            .with_agent(agent.name())
            .with_policy(self.policies.id())
            .with_posture(posture)
    }

    /// Whether a grant or credential of the agent with these limits counts now. An agent that is drained gets
    /// nothing.
    ///
    /// # Errors
    /// `access_denied`; `what` begins the description.
    pub(super) fn check_limits(
        &self,
        entry: &AgentEntry,
        what: &str,
        limits: &TimeLimits,
    ) -> Result<(), Refusal> {
        check_draining(entry)?;
        limits.check(self.time).map_err(|not_now| {
            Refusal::new(ErrorCode::AccessDenied, format!("{what} does not count now: {not_now}"))
                .at(Stage::Context)
        })
    }
}

/// Refuses an agent whose file says that it gets nothing new.
///
/// # Errors
/// `access_denied`.
pub(super) fn check_draining(entry: &AgentEntry) -> Result<(), Refusal> {
    if !entry.is_draining {
        return Ok(());
    }
    let description = format!(
        "agent \"{}\" is being drained: what it has stays valid until it expires, and nothing new is issued",
        entry.name
    );
    Err(Refusal::new(ErrorCode::AccessDenied, description).at(Stage::Identity).imposed())
}

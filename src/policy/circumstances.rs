//! What a decision depends on besides the agent and its request.

use std::sync::Arc;
use std::time::Duration;

use crate::agents::{AgentEntry, ApprovalMode, AuthenticatedAgent, TimeLimits};
use crate::approvals::{ApprovalAction, ApprovalRequest, Approvals, NotApproved, UsedApproval};
use crate::clock::TimeAtDecision;
use crate::posture::{Posture, PostureAtDecision, PostureMode};
use crate::revocation::RevocationSet;

use super::cedar::{Act, Allowed, PolicySnapshot};
use super::refusal::{ErrorCode, Refusal, RequestedApproval, Stage};

/// How a refusal of [`Circumstances::check_limits`] names a grant.
pub(super) const GRANT: &str = "the grant for this audience";
/// How it names a `[[credential]]`.
pub(super) const CREDENTIAL: &str = "the permission for this credential";
/// When a request that waits for an approval is to be repeated (RFC 8628 section 3.5).
const APPROVAL_RETRY: Duration = Duration::from_secs(5);

/// The host and the time at a decision.
pub struct Circumstances {
    /// The host's posture.
    pub posture: PostureAtDecision,
    /// The policies.
    pub policies: PolicySnapshot,
    /// The time of day.
    pub time: TimeAtDecision,
    /// The requests that wait for an approval.
    pub approvals: Approvals,
    /// What has been revoked.
    pub revocations: Arc<RevocationSet>,
    /// Why it is not known what has been revoked; `None` where it is.
    pub unknown_revocations: Option<String>,
}

impl Circumstances {
    /// Refuses an agent to which nothing is issued, because it is revoked, or a sub-agent whose time has ended.
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
            None => self.check_delegation(agent),
            Some(revocation) => {
                let refusal = Refusal::new(ErrorCode::AccessDenied, revocation.description());
                Err(self.refusal(refusal.at(Stage::Identity).imposed(), agent))
            }
        }
    }

    /// Refuses a sub-agent whose time has ended, before that takes effect everywhere.
    fn check_delegation(&self, agent: &AuthenticatedAgent) -> Result<(), Refusal> {
        let Some(delegation) = agent.delegation() else { return Ok(()) };
        let limits = TimeLimits { expires: Some(delegation.expires), hours: None };
        limits.check(self.time).map_err(|not_now| {
            let refusal =
                Refusal::new(ErrorCode::AccessDenied, format!("the delegation has ended: {not_now}"));
            self.refusal(refusal.at(Stage::Identity).imposed(), agent)
        })
    }

    /// Asks the policies, after the grants have allowed what is requested.
    ///
    /// # Errors
    /// As [`PolicySnapshot::allow`].
    pub(super) fn allow(
        &self,
        agent: &AuthenticatedAgent,
        posture: Posture,
        act: Act<'_>,
    ) -> Result<Allowed, Refusal> {
        self.policies.allow(agent, posture, self.time.now, act)
    }

    /// Takes the approval of a request that needs one, after everything else has allowed it. An approval of one
    /// request is used up by this, also where nothing is issued afterwards.
    ///
    /// # Errors
    /// `authorization_pending` until an administrator has decided, `access_denied` if one refused,
    /// `temporarily_unavailable` if the executable's digest is not known, `slow_down` if too many requests wait.
    pub(super) fn take_approval(
        &self,
        agent: &AuthenticatedAgent,
        mode: Option<ApprovalMode>,
        action: impl FnOnce() -> ApprovalAction,
    ) -> Result<Option<Box<UsedApproval>>, Refusal> {
        let Some(mode) = mode else { return Ok(None) };
        let request = agent
            .peer()
            .exe_sha256()
            .and_then(|digest| ApprovalRequest::new(agent, mode, digest, action()))
            .ok_or_else(|| {
                let description = "this request needs an approval, which names the executable and the invocation of \
                                   the process, and one of them is not known";
                Refusal::new(ErrorCode::TemporarilyUnavailable, description)
            })?;
        let taken = self.approvals.take(request, agent.peer().pid, &self.revocations);
        taken.map(|used| Some(Box::new(used))).map_err(not_approved)
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

/// The refusal of a request that has no approval. That it waits is not the agent's doing; that it asks again for what
/// an administrator refused is.
fn not_approved(reason: NotApproved) -> Refusal {
    let description = reason.to_string();
    match reason {
        NotApproved::Pending { id, is_recorded, .. } => {
            let mut refusal = Refusal::new(ErrorCode::AuthorizationPending, description)
                .with_approval(RequestedApproval { id: id.into(), is_recorded });
            refusal.retry_after = Some(APPROVAL_RETRY);
            refusal.at(Stage::Context).imposed()
        }
        NotApproved::Denied { id, .. } => {
            let approval = RequestedApproval { id: id.into(), is_recorded: true };
            Refusal::new(ErrorCode::AccessDenied, description).with_approval(approval).at(Stage::Context)
        }
        NotApproved::TooLong(_) => Refusal::new(ErrorCode::AccessDenied, description).at(Stage::Context),
        NotApproved::TooManyOfAgent(_) | NotApproved::TooMany(_) | NotApproved::NoRandom => {
            let is_own = matches!(reason, NotApproved::TooManyOfAgent(_));
            let mut refusal = Refusal::new(ErrorCode::SlowDown, description);
            refusal.retry_after = Some(APPROVAL_RETRY);
            if is_own { refusal } else { refusal.imposed() }
        }
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

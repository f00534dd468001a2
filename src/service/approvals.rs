//! Requests that a person has to approve.

use super::admin::Admin;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::reload::administrator;
use crate::agents::{Administrator, AuthenticatedAgent};
use crate::approvals::{ApprovalReport, ApprovalRequest, ApprovalState, Decision, DecisionError};
use crate::audit::Event;
use crate::policy::{ErrorCode, Refusal};
use crate::wire::approvals::{self, Approval, ApprovalDecision, ApprovalsResponse, DecideRequest};

/// Longest reason for a refusal in bytes.
const MAX_REASON: usize = 256;

impl IdentityService {
    /// The requests that wait for an approval, and those that were decided lately, the oldest first.
    pub fn approvals(&self, _: &Admin) -> ApprovalsResponse {
        ApprovalsResponse {
            approvals: self.deps.approvals.reports().into_iter().map(Approval::from).collect(),
        }
    }

    /// Approves a request of an agent, or refuses it. The decision is in effect after it was recorded.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`], [`AdminError::Decision`], [`AdminError::AuditUnavailable`].
    pub async fn decide_approval(
        &self,
        admin: &Admin,
        request: DecideRequest,
    ) -> Result<Approval, AdminError> {
        let DecideRequest { id, digest, decision, reason } = request;
        let reason = reason.unwrap_or_default();
        if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
            let text = format!("reason must be one line of at most {MAX_REASON} bytes");
            return Err(InvalidRequest::new(text).into());
        }
        let by = name_with_login(&administrator(admin).await);
        let (event, verb, decision) = match decision {
            ApprovalDecision::Approve => {
                let waiting = self.deps.approvals.report(&id).ok_or(DecisionError::Unknown)?;
                self.ensure_other_person(admin, &waiting.request).await?;
                let epoch = self.deps.revocations.current().epoch();
                (Event::ApprovalGiven, "approved", Decision::Approve { by: by.clone(), epoch })
            }
            ApprovalDecision::Deny => {
                (Event::ApprovalDenied, "refused", Decision::Deny { reason: reason.clone() })
            }
        };
        let reserved = self.deps.approvals.reserve(&id, &digest, decision)?;
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let request = reserved.request();
        let shown = serde_json::to_string(request).unwrap_or_default();
        let done = format!("{by} {verb} the request {id}{because}; {shown} has the digest {digest}");
        self.audit.record_agent_event(event, &request.agent, request.tenant.as_deref(), &done).await?;
        Ok(reserved.commit().ok_or(DecisionError::Unknown)?.into())
    }

    /// Forgets the approvals of what is revoked now. Called before a revocation is lifted.
    pub(super) fn forget_revoked_approvals(&self) {
        self.deps.approvals.forget_revoked(&self.deps.revocations.current());
    }

    /// Checks what would make an approval of a token useless, and has the executable read, which it names.
    pub(super) async fn prepare_approval(&self, agent: &AuthenticatedAgent) -> Result<(), Rejection> {
        let of_agent = |rejection: Rejection| rejection.with_peer(agent.peer()).with_agent(agent);
        self.require_clock().map_err(|refusal| of_agent(refusal.into()))?;
        self.issuer_state().map_err(of_agent)?;
        self.read_exe_for_approval(agent).await
    }

    /// Has the executable of the process read, which an approval names.
    pub(super) async fn read_exe_for_approval(&self, agent: &AuthenticatedAgent) -> Result<(), Rejection> {
        if agent.peer().exe_sha256().is_some() {
            return Ok(());
        }
        let read = self.deps.agents.exe_sha256(agent.peer()).await;
        read.map(drop).map_err(|error| {
            let code = match error.is_temporary() {
                true => ErrorCode::TemporarilyUnavailable,
                false => ErrorCode::AccessDenied,
            };
            let description = format!("this request needs an approval, which names the executable: {error}");
            Rejection::new(code, description, agent.peer()).with_agent(agent)
        })
    }

    /// Refuses an administrator that is the agent: a process of its invocation, of its user, or of any agent. For root
    /// and the user of a development host there is no such bound, since they could use the host's keys without asking.
    async fn ensure_other_person(
        &self,
        admin: &Admin,
        request: &ApprovalRequest,
    ) -> Result<(), DecisionError> {
        let peer = admin.peer();
        if self.deps.admin_policy.is_owner(peer) {
            return Ok(());
        }
        if peer.uid == request.uid {
            return Err(DecisionError::OwnRequest("user"));
        }
        let (agents, ima_digests) = (&self.deps.agents, self.deps.posture.ima_digests());
        if let Some(agent) = agents.identify(agents.candidates(peer), ima_digests).await.first() {
            return Err(DecisionError::IsAgent(agent.name().to_string()));
        }
        match peer.invocation.as_deref() == Some(request.invocation.as_str()) {
            true => Err(DecisionError::OwnRequest("invocation")),
            false => Ok(()),
        }
    }
}

/// What waits, or was refused, has a record already: the next record counts its repetitions.
pub(super) fn rejection_of(refusal: Refusal) -> Rejection {
    let is_repeated = refusal.requested_approval().is_some_and(|approval| approval.is_recorded);
    Rejection::from(refusal).counted_if(is_repeated)
}

/// The administrator for records, with the user that logged in, whom sudo does not change.
fn name_with_login(administrator: &Administrator) -> String {
    match administrator.login_uid {
        Some(login) if login != administrator.uid => format!("{} (login uid {login})", administrator.id),
        _ => administrator.id.clone(),
    }
}

impl From<ApprovalReport> for Approval {
    fn from(report: ApprovalReport) -> Approval {
        Approval {
            id: report.id,
            digest: report.digest,
            state: match report.state {
                ApprovalState::Pending => approvals::ApprovalState::Pending,
                ApprovalState::Approved => approvals::ApprovalState::Approved,
                ApprovalState::Denied => approvals::ApprovalState::Denied,
            },
            requested: report.requested,
            seconds_left: report.seconds_left,
            pid: report.pid,
            // Texts and numbers have a JSON text; its order is that which the digest covers.
            request: serde_json::to_value(&report.request).unwrap_or_default(),
        }
    }
}

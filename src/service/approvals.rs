//! Requests that a person has to approve.

use super::admin::Admin;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use super::rejection::{Recording, Rejection};
use super::reload::administrator;
use crate::agents::{ApprovalMode, AuthenticatedAgent};
use crate::approvals::{ApprovalReport, ApprovalState, Decision, DecisionError};
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

    /// Approves a request of an agent, or refuses it.
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
        let (event, verb, decision) = match decision {
            ApprovalDecision::Approve => (Event::ApprovalGiven, "approved", Decision::Approve),
            ApprovalDecision::Deny => (Event::ApprovalDenied, "refused", Decision::Deny(reason.clone())),
        };
        let waiting = self.deps.approvals.reports().into_iter().find(|report| report.id == id);
        self.ensure_other_person(admin, &waiting.ok_or(DecisionError::Unknown)?)?;
        self.audit.ensure_writable()?;
        let by = administrator(admin).await;
        let report = self.deps.approvals.decide(&id, &digest, decision, &by)?;
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let done = format!(
            "{} {verb} the request {id} (approval = \"{}\", digest {digest}){because}",
            by.id,
            report.request.approval.as_str(),
        );
        let (agent, tenant) = (&report.request.agent, report.request.tenant.as_deref());
        self.audit.record_agent_event(event, agent, tenant, &done).await?;
        Ok(report.into())
    }

    /// Has the executable of the process read, which an approval names.
    pub(super) async fn read_exe_for_approval(
        &self,
        agent: &AuthenticatedAgent,
        approval: Option<ApprovalMode>,
    ) -> Result<(), Rejection> {
        if approval.is_none() || agent.peer().exe_sha256().is_some() {
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

    /// Refuses an administrator that is the agent: a process of its invocation, or of its user. For root and the user
    /// of a development host there is no such bound, since they could use the host's keys without asking.
    fn ensure_other_person(&self, admin: &Admin, report: &ApprovalReport) -> Result<(), DecisionError> {
        let peer = admin.peer();
        if self.deps.admin_policy.is_owner(peer) {
            return Ok(());
        }
        if peer.invocation.as_deref() == Some(report.request.invocation.as_str()) {
            return Err(DecisionError::OwnRequest("invocation"));
        }
        if peer.uid == report.request.uid {
            return Err(DecisionError::OwnRequest("user"));
        }
        Ok(())
    }
}

/// A refusal of a request that waits already is not recorded again: the next record counts it.
pub(super) fn rejection_of(refusal: Refusal) -> Rejection {
    let waits_already = refusal.pending_approval().is_some_and(|pending| !pending.is_new);
    let recording = if waits_already { Recording::Counted } else { Recording::Own };
    Rejection { refusal, recording }
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

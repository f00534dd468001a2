//! The answer of the policies to a decision. Only this file constructs an [`Allowed`].

use std::sync::Arc;

use crate::agents::{AgentEntry, AuthenticatedAgent};
use crate::clock::Timestamp;
use crate::policy::refusal::{ErrorCode, Refusal, Stage};
use crate::posture::Posture;

use super::policies::{ActivePolicies, PolicySnapshot, State};
use super::policy_set::{Answer, Verdict};
use super::question::{Act, Principal, Process, Question};
use super::set_id::PolicySetId;

/// Policies that a refusal names.
const MAX_NAMED: usize = 3;
/// Length of the reason for which a policy cannot be evaluated, in characters.
const MAX_ERROR_LEN: usize = 200;

/// The policies do not refuse. Every permit has one.
#[derive(Clone, Debug)]
pub struct Allowed {
    set: Option<Arc<PolicySetId>>,
}

impl Allowed {
    /// The set that was in force; `None` if there was none.
    pub fn set(&self) -> Option<PolicySetId> {
        self.set.as_deref().copied()
    }
}

impl PolicySnapshot {
    /// Asks the policies whether `agent` may do what its grants allow. `posture` is what the decision states.
    ///
    /// # Errors
    /// A refusal without agent and resource: `access_denied` if a policy forbids the request or cannot be
    /// evaluated, or none permits it and one has to; `temporarily_unavailable` if the policies are not known,
    /// or do not belong to the agents among which this one was identified.
    pub(in crate::policy) fn allow(
        &self,
        agent: &AuthenticatedAgent,
        posture: Posture,
        now: Timestamp,
        act: Act<'_>,
    ) -> Result<Allowed, Refusal> {
        let active = match self.state() {
            State::Unknown => return Err(unknown()),
            State::Absent if self.requires_permit() => {
                return Err(Refusal::new(ErrorCode::AccessDenied, no_permit()).at(Stage::Context));
            }
            State::Absent => return Ok(Allowed { set: None }),
            State::Active(active) => active,
        };
        if !belongs_to(active, agent) {
            let description = "the agent configuration has changed; retry";
            return Err(Refusal::new(ErrorCode::TemporarilyUnavailable, description));
        }
        let question = Question {
            principal: Principal::of(agent.entry()),
            act,
            process: process(agent),
            posture: posture.as_str(),
            now,
            local_time: self.local_time(now),
        };
        let verdict = evaluate(active, agent.entry(), question);
        match refusal_reason(&verdict, self.requires_permit()) {
            None => Ok(Allowed { set: Some(active.id.clone()) }),
            Some(reason) => {
                let refusal = Refusal::new(ErrorCode::AccessDenied, reason).at(Stage::Context);
                Err(if verdict.answer == Answer::Error { refusal.imposed() } else { refusal })
            }
        }
    }
}

impl PolicySnapshot {
    /// What the policies say of a question about an agent that is not decided by it. Without policies, that is nothing.
    ///
    /// # Errors
    /// `temporarily_unavailable` if the policies are not known.
    pub(in crate::policy) fn ask(
        &self,
        entry: &AgentEntry,
        question: Question<'_>,
    ) -> Result<Verdict, Refusal> {
        match self.state() {
            State::Unknown => Err(unknown()),
            State::Absent => Ok(Verdict { answer: Answer::Silent, policies: Vec::new(), errors: Vec::new() }),
            State::Active(active) => Ok(evaluate(active, entry, question)),
        }
    }
}

/// The verdict that decides a question about an agent. What is forbidden to an agent is forbidden to its sub-agents, and
/// where a policy has to permit something, it has to permit it to the registered agent: policies are asked for each agent
/// from this one on upwards, until one is refused.
fn evaluate(active: &ActivePolicies, entry: &AgentEntry, question: Question<'_>) -> Verdict {
    let mut verdict = active.set.evaluate(&question);
    for above in entry.lineage().skip(1) {
        if matches!(verdict.answer, Answer::Forbid | Answer::Error) {
            break;
        }
        verdict = active.set.evaluate(&Question { principal: Principal::of(above), ..question.clone() });
    }
    verdict
}

fn unknown() -> Refusal {
    let description = "the policies are not known: their files have had faults since the daemon started, which an \
                       administrator has to correct; try again later";
    Refusal::new(ErrorCode::TemporarilyUnavailable, description)
}

/// Whether the policies are of the same reload as the agent's registration. While a reload activates one after
/// the other, a request could otherwise combine a grant of one with the policies of the other.
fn belongs_to(active: &ActivePolicies, agent: &AuthenticatedAgent) -> bool {
    let root = agent.entry().root();
    let registered = active.agents.get(root.name.as_str());
    registered.is_some_and(|entry| std::ptr::eq(Arc::as_ptr(entry), root) || **entry == *root)
}

fn process(agent: &AuthenticatedAgent) -> Process<'_> {
    let peer = agent.peer();
    Process {
        uid: peer.uid,
        unit: peer.unit.as_deref(),
        invocation: peer.invocation.as_deref(),
        exe_sha256: agent.exe_sha256().map(|digest| digest.to_string()),
        pinned: peer.pinned,
        boundary: agent.delegation().map(|delegation| delegation.boundary.as_str()),
    }
}

/// Why a request is refused; `None` if it is not.
pub(super) fn refusal_reason(verdict: &Verdict, requires_permit: bool) -> Option<String> {
    match verdict.answer {
        Answer::Permit => None,
        Answer::Silent => requires_permit.then(no_permit),
        Answer::Forbid => Some(format!("forbidden by policy {}", list(&verdict.policies))),
        Answer::Error => {
            let (policy, error) = verdict.errors.first()?;
            let error: String = error.chars().take(MAX_ERROR_LEN).collect();
            Some(format!("policy {policy} cannot be evaluated, so the request is refused: {error}"))
        }
    }
}

fn no_permit() -> String {
    "no policy permits this request, and this host requires that one does".to_owned()
}

fn list(policies: &[String]) -> String {
    let named = policies.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match policies.len().checked_sub(MAX_NAMED) {
        None | Some(0) => named,
        Some(more) => format!("{named} and {more} more"),
    }
}

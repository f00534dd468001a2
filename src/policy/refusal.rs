//! Refusals: negative decisions, with their error codes.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::agents::AgentName;
use crate::peer::Peer;
use crate::posture::Posture;

use super::cedar::PolicySetId;

/// Error codes of the API (RFC 6749 sections 4.1.2.1 and 5.2, RFC 8707 section 2, RFC 8628 section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// `access_denied`: policy or posture forbids the request.
    AccessDenied,
    /// `invalid_client`: the process is not a registered agent.
    InvalidClient,
    /// `invalid_request`: the request is malformed or incomplete.
    InvalidRequest,
    /// `invalid_scope`: the grant does not have a requested scope.
    InvalidScope,
    /// `invalid_target`: the agent has no grant for the audience.
    InvalidTarget,
    /// `server_error`: an internal failure.
    ServerError,
    /// `slow_down`: the request exceeds a rate limit.
    SlowDown,
    /// `temporarily_unavailable`: the host cannot issue at the moment.
    TemporarilyUnavailable,
}

impl ErrorCode {
    /// All codes, in the order of their variants.
    pub const ALL: [ErrorCode; 8] = [
        ErrorCode::AccessDenied,
        ErrorCode::InvalidClient,
        ErrorCode::InvalidRequest,
        ErrorCode::InvalidScope,
        ErrorCode::InvalidTarget,
        ErrorCode::ServerError,
        ErrorCode::SlowDown,
        ErrorCode::TemporarilyUnavailable,
    ];

    /// Returns the code as it appears in answers and audit records.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::AccessDenied => "access_denied",
            ErrorCode::InvalidClient => "invalid_client",
            ErrorCode::InvalidRequest => "invalid_request",
            ErrorCode::InvalidScope => "invalid_scope",
            ErrorCode::InvalidTarget => "invalid_target",
            ErrorCode::ServerError => "server_error",
            ErrorCode::SlowDown => "slow_down",
            ErrorCode::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A negative decision on a request.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Error code for the caller.
    pub code: ErrorCode,
    /// Reason for the caller.
    pub description: String,
    /// The calling process, if it was identified.
    pub peer: Option<Peer>,
    /// The agent, if the caller was identified as one.
    pub agent: Option<AgentName>,
    /// The requested audience.
    pub audience: Option<Box<str>>,
    /// What few refusals have; in memory of its own, since each function that can refuse has room for a refusal.
    pub details: Option<Box<RefusalDetails>>,
    /// When a retry can succeed, if that is known.
    pub retry_after: Option<Duration>,
    /// Number of refusals under the same [`RateLimitKey`](super::RateLimitKey) since the last audit record;
    /// they were counted instead of recorded.
    pub suppressed: u64,
    /// How many of `suppressed` are this agent's own ([`Refusal::is_own`]). The others are of agents of its tenant, or
    /// of callers whose refusals the next record of any caller has. Small, as a refusal's room matters.
    pub own_suppressed: u32,
    /// Whether the reason is what others did or decided, and not what the caller asked for ([`Refusal::imposed`]).
    pub is_imposed: bool,
}

/// What few refusals have.
#[derive(Clone, Debug, Default)]
pub struct RefusalDetails {
    /// The requested credential, by name.
    pub credential: Option<Box<str>>,
    /// The policies in force, if the request was decided.
    pub policy: Option<PolicySetId>,
    /// The host's posture, if the request was decided while it was evaluated.
    pub posture: Option<Posture>,
    /// The question that was answered with no, where the code does not say it.
    pub stage: Option<Stage>,
}

/// A question of a decision. They are asked in this order, and the first no refuses the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Which registered agent is the process, and is it neither revoked nor drained?
    Identity,
    /// Do the agent's grants contain what it asks for?
    Privilege,
    /// Do time, posture and policies allow it now?
    Context,
}

/// The answers to the three questions of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verdicts {
    /// The answer to [`Stage::Identity`].
    pub identity: StageResult,
    /// The answer to [`Stage::Privilege`].
    pub privilege: StageResult,
    /// The answer to [`Stage::Context`].
    pub context: StageResult,
}

/// The answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StageResult {
    /// Yes.
    Pass,
    /// No.
    Fail,
    /// The decision did not reach the question.
    None,
}

impl Verdicts {
    /// What was issued has three times yes.
    pub const PASS: Verdicts =
        Verdicts { identity: StageResult::Pass, privilege: StageResult::Pass, context: StageResult::Pass };

    /// The answers where `failed` was answered with no.
    fn failed_at(failed: Stage) -> Verdicts {
        let of = |stage: Stage| match stage.cmp(&failed) {
            std::cmp::Ordering::Less => StageResult::Pass,
            std::cmp::Ordering::Equal => StageResult::Fail,
            std::cmp::Ordering::Greater => StageResult::None,
        };
        Verdicts {
            identity: of(Stage::Identity),
            privilege: of(Stage::Privilege),
            context: of(Stage::Context),
        }
    }
}

impl Refusal {
    /// Creates a refusal; `description` goes to the caller.
    pub fn new(code: ErrorCode, description: impl Into<String>) -> Refusal {
        Refusal {
            code,
            description: description.into(),
            peer: None,
            agent: None,
            audience: None,
            details: None,
            retry_after: None,
            suppressed: 0,
            own_suppressed: 0,
            is_imposed: false,
        }
    }

    /// Adds the calling process.
    pub fn with_peer(mut self, peer: &Peer) -> Refusal {
        self.peer = Some(peer.clone());
        self
    }

    /// Adds the agent.
    pub fn with_agent(mut self, agent: &AgentName) -> Refusal {
        self.agent = Some(agent.clone());
        self
    }

    /// Adds the requested audience.
    pub fn with_audience(mut self, audience: &str) -> Refusal {
        self.audience = Some(audience.into());
        self
    }

    /// Adds the name of the requested credential.
    pub fn with_credential(mut self, credential: &str) -> Refusal {
        self.details.get_or_insert_default().credential = Some(credential.into());
        self
    }

    /// Adds the policies that were in force at the decision, if there were any.
    pub fn with_policy(mut self, policy: Option<PolicySetId>) -> Refusal {
        if policy.is_some() {
            self.details.get_or_insert_default().policy = policy;
        }
        self
    }

    /// Adds the host's posture at the decision.
    pub fn with_posture(mut self, posture: Posture) -> Refusal {
        if posture != Posture::Off {
            self.details.get_or_insert_default().posture = Some(posture);
        }
        self
    }

    /// Adds the question that was answered with no.
    pub fn at(mut self, stage: Stage) -> Refusal {
        self.details.get_or_insert_default().stage = Some(stage);
        self
    }

    /// States that the same request would be granted, or would not have come too soon, but for what others did or
    /// decided: a revocation, draining, the host's posture, a rate or quota that several agents share, a policy that
    /// cannot be evaluated, a credential that the store does not have.
    pub fn imposed(mut self) -> Refusal {
        self.is_imposed = true;
        self
    }

    /// Whether the caller's own requests are the reason: it asked for what it may not have, sent a malformed request,
    /// or exceeded a rate of its own. Only such refusals count as anomalies of an agent.
    pub fn is_own(&self) -> bool {
        let is_of_host = matches!(self.code, ErrorCode::ServerError | ErrorCode::TemporarilyUnavailable);
        !(is_of_host || self.is_imposed)
    }

    /// How many refusals of the agent's own this one stands for: itself, and those in `suppressed`.
    pub fn own_count(&self) -> u64 {
        u64::from(self.own_suppressed) + u64::from(self.is_own())
    }

    /// Returns the host's posture at the decision, if it was evaluated.
    pub fn posture(&self) -> Option<Posture> {
        self.details.as_ref()?.posture
    }

    /// Returns the answers to the three questions of the decision. A refusal for another reason, such as a rate or a
    /// malformed request, answers at most the first one.
    pub fn verdicts(&self) -> Verdicts {
        let stage = self.details.as_ref().and_then(|details| details.stage);
        let by_code = match self.code {
            ErrorCode::InvalidClient => Some(Stage::Identity),
            ErrorCode::InvalidScope | ErrorCode::InvalidTarget => Some(Stage::Privilege),
            ErrorCode::AccessDenied if self.agent.is_some() => Some(Stage::Privilege),
            _ => None,
        };
        if let Some(stage) = stage.or(by_code) {
            return Verdicts::failed_at(stage);
        }
        let identity = if self.agent.is_some() { StageResult::Pass } else { StageResult::None };
        Verdicts { identity, privilege: StageResult::None, context: StageResult::None }
    }

    /// Returns the requested credential, by name.
    pub fn credential(&self) -> Option<&str> {
        self.details.as_ref()?.credential.as_deref()
    }

    /// Returns the policies in force, if the request was decided.
    pub fn policy(&self) -> Option<PolicySetId> {
        self.details.as_ref()?.policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_callers_own_unless_the_host_or_others_are_the_reason() {
        for code in ErrorCode::ALL {
            let is_of_host = matches!(code, ErrorCode::ServerError | ErrorCode::TemporarilyUnavailable);
            let refusal = Refusal { suppressed: 9, own_suppressed: 4, ..Refusal::new(code, "") };
            assert_eq!((refusal.is_own(), refusal.own_count()), (!is_of_host, 5 - u64::from(is_of_host)));
            let imposed = refusal.imposed();
            assert_eq!((imposed.is_own(), imposed.own_count()), (false, 4), "{code}");
        }
    }

    #[test]
    fn verdicts_are_those_up_to_the_first_no() {
        let of = |code, is_agent: bool, stage: Option<Stage>| {
            let mut refusal = Refusal::new(code, "");
            if is_agent {
                refusal = refusal.with_agent(&AgentName::parse("a").unwrap());
            }
            let verdicts = stage.map_or(refusal.clone(), |stage| refusal.at(stage)).verdicts();
            [verdicts.identity, verdicts.privilege, verdicts.context]
        };
        use StageResult::{Fail, None as Open, Pass};
        assert_eq!(of(ErrorCode::InvalidClient, false, None), [Fail, Open, Open]);
        assert_eq!(of(ErrorCode::InvalidTarget, true, None), [Pass, Fail, Open]);
        assert_eq!(of(ErrorCode::AccessDenied, true, Some(Stage::Context)), [Pass, Pass, Fail]);
        assert_eq!(of(ErrorCode::AccessDenied, true, Some(Stage::Identity)), [Fail, Open, Open]);
        assert_eq!(of(ErrorCode::SlowDown, true, None), [Pass, Open, Open]);
        assert_eq!(of(ErrorCode::TemporarilyUnavailable, false, None), [Open, Open, Open]);
        assert_eq!(
            of(ErrorCode::AccessDenied, false, None),
            [Open, Open, Open],
            "an administrator's command"
        );
    }
}

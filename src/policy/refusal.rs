//! Refusals: negative decisions, with their error codes.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::agents::AgentName;
use crate::peer::Peer;

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
}

/// What few refusals have.
#[derive(Clone, Debug, Default)]
pub struct RefusalDetails {
    /// The requested credential, by name.
    pub credential: Option<Box<str>>,
    /// The policies in force, if the request was decided.
    pub policy: Option<PolicySetId>,
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

    /// Returns the requested credential, by name.
    pub fn credential(&self) -> Option<&str> {
        self.details.as_ref()?.credential.as_deref()
    }

    /// Returns the policies in force, if the request was decided.
    pub fn policy(&self) -> Option<PolicySetId> {
        self.details.as_ref()?.policy
    }
}

//! A decision against, or a reason why there can be none.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::agents::AgentName;
use crate::peer::Peer;

/// The error codes of the contract: RFC 6749 section 5.2, RFC 8707 section 2, RFC 8628's `slow_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    AccessDenied,
    InvalidClient,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    ServerError,
    SlowDown,
    TemporarilyUnavailable,
}

impl ErrorCode {
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

/// Who was refused what, and why. The description goes to the caller.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: ErrorCode,
    pub description: String,
    pub peer: Option<Peer>,
    pub agent: Option<AgentName>,
    pub audience: Option<String>,
    /// When it makes sense to ask again.
    pub retry_after: Option<Duration>,
    /// Refusals of the same kind since the last record, which were counted instead of written.
    pub suppressed: u64,
}

impl Refusal {
    pub fn new(code: ErrorCode, description: impl Into<String>) -> Refusal {
        Refusal {
            code,
            description: description.into(),
            peer: None,
            agent: None,
            audience: None,
            retry_after: None,
            suppressed: 0,
        }
    }

    pub fn with_peer(mut self, peer: &Peer) -> Refusal {
        self.peer = Some(peer.clone());
        self
    }

    pub fn with_agent(mut self, agent: &AgentName) -> Refusal {
        self.agent = Some(agent.clone());
        self
    }

    pub fn with_audience(mut self, audience: &str) -> Refusal {
        self.audience = Some(audience.to_owned());
        self
    }
}

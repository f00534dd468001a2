//! A decision against, or a reason why there can be none.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::agents::Name;
use crate::peer::Peer;

/// The error codes of the contract: RFC 6749 section 5.2, RFC 8707 section 2, RFC 8628's `slow_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    AccessDenied,
    InvalidClient,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    ServerError,
    SlowDown,
    TemporarilyUnavailable,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::AccessDenied => "access_denied",
            Reason::InvalidClient => "invalid_client",
            Reason::InvalidRequest => "invalid_request",
            Reason::InvalidScope => "invalid_scope",
            Reason::InvalidTarget => "invalid_target",
            Reason::ServerError => "server_error",
            Reason::SlowDown => "slow_down",
            Reason::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who was refused what, and why. The description goes to the caller.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub reason: Reason,
    pub description: String,
    pub peer: Option<Peer>,
    pub agent: Option<Name>,
    pub audience: Option<String>,
    /// When it makes sense to ask again.
    pub retry_after: Option<Duration>,
    /// Refusals of the same kind since the last record, which were counted instead of written.
    pub suppressed: u64,
}

impl Refusal {
    pub fn new(reason: Reason, description: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            description: description.into(),
            peer: None,
            agent: None,
            audience: None,
            retry_after: None,
            suppressed: 0,
        }
    }

    pub fn by(mut self, peer: &Peer) -> Refusal {
        self.peer = Some(peer.clone());
        self
    }

    pub fn of(mut self, agent: &Name) -> Refusal {
        self.agent = Some(agent.clone());
        self
    }

    pub fn about(mut self, audience: &str) -> Refusal {
        self.audience = Some(audience.to_owned());
        self
    }
}

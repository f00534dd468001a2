//! Refusals on their way to the record.

use std::time::Instant;

use super::{IdentityService, RequestError};
use crate::agents::AuthenticatedAgent;
use crate::peer::Peer;
use crate::policy::{ErrorCode, RateLimitKey, Refusal};

/// A refusal on its way to the record.
#[derive(Debug)]
pub struct Rejection {
    pub(super) refusal: Refusal,
    /// Whether it gets a line of its own, or is counted with others of a flood.
    pub(super) log: bool,
}

impl Rejection {
    pub(super) fn new(code: ErrorCode, description: impl Into<String>, peer: &Peer) -> Rejection {
        Rejection { refusal: Refusal::new(code, description).with_peer(peer), log: true }
    }

    pub(super) fn with_peer(mut self, peer: &Peer) -> Rejection {
        self.refusal = self.refusal.with_peer(peer);
        self
    }

    pub(super) fn with_agent(mut self, agent: &AuthenticatedAgent) -> Rejection {
        self.refusal = self.refusal.with_agent(agent.name());
        self
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Rejection {
        Rejection { refusal, log: true }
    }
}

impl IdentityService {
    /// Callers who are nobody fill neither the log, however many users they are, nor the last of a disk.
    fn limit_unknown_caller_records(&self, rejection: &mut Rejection) {
        if let Err(limited) = self.limiter.take(RateLimitKey::UnknownCallerRecords, Instant::now()) {
            rejection.log = limited.unlogged.is_some();
            rejection.refusal.suppressed += limited.unlogged.unwrap_or(0);
        }
        rejection.log &= !self.audit.health().is_low_on_space();
    }

    /// Writes a refusal down.
    pub(super) async fn record_rejection(&self, mut rejection: Rejection) -> RequestError {
        if rejection.log && rejection.refusal.agent.is_none() {
            self.limit_unknown_caller_records(&mut rejection);
        }
        if !rejection.log {
            return RequestError::Denied(self.audit.suppressed(rejection.refusal));
        }
        match self.audit.record_refusal(rejection.refusal).await {
            Ok(refusal) => RequestError::Denied(refusal),
            Err(unavailable) => RequestError::AuditUnavailable(unavailable),
        }
    }
}

//! Refusals before they are recorded.

use std::time::Instant;

use super::error::RequestError;
use super::identity_service::IdentityService;
use crate::agents::AuthenticatedAgent;
use crate::peer::Peer;
use crate::policy::{ErrorCode, RateLimitKey, Refusal};

/// A refusal that is not recorded yet.
#[derive(Debug)]
pub(super) struct Rejection {
    pub refusal: Refusal,
    /// Whether the refusal gets a record of its own. Otherwise a later record counts it in `suppressed`.
    pub log: bool,
}

impl Rejection {
    pub fn new(code: ErrorCode, description: impl Into<String>, peer: &Peer) -> Rejection {
        Rejection { refusal: Refusal::new(code, description).with_peer(peer), log: true }
    }

    pub fn with_peer(mut self, peer: &Peer) -> Rejection {
        self.refusal = self.refusal.with_peer(peer);
        self
    }

    pub fn with_agent(mut self, agent: &AuthenticatedAgent) -> Rejection {
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
    /// Records a refusal, or counts it where it has no record of its own.
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

    /// Limits the audit records that all unknown callers together cause, and writes none while the disk is low on space.
    fn limit_unknown_caller_records(&self, rejection: &mut Rejection) {
        if let Err(limited) = self.deps.limiter.take(RateLimitKey::UnknownCallerRecords, Instant::now()) {
            rejection.log = limited.unlogged.is_some();
            rejection.refusal.suppressed += limited.unlogged.unwrap_or(0);
        }
        rejection.log &= !self.audit.health().is_low_on_space();
    }
}

//! Refusals before they are recorded.

use std::time::Instant;

use super::error::RequestError;
use super::identity_service::IdentityService;
use crate::agents::AuthenticatedAgent;
use crate::issue::AdminClass;
use crate::peer::Peer;
use crate::policy::{ErrorCode, RateLimitKey, Refusal};

/// A refusal that is not recorded yet.
#[derive(Debug)]
pub(super) struct Rejection {
    pub refusal: Refusal,
    pub recording: Recording,
}

/// How a refusal gets into the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recording {
    /// It has a record of its own.
    Own,
    /// The next record of a refusal of the same caller counts it.
    Counted,
    /// As `Counted`, and the rate limiter has counted it already.
    CountedByLimiter,
}

impl Rejection {
    pub fn new(code: ErrorCode, description: impl Into<String>, peer: &Peer) -> Rejection {
        Refusal::new(code, description).with_peer(peer).into()
    }

    pub fn with_peer(mut self, peer: &Peer) -> Rejection {
        self.refusal = self.refusal.with_peer(peer);
        self
    }

    pub fn with_agent(mut self, agent: &AuthenticatedAgent) -> Rejection {
        let tenant = agent.entry().tenant.as_deref();
        self.refusal = self.refusal.with_agent(agent.name()).with_tenant(tenant);
        self
    }

    pub fn with_audience(mut self, audience: &str) -> Rejection {
        self.refusal = self.refusal.with_audience(audience);
        self
    }

    /// Without a record of its own if `is_counted`, such as where the previous refusal had the same reason.
    pub fn counted_if(mut self, is_counted: bool) -> Rejection {
        if is_counted && self.recording == Recording::Own {
            self.recording = Recording::Counted;
        }
        self
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Rejection {
        Rejection { refusal, recording: Recording::Own }
    }
}

impl IdentityService {
    /// Records a refusal, or counts it where it has no record of its own.
    pub(super) async fn record_rejection(&self, mut rejection: Rejection) -> RequestError {
        if rejection.recording == Recording::Own && rejection.refusal.agent.is_none() {
            self.limit_unknown_caller_records(&mut rejection);
        }
        // Boxed, because requests that are granted do not need the room for it.
        Box::pin(self.record_limited(rejection)).await
    }

    /// As [`IdentityService::record_rejection`] for an administrator, whose own rate limits its records. It
    /// shares none with unknown callers, who could otherwise have its refusals counted instead of recorded.
    /// Those of the admin group leave the rest of a disk that is low on space to agents.
    pub(super) async fn record_admin_rejection(
        &self,
        class: AdminClass,
        rejection: Rejection,
    ) -> RequestError {
        let is_counted = class == AdminClass::Group && self.audit.health().is_low_on_space();
        self.record_limited(rejection.counted_if(is_counted)).await
    }

    async fn record_limited(&self, rejection: Rejection) -> RequestError {
        let Rejection { mut refusal, recording } = rejection;
        self.add_tenant(&mut refusal);
        match recording {
            Recording::Own => match self.audit.record_refusal(refusal).await {
                Ok(refusal) => RequestError::Denied(refusal),
                Err(unavailable) => RequestError::AuditUnavailable(unavailable),
            },
            Recording::Counted => RequestError::DeniedUnrecorded(self.audit.count_refusal(refusal)),
            Recording::CountedByLimiter => {
                RequestError::DeniedUnrecorded(self.audit.pass_counted_refusal(refusal))
            }
        }
    }

    /// Adds the tenant of the agent, where the part that refused knew only the agent's name.
    fn add_tenant(&self, refusal: &mut Refusal) {
        if let (Some(agent), None) = (&refusal.agent, &refusal.tenant) {
            let agents = self.deps.agents.current();
            refusal.tenant =
                agents.get(agent.as_str()).and_then(|entry| entry.tenant.as_deref().map(Into::into));
        }
    }

    /// Limits the audit records that all unknown callers together cause, and writes none while the disk is
    /// low on space.
    fn limit_unknown_caller_records(&self, rejection: &mut Rejection) {
        if self.audit.health().is_low_on_space() {
            rejection.recording = Recording::Counted;
            return;
        }
        if let Err(limited) = self.deps.limiter.take(RateLimitKey::UnknownCallerRecords, Instant::now()) {
            match limited.unlogged {
                Some(unlogged) => rejection.refusal.suppressed += unlogged,
                None => rejection.recording = Recording::CountedByLimiter,
            }
        }
    }
}

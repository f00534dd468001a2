//! Refusals before they are recorded.

use std::sync::Arc;
use std::time::Instant;

use super::error::RequestError;
use super::identity_service::IdentityService;
use crate::agents::{AgentEntry, AuthenticatedAgent};
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
        self.refusal = self.refusal.with_agent(agent.name());
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

impl Rejection {
    /// The same of a caller that is no agent.
    pub(super) fn without_agent(mut self) -> Rejection {
        self.refusal.agent = None;
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
        let Rejection { refusal, recording } = rejection;
        match recording {
            Recording::Own => {
                let entry = self.entry_of(&refusal);
                match self.audit.record_refusal(refusal, entry.as_deref()).await {
                    Ok(refusal) => {
                        if let Some(approval) = refusal.get().requested_approval() {
                            self.deps.approvals.set_recorded(&approval.id);
                        }
                        RequestError::Denied(refusal)
                    }
                    Err(unavailable) => RequestError::AuditUnavailable(unavailable),
                }
            }
            Recording::Counted => RequestError::DeniedUnrecorded(self.audit.count_refusal(refusal)),
            Recording::CountedByLimiter => {
                RequestError::DeniedUnrecorded(self.audit.pass_counted_refusal(refusal))
            }
        }
    }

    /// The agent of a refusal as it is registered, which has its owner and tenant; `None` if there is none, or no longer.
    fn entry_of(&self, refusal: &Refusal) -> Option<Arc<AgentEntry>> {
        self.deps.agents.registrations().find(refusal.agent.as_ref()?.as_str()).cloned()
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

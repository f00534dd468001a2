//! Grants and credentials that end soon.

use std::time::Duration;

use super::identity_service::IdentityService;
use crate::agents::{ExpiryHolder, ExpiryOf};
use crate::wire::change::PendingChange;
use crate::wire::status::{AgentsStatus, ExpiringGrant};

/// How long before its end a grant is named.
const NOTICE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Grants that a response names.
const MAX_NAMED: usize = 100;

impl IdentityService {
    /// The agents, with the grants that have expired or will within 7 days.
    pub(super) fn agents_status(&self) -> AgentsStatus {
        let agents = self.deps.agents.current();
        let now = self.deps.clock_state.at_decision().not_before();
        let end = agents.expiries().partition_point(|expiry| expiry.at <= now.after(NOTICE));
        let expiring = agents.expiries()[..end].iter().take(MAX_NAMED).map(|expiry| {
            let (agent, role) = match &expiry.holder {
                ExpiryHolder::Agent(name) => (Some(name.clone()), None),
                ExpiryHolder::Role(name) => (None, Some(name.clone())),
            };
            let (audience, credential) = match &expiry.of {
                ExpiryOf::Grant(audience) => (Some(audience.clone()), None),
                ExpiryOf::Credential(name) => (None, Some(name.clone())),
            };
            ExpiringGrant { agent, role, audience, credential, expires: expiry.at, expired: expiry.at <= now }
        });
        AgentsStatus {
            expiring: expiring.collect(),
            expiring_count: end,
            pending: self.deps.agents.pending_change().as_ref().map(PendingChange::from),
            ..AgentsStatus::from(&*self.deps.agents.load_status())
        }
    }
}

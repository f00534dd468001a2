//! Keys that are revoked, or are to be.

use std::time::Duration;

use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use crate::agents::AuthenticatedAgent;
use crate::revocation::{Target, TargetKind};
use crate::verify::WIT_KID_PREFIX;

/// How long a request waits for the key that signs in place of a revoked one: some signatures of the TPM.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(2);

impl IdentityService {
    /// Waits while the key that signs for one of these agents is revoked and another is being made, at most 2 s. Does
    /// not wait for one that cannot be made. Call it before a decision.
    ///
    /// # Errors
    /// `temporarily_unavailable` if the registered agents changed meanwhile.
    pub(super) async fn wait_for_signer(&self, agents: &[AuthenticatedAgent]) -> Result<(), Rejection> {
        if self.has_signer(agents) {
            return Ok(());
        }
        let mut changed = self.deps.issuer.subscribe();
        let wait = async {
            while !self.has_signer(agents) && self.deps.key_admin.blocked_reason().is_none() {
                // Fails only if the issuer is gone, which the service holds.
                let _ = changed.changed().await;
            }
        };
        let _ = tokio::time::timeout(SUCCESSOR_TIMEOUT, wait).await;
        agents.iter().try_for_each(|agent| self.ensure_current(agent))
    }

    fn has_signer(&self, agents: &[AuthenticatedAgent]) -> bool {
        let Some(issuer_state) = self.deps.issuer.state() else { return true };
        agents.iter().all(|agent| !issuer_state.waits_for_successor(agent.entry().tenant.as_deref()))
    }

    /// The issuing key or RSA key with this `kid`, which may have the prefix that it has in the WIT bundle.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`] for a key that cannot be revoked, with what to do instead.
    pub(super) fn revocable_key(&self, kid: &str) -> Result<Target, AdminError> {
        let issuer_state = self.ready_issuer()?;
        let find = |kid: &str| issuer_state.key_reports().iter().find(|report| report.kid == kid);
        let found = find(kid).or_else(|| find(kid.strip_prefix(WIT_KID_PREFIX)?));
        let named = Target::new(TargetKind::Key, found.map_or(kid, |report| &report.kid));
        let is_revoked = self.deps.revocations.current().get(&named).is_some();
        match found {
            _ if is_revoked => Ok(named),
            Some(report) if report.is_revocable() => Ok(named),
            Some(report) => Err(InvalidRequest::new(report.not_revocable()).into()),
            None => {
                Err(InvalidRequest::new("no key of this host has this kid; hostbadge key list shows them")
                    .into())
            }
        }
    }
}

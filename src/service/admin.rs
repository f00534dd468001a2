//! The beginning of the way for administrators, and what they have done to the registry.

use super::{IdentityService, Rejection, RequestError};
use crate::agents::AgentChanges;
use crate::audit::{AuditUnavailable, Event, Recorded};
use crate::config::Diagnostic;
use crate::peer::{Peer, PeerLookup};
use crate::policy::{AdminPolicy, ErrorCode, RateLimitKey};

impl IdentityService {
    /// An administrator, or a refusal.
    pub async fn authenticate_admin(
        &self,
        lookup: PeerLookup,
        admin_policy: AdminPolicy,
    ) -> Result<Peer, RequestError> {
        let authenticated = self.require_peer(lookup).and_then(|peer| {
            if admin_policy.is_admin(&peer) {
                return Ok(peer);
            }
            self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(&peer))?;
            Err(Rejection::new(
                ErrorCode::AccessDenied,
                "the admin socket is for root and the admin group",
                &peer,
            ))
        });
        match authenticated {
            Ok(peer) => Ok(peer),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// Whether an administrator may do what comes to holding the host's keys, or a refusal.
    pub async fn require_owner(&self, peer: &Peer, admin_policy: AdminPolicy) -> Result<(), RequestError> {
        if admin_policy.is_owner(peer) {
            return Ok(());
        }
        let rejection = self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(peer)).err().unwrap_or_else(|| {
            let description = "this comes to holding the host's keys: it is for root, and not for the admin group; use sudo";
            Rejection::new(ErrorCode::AccessDenied, description, peer)
        });
        Err(self.record_rejection(rejection).await)
    }

    /// Reads the agents again, off the road, and writes down what changed.
    pub async fn reload(
        &self,
        requested_by: &str,
    ) -> Result<Result<Recorded<AgentChanges>, Vec<Diagnostic>>, RequestError> {
        let (agents, federation) = (self.agents.clone(), self.federation.clone());
        let outcome = tokio::task::spawn_blocking(move || {
            // Either comes into force without the other.
            let bundles = federation.reload();
            match (agents.reload(), bundles) {
                (Ok(changes), Ok(_)) => Ok(changes),
                (Ok(_), Err(faults)) => Err(faults),
                (Err(faults), bundles) => Err([faults, bundles.err().unwrap_or_default()].concat()),
            }
        })
        .await;
        let join_error = |e: tokio::task::JoinError| {
            RequestError::AuditUnavailable(AuditUnavailable(std::io::Error::other(e).into()))
        };
        match outcome.map_err(join_error)? {
            Ok(changes) => self
                .audit
                .record_reload(changes, requested_by)
                .await
                .map(Ok)
                .map_err(RequestError::AuditUnavailable),
            Err(faults) => {
                for fault in &faults {
                    tracing::error!(event = "agents-rejected", "{fault}");
                }
                let description = format!(
                    "{requested_by} asked for a reload; {} faults, the last good set stays in force",
                    faults.len()
                );
                self.audit
                    .record_event(Event::AgentsRejected, &description)
                    .await
                    .map_err(RequestError::AuditUnavailable)?;
                Ok(Err(faults))
            }
        }
    }
}

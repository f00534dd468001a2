//! Which certificates are of invocations that have ended.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::pki::{CertificateIssuer, InvocationTag};
use crate::revocation::{RevocationSet, TargetKind};

/// Marks each certificate once: what is issued in an invocation after it was said to have ended is valid.
#[derive(Default)]
pub(super) struct EndedLeaves {
    /// The greatest epoch of a revocation whose certificates are marked.
    marked: AtomicU64,
    /// Whether an administrator revoked one of the invocations that were marked.
    is_urgent: AtomicBool,
}

impl EndedLeaves {
    /// Marks the certificates of the invocations that are revoked or have ended since [`EndedLeaves::marked`].
    /// `agent_of` names the agent of a SPIFFE ID.
    pub fn mark<'a>(
        &self,
        issuer: &CertificateIssuer,
        revocations: &RevocationSet,
        agent_of: impl Fn(&str) -> Option<&'a str>,
    ) {
        let marked = self.marked.load(Ordering::Relaxed);
        let of_kind = |kind| revocations.iter().filter(move |one| one.target.kind() == kind);
        let invocations: HashSet<InvocationTag> = of_kind(TargetKind::Invocation)
            .filter(|one| one.is_blocking || one.epoch > marked)
            .filter_map(|one| InvocationTag::of_id(one.target.value()))
            .collect();
        // In place of single invocations, if too many have ended. A revocation that was lifted was marked before.
        let agents: HashSet<&str> = of_kind(TargetKind::Agent)
            .filter(|one| !one.is_blocking && one.epoch > marked.max(revocations.loaded_epoch()))
            .map(|one| one.target.value())
            .collect();
        if of_kind(TargetKind::Invocation).any(|one| one.is_blocking && one.epoch > marked) {
            self.is_urgent.store(true, Ordering::Relaxed);
        }
        if invocations.is_empty() && agents.is_empty() {
            return;
        }
        issuer.end_invocations(|id, leaf| {
            leaf.invocation.is_some_and(|tag| invocations.contains(&tag))
                || (!agents.is_empty() && agent_of(id).is_some_and(|agent| agents.contains(agent)))
        });
    }

    /// All of these revocations have been marked, and are on the revocation lists in memory.
    pub fn marked(&self, revocations: &RevocationSet) {
        self.marked.fetch_max(revocations.latest_epoch(), Ordering::Relaxed);
    }

    /// Whether the revocation lists have to be written now, because an administrator waits for them. False from the
    /// next call on.
    pub fn take_urgent(&self) -> bool {
        self.is_urgent.swap(false, Ordering::Relaxed)
    }

    /// What the audit log gets for the certificates that were marked.
    pub fn messages(&self, issuer: &CertificateIssuer) -> Vec<String> {
        let mut messages: Vec<String> = issuer
            .take_ended()
            .into_iter()
            .map(|(id, count)| {
                format!("{count} certificates of {id} are revoked: the invocation that got them has ended")
            })
            .collect();
        messages.sort_unstable();
        messages
    }
}

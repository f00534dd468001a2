//! The proof that a process is an agent, which every later step of the request path takes.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::peer::{Invocation, Peer, PeerInfo, Sha256Digest};

use super::contents::Attested;
use super::delegation::Delegation;
use super::entry::AgentEntry;
use super::match_tag::MatchTag;
use super::name::AgentName;
use super::registry::AgentRegistry;
use super::selectors::TagCheck;

/// A peer that matches a registered agent. [`AgentRegistry::identify`] constructs it, and
/// [`AgentRegistry::runner`] one that stays in its [`Runner`](super::Runner).
#[derive(Clone, Debug)]
pub struct AuthenticatedAgent {
    pub(super) entry: Arc<AgentEntry>,
    pub(super) peer: Peer,
    pub(super) exe_sha256: Option<Sha256Digest>,
    pub(super) match_tag: MatchTag,
    pub(super) attested: Option<Arc<Attested>>,
    pub(super) delegation: Option<Arc<Delegation>>,
    /// Whether the process is not the agent, and may start commands for it.
    pub(super) is_runner: bool,
}

impl AuthenticatedAgent {
    /// Returns the agent's registration at the time of identification.
    pub fn entry(&self) -> &AgentEntry {
        &self.entry
    }

    /// Returns the agent's name.
    pub fn name(&self) -> &AgentName {
        &self.entry.name
    }

    /// Returns the name of the registered agent: of a sub-agent, that of the one above it. What is bounded or kept for each
    /// agent is so for this one, since an agent can have many sub-agents.
    pub fn root_name(&self) -> &AgentName {
        &self.entry.root().name
    }

    /// Returns the process that was identified.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns the SHA-256 digest of the executable if it is known. Only conditions on it wait until it is.
    pub fn exe_sha256(&self) -> Option<Sha256Digest> {
        self.exe_sha256
    }

    /// Returns the tag of the conditions that the process met.
    pub fn match_tag(&self) -> MatchTag {
        self.match_tag
    }

    /// Which contents the process was compared by; `None` if no condition names one.
    pub fn attested(&self) -> Option<&Attested> {
        self.attested.as_deref()
    }

    /// Whether the process is not the agent, and a user's whom the agent's `[run]` permits.
    pub fn is_runner(&self) -> bool {
        self.is_runner
    }

    /// Of a sub-agent, its delegation.
    pub fn delegation(&self) -> Option<&Delegation> {
        self.delegation.as_deref()
    }

    /// The invocations in which what the process gets is issued: that of the process, and of a sub-agent those of the
    /// agents above it.
    pub fn invocations(&self) -> impl Iterator<Item = &Invocation> {
        let above = self.delegation().into_iter().flat_map(|delegation| &delegation.parent_invocations);
        self.peer.invocation.iter().chain(above)
    }

    /// The tag of the conditions that the process of the registered agent met: of a sub-agent, when that delegated.
    pub fn root_tag(&self) -> MatchTag {
        self.delegation().map_or(self.match_tag, |delegation| delegation.root_tag)
    }

    /// How long something may live that the agent gets now for `longest`: no longer than its delegation, if it is a
    /// sub-agent.
    pub fn cap(&self, longest: Duration, now: Timestamp) -> Duration {
        self.delegation().map_or(longest, |delegation| delegation.cap(longest, now))
    }

    /// Whether both values are the same registration, matched by the same process, with no change of either.
    /// That the digest of the executable has become known since is no change.
    pub fn is_same_snapshot(&self, other: &AuthenticatedAgent) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
            && std::ptr::eq::<PeerInfo>(&*self.peer, &*other.peer)
            && self.match_tag == other.match_tag
            && self.attested == other.attested
    }
}

impl AgentRegistry {
    /// Whether the registration of an agent that was identified earlier is still the same, and the process
    /// met its present conditions.
    pub fn is_current(&self, agent: &AuthenticatedAgent) -> bool {
        let registrations = self.registrations();
        registrations.find(agent.name().as_str()).is_some_and(|entry| {
            let meets = || registrations.check_tag(entry, agent.match_tag) == TagCheck::Same;
            // The permission of a runner is a part of the entry.
            *entry == agent.entry && (agent.is_runner || meets())
        })
    }
}

//! Identifies the agent that a peer is: the second step of the request path.

use std::sync::Arc;

use crate::peer::{DigestError, Peer, PeerInfo, Sha256Digest};
use crate::posture::ImaDigests;

use super::entry::AgentEntry;
use super::name::AgentName;
use super::registry::AgentRegistry;
use super::selectors::MatchResult;

/// A peer that matches a registered agent. Only [`AgentRegistry::identify`] and
/// [`AgentRegistry::identify_all`] construct one.
#[derive(Clone, Debug)]
pub struct AuthenticatedAgent {
    entry: Arc<AgentEntry>,
    peer: Peer,
    exe_sha256: Option<Sha256Digest>,
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

    /// Returns the process that was identified.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns the SHA-256 digest of the executable if it is known. Only conditions on it wait until it is.
    pub fn exe_sha256(&self) -> Option<Sha256Digest> {
        self.exe_sha256
    }

    /// Whether both values are the same registration, matched by the same process, with no change of either. That
    /// the digest of the executable has become known since is no change.
    pub fn is_same_snapshot(&self, other: &AuthenticatedAgent) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry) && std::ptr::eq::<PeerInfo>(&*self.peer, &*other.peer)
    }
}

/// Why a peer is not identified as an agent. The caller receives the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// The process meets the selectors of no agent.
    #[error("no registered agent matches this process")]
    NoMatch,
    /// The process meets all selectors but `measured`.
    #[error("this process would be agent \"{agent}\", but {reason}")]
    Unmeasured {
        /// The agent's name.
        agent: String,
        /// Why the executable does not count as measured.
        reason: String,
    },
    /// The process meets all selectors but those on the content of its executable, which is not known.
    #[error("this process would be agent \"{agent}\", but {error}")]
    NoDigest {
        /// The agent's name.
        agent: String,
        /// Why the digest of the executable is not known.
        error: DigestError,
    },
    /// The process is not the agent that the request names.
    #[error("this process is not agent \"{0}\"; run whoami to list its agents")]
    AgentMismatch(String),
    /// The process matches several agents, and the request names none of them.
    #[error("several agents match this process; name one of {} in \"agent\"", .0.join(", "))]
    Ambiguous(Vec<String>),
}

impl IdentifyError {
    /// Whether the process would be the agent `name` if the content of its executable were known or measured.
    fn is_unverified(&self, name: &str) -> bool {
        matches!(
            self,
            IdentifyError::Unmeasured { agent, .. } | IdentifyError::NoDigest { agent, .. } if agent == name
        )
    }
}

impl AgentRegistry {
    /// Returns all agents that `peer` matches, sorted by name.
    pub async fn matching_entries(&self, peer: &Peer, ima_digests: &ImaDigests) -> Vec<Arc<AgentEntry>> {
        self.match_all(peer, ima_digests).await.0
    }

    /// Returns all agents that `peer` matches, and an [`IdentifyError::Unmeasured`] or
    /// [`IdentifyError::NoDigest`] for each agent that it would match if its executable were measured or known.
    async fn match_all(
        &self,
        peer: &Peer,
        ima_digests: &ImaDigests,
    ) -> (Vec<Arc<AgentEntry>>, Vec<IdentifyError>) {
        let agents = self.current();
        let (mut matched, mut unverified) = (Vec::new(), Vec::new());
        for entry in agents.iter() {
            match entry.selectors.matches(peer, self.nss(), self.digest_cache(), ima_digests).await {
                MatchResult::Matched => matched.push(entry.clone()),
                MatchResult::NotMatched => {}
                MatchResult::Unmeasured(reason) => {
                    unverified.push(IdentifyError::Unmeasured { agent: entry.name.to_string(), reason });
                }
                MatchResult::NoDigest(error) => {
                    unverified.push(IdentifyError::NoDigest { agent: entry.name.to_string(), error });
                }
            }
        }
        (matched, unverified)
    }

    /// Identifies `peer` as all agents that it matches, sorted by name. The first is its default identity.
    ///
    /// # Errors
    /// [`IdentifyError::NoMatch`], [`IdentifyError::Unmeasured`] or [`IdentifyError::NoDigest`].
    pub async fn identify_all(
        &self,
        peer: &Peer,
        ima_digests: &ImaDigests,
    ) -> Result<Vec<AuthenticatedAgent>, IdentifyError> {
        let (matched, mut unverified) = self.match_all(peer, ima_digests).await;
        if matched.is_empty() {
            return Err(if unverified.is_empty() {
                IdentifyError::NoMatch
            } else {
                unverified.swap_remove(0)
            });
        }
        let exe_sha256 = peer.known_exe_sha256(self.digest_cache());
        Ok(matched
            .into_iter()
            .map(|entry| AuthenticatedAgent { entry, peer: peer.clone(), exe_sha256 })
            .collect())
    }

    /// Whether the registration of an agent that was identified earlier is still the same.
    pub fn is_current(&self, agent: &AuthenticatedAgent) -> bool {
        let agents = self.current();
        agents.get(agent.name().as_str()).is_some_and(|entry| *entry == agent.entry)
    }

    /// Identifies `peer` as the agent `requested_name`, or as the only agent that it matches.
    ///
    /// # Errors
    /// Any [`IdentifyError`]: a peer that matches several agents has to name one.
    pub async fn identify(
        &self,
        peer: &Peer,
        requested_name: Option<&str>,
        ima_digests: &ImaDigests,
    ) -> Result<AuthenticatedAgent, IdentifyError> {
        let (mut matched, mut unverified) = self.match_all(peer, ima_digests).await;
        if matched.is_empty() && requested_name.is_none() && !unverified.is_empty() {
            return Err(unverified.swap_remove(0));
        }
        let entry = match requested_name {
            Some(name) => match matched.iter().position(|entry| entry.name.as_str() == name) {
                Some(index) => matched.swap_remove(index),
                None => match unverified.iter().position(|error| error.is_unverified(name)) {
                    Some(index) => return Err(unverified.swap_remove(index)),
                    None if matched.is_empty() => return Err(IdentifyError::NoMatch),
                    None => return Err(IdentifyError::AgentMismatch(name.to_owned())),
                },
            },
            None if matched.is_empty() => return Err(IdentifyError::NoMatch),
            None if matched.len() > 1 => {
                return Err(IdentifyError::Ambiguous(matched.iter().map(|e| e.name.to_string()).collect()));
            }
            None => matched.swap_remove(0),
        };
        let exe_sha256 = peer.known_exe_sha256(self.digest_cache());
        Ok(AuthenticatedAgent { entry, peer: peer.clone(), exe_sha256 })
    }
}

//! From a peer to the agent that it is: the second step of the road.

use std::sync::Arc;

use crate::peer::{Peer, PeerInfo, Sha256Digest};

use super::registry::AgentRegistry;
use super::selectors::MatchResult;
use super::{AgentEntry, AgentName};
use crate::posture::ImaDigests;

/// A peer that is a registered agent. Only [`Agents::identify`] makes one.
#[derive(Clone, Debug)]
pub struct AuthenticatedAgent {
    entry: Arc<AgentEntry>,
    peer: Peer,
    exe_sha256: Option<Sha256Digest>,
}

impl AuthenticatedAgent {
    pub fn entry(&self) -> &AgentEntry {
        &self.entry
    }

    pub fn name(&self) -> &AgentName {
        &self.entry.name
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// SHA-256 of the executable; none where we lack the right to read it.
    pub fn exe_sha256(&self) -> Option<Sha256Digest> {
        self.exe_sha256
    }

    /// Whether both are one agent of one registry, seen in one unchanged process.
    pub fn is_same_snapshot(&self, other: &AuthenticatedAgent) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
            && std::ptr::eq::<PeerInfo>(&*self.peer, &*other.peer)
            && self.exe_sha256 == other.exe_sha256
    }
}

/// Why a peer is not the agent it wants to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    #[error("no registered agent matches this process")]
    NoMatch,
    #[error("this process would be agent \"{agent}\", but {reason}")]
    Unmeasured { agent: String, reason: String },
    #[error("this process is not agent \"{0}\"; whoami lists what it is")]
    AgentMismatch(String),
    #[error("several agents match this process; name one of {} in \"agent\"", .0.join(", "))]
    Ambiguous(Vec<String>),
}

impl AgentRegistry {
    /// All agents that `peer` is, in the order of their names.
    pub async fn matching_entries(&self, peer: &Peer, ima_digests: &ImaDigests) -> Vec<Arc<AgentEntry>> {
        self.match_all(peer, ima_digests).await.0
    }

    /// All agents that `peer` is, and those that it would be if its executable were measured.
    async fn match_all(
        &self,
        peer: &Peer,
        ima_digests: &ImaDigests,
    ) -> (Vec<Arc<AgentEntry>>, Vec<IdentifyError>) {
        let agents = self.current();
        let (mut matched, mut unmeasured) = (Vec::new(), Vec::new());
        for entry in agents.iter() {
            match entry.selectors.matches(peer, self.nss(), self.digest_cache(), ima_digests).await {
                MatchResult::Matched => matched.push(entry.clone()),
                MatchResult::NotMatched => {}
                MatchResult::Unmeasured(reason) => {
                    unmeasured.push(IdentifyError::Unmeasured { agent: entry.name.to_string(), reason });
                }
            }
        }
        (matched, unmeasured)
    }

    /// Every agent that `peer` is, in the order of their names: the first is its default identity.
    pub async fn identify_all(
        &self,
        peer: &Peer,
        ima_digests: &ImaDigests,
    ) -> Result<Vec<AuthenticatedAgent>, IdentifyError> {
        let (matched, mut unmeasured) = self.match_all(peer, ima_digests).await;
        if matched.is_empty() {
            return Err(if unmeasured.is_empty() {
                IdentifyError::NoMatch
            } else {
                unmeasured.swap_remove(0)
            });
        }
        let exe_sha256 = peer.compute_exe_sha256(self.digest_cache()).await;
        Ok(matched
            .into_iter()
            .map(|entry| AuthenticatedAgent { entry, peer: peer.clone(), exe_sha256 })
            .collect())
    }

    /// Whether an agent that was identified earlier is registered as it was then.
    pub fn is_current(&self, agent: &AuthenticatedAgent) -> bool {
        let agents = self.current();
        agents.get(agent.name().as_str()).is_some_and(|entry| *entry == agent.entry)
    }

    /// The agent that `peer` is; where it is several, the one it names.
    pub async fn identify(
        &self,
        peer: &Peer,
        requested_name: Option<&str>,
        ima_digests: &ImaDigests,
    ) -> Result<AuthenticatedAgent, IdentifyError> {
        let (mut matched, mut unmeasured) = self.match_all(peer, ima_digests).await;
        let is_for_agent = |error: &IdentifyError, agent_name| matches!(error, IdentifyError::Unmeasured { agent, .. } if agent == agent_name);
        if matched.is_empty() && requested_name.is_none() && !unmeasured.is_empty() {
            return Err(unmeasured.swap_remove(0));
        }
        let entry = match requested_name {
            Some(name) => match matched.iter().position(|entry| entry.name.as_str() == name) {
                Some(index) => matched.swap_remove(index),
                None => match unmeasured.iter().position(|error| is_for_agent(error, name)) {
                    Some(index) => return Err(unmeasured.swap_remove(index)),
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
        let exe_sha256 = peer.compute_exe_sha256(self.digest_cache()).await;
        Ok(AuthenticatedAgent { entry, peer: peer.clone(), exe_sha256 })
    }
}

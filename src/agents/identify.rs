//! From a peer to the agent that it is: the second step of the road.

use std::sync::Arc;

use crate::peer::{Digest, Facts, Peer};

use super::matching::Held;
use super::watch::Agents;
use super::{Entry, Name};
use crate::posture::Measured;

/// A peer that is a registered agent. Only [`Agents::identify`] makes one.
#[derive(Clone, Debug)]
pub struct Agent {
    entry: Arc<Entry>,
    peer: Peer,
    exe_sha256: Option<Digest>,
}

impl Agent {
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    pub fn name(&self) -> &Name {
        &self.entry.name
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// SHA-256 of the executable; none where we lack the right to read it.
    pub fn exe_sha256(&self) -> Option<Digest> {
        self.exe_sha256
    }

    /// Whether both are one agent of one registry, seen in one unchanged process.
    pub fn is_same(&self, other: &Agent) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
            && std::ptr::eq::<Facts>(&*self.peer, &*other.peer)
            && self.exe_sha256 == other.exe_sha256
    }
}

/// Why a peer is not the agent it wants to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    #[error("no registered agent matches this process")]
    Stranger,
    #[error("this process would be agent \"{agent}\", but {why}")]
    Unmeasured { agent: String, why: String },
    #[error("this process is not agent \"{0}\"; whoami lists what it is")]
    NotThat(String),
    #[error("several agents match this process; name one of {} in \"agent\"", .0.join(", "))]
    Ambiguous(Vec<String>),
}

impl Agents {
    /// All agents that `peer` is, in the order of their names.
    pub async fn all_of(&self, peer: &Peer, measured: &Measured) -> Vec<Arc<Entry>> {
        self.sorted_out(peer, measured).await.0
    }

    /// All agents that `peer` is, and those that it would be if its executable were measured.
    async fn sorted_out(&self, peer: &Peer, measured: &Measured) -> (Vec<Arc<Entry>>, Vec<Unidentified>) {
        let registry = self.registry();
        let (mut found, mut unmeasured) = (Vec::new(), Vec::new());
        for entry in registry.iter() {
            match entry.matching.holds(peer, self.names(), self.digests(), measured).await {
                Held::Yes => found.push(entry.clone()),
                Held::No => {}
                Held::Unmeasured(why) => {
                    unmeasured.push(Unidentified::Unmeasured { agent: entry.name.to_string(), why });
                }
            }
        }
        (found, unmeasured)
    }

    /// Every agent that `peer` is, in the order of their names: the first is its default identity.
    pub async fn identify_all(&self, peer: &Peer, measured: &Measured) -> Result<Vec<Agent>, Unidentified> {
        let (found, mut unmeasured) = self.sorted_out(peer, measured).await;
        if found.is_empty() {
            return Err(if unmeasured.is_empty() {
                Unidentified::Stranger
            } else {
                unmeasured.swap_remove(0)
            });
        }
        let exe_sha256 = peer.compute_exe_sha256(self.digests()).await;
        Ok(found.into_iter().map(|entry| Agent { entry, peer: peer.clone(), exe_sha256 }).collect())
    }

    /// Whether an agent that was identified earlier is registered as it was then.
    pub fn is_current(&self, agent: &Agent) -> bool {
        let registry = self.registry();
        registry.find(agent.name().as_str()).is_some_and(|entry| *entry == agent.entry)
    }

    /// The agent that `peer` is; where it is several, the one it names.
    pub async fn identify(
        &self,
        peer: &Peer,
        wanted: Option<&str>,
        measured: &Measured,
    ) -> Result<Agent, Unidentified> {
        let (mut found, mut unmeasured) = self.sorted_out(peer, measured).await;
        let is =
            |no: &Unidentified, name| matches!(no, Unidentified::Unmeasured { agent, .. } if agent == name);
        if found.is_empty() && wanted.is_none() && !unmeasured.is_empty() {
            return Err(unmeasured.swap_remove(0));
        }
        let entry = match wanted {
            Some(name) => match found.iter().position(|entry| entry.name.as_str() == name) {
                Some(at) => found.swap_remove(at),
                None => match unmeasured.iter().position(|no| is(no, name)) {
                    Some(at) => return Err(unmeasured.swap_remove(at)),
                    None if found.is_empty() => return Err(Unidentified::Stranger),
                    None => return Err(Unidentified::NotThat(name.to_owned())),
                },
            },
            None if found.is_empty() => return Err(Unidentified::Stranger),
            None if found.len() > 1 => {
                return Err(Unidentified::Ambiguous(found.iter().map(|e| e.name.to_string()).collect()));
            }
            None => found.swap_remove(0),
        };
        let exe_sha256 = peer.compute_exe_sha256(self.digests()).await;
        Ok(Agent { entry, peer: peer.clone(), exe_sha256 })
    }
}

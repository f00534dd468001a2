//! From a peer to the agent that it is: the second step of the road.

use std::sync::Arc;

use crate::peer::{Digest, Peer};

use super::watch::Agents;
use super::{Entry, Name};

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
}

/// Why a peer is not the agent it wants to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    #[error("no registered agent matches this process")]
    Stranger,
    #[error("this process is not agent \"{0}\"; whoami lists what it is")]
    NotThat(String),
    #[error("several agents match this process; name one of {} in \"agent\"", .0.join(", "))]
    Ambiguous(Vec<String>),
}

impl Agents {
    /// All agents that `peer` is, in the order of their names.
    pub async fn all_of(&self, peer: &Peer) -> Vec<Arc<Entry>> {
        let registry = self.registry();
        let mut found = Vec::new();
        for entry in registry.iter() {
            if entry.matching.holds(peer, self.names(), self.digests()).await {
                found.push(entry.clone());
            }
        }
        found
    }

    /// The agent that `peer` is; where it is several, the one it names.
    pub async fn identify(&self, peer: &Peer, wanted: Option<&str>) -> Result<Agent, Unidentified> {
        let mut found = self.all_of(peer).await;
        if found.is_empty() {
            return Err(Unidentified::Stranger);
        }
        let entry = match wanted {
            Some(name) => {
                let at = found.iter().position(|entry| entry.name.as_str() == name);
                found.swap_remove(at.ok_or_else(|| Unidentified::NotThat(name.to_owned()))?)
            }
            None if found.len() > 1 => {
                return Err(Unidentified::Ambiguous(found.iter().map(|e| e.name.to_string()).collect()));
            }
            None => found.swap_remove(0),
        };
        let exe_sha256 = peer.compute_exe_sha256(self.digests()).await;
        Ok(Agent { entry, peer: peer.clone(), exe_sha256 })
    }
}

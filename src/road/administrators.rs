//! The beginning of the way for administrators, and what they have done to the registry.

use super::{No, Refused, Road};
use crate::agents::Changes;
use crate::audit::{Event, Recorded, Unrecorded};
use crate::config::Fault;
use crate::peer::{Look, Peer};
use crate::policy::{Gate, Reason, Who};

impl Road {
    /// An administrator, or a refusal.
    pub async fn administrator(&self, look: Look, gate: Gate) -> Result<Peer, Refused> {
        let decided = self.known(look).and_then(|peer| {
            if gate.admits(&peer) {
                return Ok(peer);
            }
            self.within_rate(Who::Stranger(peer.uid), Some(&peer))?;
            Err(No::refusal(Reason::AccessDenied, "the admin socket is for root and the admin group", &peer))
        });
        match decided {
            Ok(peer) => Ok(peer),
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// Whether an administrator may do what comes to holding the host's keys, or a refusal.
    pub async fn owner(&self, peer: &Peer, gate: Gate) -> Result<(), Refused> {
        if gate.owns(peer) {
            return Ok(());
        }
        let decided = self.within_rate(Who::Stranger(peer.uid), Some(peer)).err().unwrap_or_else(|| {
            let what = "this comes to holding the host's keys: it is for root, and not for the admin group; use sudo";
            No::refusal(Reason::AccessDenied, what, peer)
        });
        Err(self.refuse(decided).await)
    }

    /// Reads the agents again, off the road, and writes down what changed.
    pub async fn reload(&self, by: &str) -> Result<Result<Recorded<Changes>, Vec<Fault>>, Refused> {
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
        let failed = |e: tokio::task::JoinError| Refused::Unrecorded(Unrecorded(e.to_string()));
        match outcome.map_err(failed)? {
            Ok(changes) => self.audit.reload(changes, by).await.map(Ok).map_err(Refused::Unrecorded),
            Err(faults) => {
                for fault in &faults {
                    tracing::error!(event = "agents-rejected", "{fault}");
                }
                let what = format!(
                    "{by} asked for a reload; {} faults, the last good set stays in force",
                    faults.len()
                );
                self.audit.event(Event::AgentsRejected, &what).await.map_err(Refused::Unrecorded)?;
                Ok(Err(faults))
            }
        }
    }
}

//! Refusals on their way to the record.

use std::time::Instant;

use super::{Refused, Road};
use crate::agents::Agent;
use crate::peer::Peer;
use crate::policy::{Reason, Refusal, Who};

/// A refusal on its way to the record.
#[derive(Debug)]
pub struct No {
    pub(super) refusal: Refusal,
    /// Whether it gets a line of its own, or is counted with others of a flood.
    pub(super) tell: bool,
}

impl No {
    pub(super) fn refusal(reason: Reason, what: impl Into<String>, peer: &Peer) -> No {
        No { refusal: Refusal::new(reason, what).by(peer), tell: true }
    }

    pub(super) fn by(mut self, peer: &Peer) -> No {
        self.refusal = self.refusal.by(peer);
        self
    }

    pub(super) fn of(mut self, agent: &Agent) -> No {
        self.refusal = self.refusal.of(agent.name());
        self
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        No { refusal, tell: true }
    }
}

impl Road {
    /// Callers who are nobody fill neither the log, however many users they are, nor the last of a disk.
    fn bound_strangers(&self, no: &mut No) {
        if let Err(limited) = self.limiter.take(Who::StrangersLines, Instant::now()) {
            no.tell = limited.tell.is_some();
            no.refusal.suppressed += limited.tell.unwrap_or(0);
        }
        no.tell &= !self.audit.health().scarce();
    }

    /// Writes a refusal down.
    pub(super) async fn refuse(&self, mut no: No) -> Refused {
        if no.tell && no.refusal.agent.is_none() {
            self.bound_strangers(&mut no);
        }
        if !no.tell {
            return Refused::Recorded(self.audit.counted(no.refusal));
        }
        match self.audit.refusal(no.refusal).await {
            Ok(refusal) => Refused::Recorded(refusal),
            Err(unrecorded) => Refused::Unrecorded(unrecorded),
        }
    }
}

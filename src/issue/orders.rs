//! The way from an administrator to the one who keeps the keys.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Timestamp;

/// Orders that may wait; more at once is no administrator.
const QUEUE: usize = 8;
/// The keeper bounds each of its waits; this bounds their sum, below the patience of the command.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where administrators' orders about keys go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    queue: mpsc::Sender<Order>,
    waits: watch::Receiver<Option<String>>,
}

/// The other end: who keeps the keys takes orders here, and says what a due step waits for.
#[derive(Debug)]
pub struct Desk {
    pub orders: mpsc::Receiver<Order>,
    pub waits: watch::Sender<Option<String>>,
}

/// Rotate the issuing key.
#[derive(Debug)]
pub struct Order {
    /// Whether the next key signs at once, unknown to relying parties as it may be.
    pub at_once: bool,
    /// Who ordered it, for the record.
    pub by: String,
    pub reply: oneshot::Sender<Result<Rotated, String>>,
}

/// What an order came to.
#[derive(Debug, Serialize)]
pub struct Rotated {
    pub did: Did,
    /// The key that signs next, or now.
    pub kid: String,
    /// When it signs.
    pub active_from: Timestamp,
    /// The key that signs no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Did {
    /// A key is published and signs later.
    Published,
    /// One was published before, and signs when it was to.
    Nothing,
    /// The next key signs now.
    Activated,
}

/// Makes both ends.
pub fn orders() -> (Orders, Desk) {
    let (sender, orders) = mpsc::channel(QUEUE);
    let (waits, seen) = watch::channel(None);
    (Orders { queue: sender, waits: seen }, Desk { orders, waits })
}

impl Orders {
    /// Has the key rotated. The error is for the administrator.
    pub async fn rotate(&self, at_once: bool, by: String) -> Result<Rotated, String> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(Order { at_once, by, reply })
            .map_err(|_| "the keys are being seen to; try again in a moment".to_owned())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err("the daemon ends".into()),
            Err(_) => Err("the rotation takes long; see hostbadge key list".into()),
        }
    }

    /// What keeps a step that is due from being taken.
    pub fn waits(&self) -> Option<String> {
        self.waits.borrow().clone()
    }
}

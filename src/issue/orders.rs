//! The way from an administrator to the one who keeps the keys.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::vault::{Binding, RecoveryKey};

/// Orders that may wait; more at once is no administrator.
const QUEUE: usize = 8;
/// The keeper bounds each of its waits; this bounds their sum, below the patience of the command.
const PATIENCE: Duration = Duration::from_secs(25);

/// Where administrators' orders about keys go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    queue: mpsc::Sender<Order>,
    waits: watch::Receiver<Option<String>>,
    binding: watch::Receiver<Option<Binding>>,
}

/// The other end: who keeps the keys takes orders here, and says what a due step waits for and how the keys are guarded.
#[derive(Debug)]
pub struct Desk {
    pub orders: mpsc::Receiver<Order>,
    pub waits: watch::Sender<Option<String>>,
    pub binding: watch::Sender<Option<Binding>>,
}

/// Something to be done, and who ordered it, for the record.
#[derive(Debug)]
pub struct Order {
    pub what: What,
    pub by: String,
}

/// What is to be done, and where the outcome goes. Errors are for administrators.
#[derive(Debug)]
pub enum What {
    /// Take the state directory as it is for the latest.
    Accept(Reply<()>),
    /// Open the secrets with the recovery key, and seal them to this TPM as it is now; `accept` says whether the state is
    /// taken even if it is not the latest.
    Recover { key: RecoveryKey, accept: bool, reply: Reply<()> },
    /// Make a recovery key, in place of the one before.
    Recovery(Reply<Zeroizing<String>>),
    /// Rotate the issuing key; `at_once` says whether the next one signs now, unknown to relying parties as it may be.
    Rotate { at_once: bool, reply: Reply<Rotated> },
}

pub type Reply<T> = oneshot::Sender<Result<T, String>>;

/// What a rotation came to.
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
    let (waits, waits_seen) = watch::channel(None);
    let (binding, binding_seen) = watch::channel(None);
    let orders_end = Orders { queue: sender, waits: waits_seen, binding: binding_seen };
    (orders_end, Desk { orders, waits, binding })
}

impl Orders {
    /// Has the issuing key rotated. The error is for the administrator, as it is of each order.
    pub async fn rotate(&self, at_once: bool, by: String) -> Result<Rotated, String> {
        self.order(by, |reply| What::Rotate { at_once, reply }).await
    }

    /// Has a recovery key made: its text.
    pub async fn recovery(&self, by: String) -> Result<Zeroizing<String>, String> {
        self.order(by, What::Recovery).await
    }

    /// Has the secrets opened by the recovery key.
    pub async fn recover(&self, key: RecoveryKey, accept: bool, by: String) -> Result<(), String> {
        self.order(by, |reply| What::Recover { key, accept, reply }).await
    }

    /// Has the state directory taken as it is.
    pub async fn accept(&self, by: String) -> Result<(), String> {
        self.order(by, What::Accept).await
    }

    /// What keeps a step that is due from being taken.
    pub fn waits(&self) -> Option<String> {
        self.waits.borrow().clone()
    }

    /// How the keys are guarded at rest, once they are open.
    pub fn binding(&self) -> Option<Binding> {
        self.binding.borrow().clone()
    }

    fn order<T>(
        &self,
        by: String,
        what: impl FnOnce(Reply<T>) -> What,
    ) -> impl Future<Output = Result<T, String>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.queue.try_send(Order { what: what(reply), by });
        async move {
            sent.map_err(|_| "the keys are being seen to; try again in a moment".to_owned())?;
            match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Ok(done)) => done,
                Ok(Err(_)) => Err("the daemon ends".into()),
                Err(_) => Err("this takes long; see hostbadge status and hostbadge key list".into()),
            }
        }
    }
}

impl Order {
    /// Whether whoever ordered it has gone: they are not to find it done later.
    pub fn is_given_up(&self) -> bool {
        match &self.what {
            What::Accept(reply) | What::Recover { reply, .. } => reply.is_closed(),
            What::Recovery(reply) => reply.is_closed(),
            What::Rotate { reply, .. } => reply.is_closed(),
        }
    }

    /// Says that it is not done, and why.
    pub fn refuse(self, why: &str) {
        let why = why.to_owned();
        let _gone = match self.what {
            What::Accept(reply) | What::Recover { reply, .. } => reply.send(Err(why)).is_err(),
            What::Recovery(reply) => reply.send(Err(why)).is_err(),
            What::Rotate { reply, .. } => reply.send(Err(why)).is_err(),
        };
    }
}

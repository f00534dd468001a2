//! The way from an administrator to the one who watches.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Orders that may wait; more at once is no administrator.
const QUEUE: usize = 8;
/// The watcher bounds each of its waits; this bounds their sum, below the patience of the command.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Read the PCRs now.
    Look,
    /// Read them, and take what is there as the baseline, if it is what somebody looked at.
    Accept {
        /// [`super::digest`] of what that was.
        digest: String,
        /// Who says so, for the record.
        by: String,
    },
}

/// Why an order was not done. The texts are for administrators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undone {
    /// Something stood in the way.
    #[error("{0}")]
    NotNow(String),
    #[error(
        "the host's state is {now} now, and not the one that was looked at; see what it is with hostbadge posture diff"
    )]
    Another { now: String },
}

impl From<String> for Undone {
    fn from(why: String) -> Undone {
        Undone::NotNow(why)
    }
}

/// An order, and who waits for it to be done.
#[derive(Debug)]
pub struct Order {
    pub want: Want,
    pub reply: oneshot::Sender<Result<(), Undone>>,
}

/// Where administrators' orders go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Order>);

/// The other end.
pub type Desk = mpsc::Receiver<Order>;

/// Makes both ends.
pub fn orders() -> (Orders, Desk) {
    let (sender, desk) = mpsc::channel(QUEUE);
    (Orders(sender), desk)
}

impl Orders {
    /// Has it done. The error is for the administrator.
    pub async fn order(&self, want: Want) -> Result<(), Undone> {
        let (reply, answer) = oneshot::channel();
        self.0
            .try_send(Order { want, reply })
            .map_err(|_| "the host is being looked at; try again in a moment".to_owned())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err("the daemon ends".to_owned().into()),
            Err(_) => {
                Err("the TPM takes long; see hostbadge status, then hostbadge posture show".to_owned().into())
            }
        }
    }
}

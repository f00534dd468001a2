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
    /// Read them, and take what is there as the baseline.
    Accept {
        /// Who says so, for the record.
        by: String,
    },
}

/// An order, and who waits for it to be done. The error says what stood in the way.
#[derive(Debug)]
pub struct Order {
    pub want: Want,
    pub reply: oneshot::Sender<Result<(), String>>,
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
    pub async fn order(&self, want: Want) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.0
            .try_send(Order { want, reply })
            .map_err(|_| "the host is being looked at; try again in a moment".to_owned())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err("the daemon ends".into()),
            Err(_) => Err("the TPM takes long; see hostbadge status, then hostbadge posture show".into()),
        }
    }
}

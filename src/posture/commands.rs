//! The way from an administrator to the one who watches.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Orders that may wait; more at once is no administrator.
const QUEUE_CAPACITY: usize = 8;
/// The watcher bounds each of its waits; this bounds their sum, below the patience of the command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostureAction {
    /// Read the PCRs now.
    Refresh,
    /// Read them, and take what is there as the baseline, if it is what somebody looked at.
    Accept {
        /// [`super::digest`] of what that was.
        digest: String,
        /// Who says so, for the record.
        accepted_by: String,
    },
}

/// Why an order was not done. The texts are for administrators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostureCommandError {
    /// Something stood in the way.
    #[error("{0}")]
    Unavailable(String),
    #[error(
        "the host's state is {now} now, and not the one that was looked at; see what it is with hostbadge posture diff"
    )]
    DigestMismatch { now: String },
}

impl From<String> for PostureCommandError {
    fn from(reason: String) -> PostureCommandError {
        PostureCommandError::Unavailable(reason)
    }
}

/// An order, and who waits for it to be done.
#[derive(Debug)]
pub struct PostureCommand {
    pub action: PostureAction,
    pub reply: oneshot::Sender<Result<(), PostureCommandError>>,
}

/// Where administrators' orders go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PostureCommandSender(mpsc::Sender<PostureCommand>);

/// The other end.
pub type PostureCommandReceiver = mpsc::Receiver<PostureCommand>;

/// Makes both ends.
pub fn command_channel() -> (PostureCommandSender, PostureCommandReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
    (PostureCommandSender(sender), receiver)
}

impl PostureCommandSender {
    /// Has it done. The error is for the administrator.
    pub async fn send(&self, action: PostureAction) -> Result<(), PostureCommandError> {
        let (reply, response) = oneshot::channel();
        self.0
            .try_send(PostureCommand { action, reply })
            .map_err(|_| "the host is being looked at; try again in a moment".to_owned())?;
        match tokio::time::timeout(COMMAND_TIMEOUT, response).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the daemon ends".to_owned().into()),
            Err(_) => {
                Err("the TPM takes long; see hostbadge status, then hostbadge posture show".to_owned().into())
            }
        }
    }
}

//! Commands of administrators to the posture monitor: the channel, and the errors by which a command fails.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::error_class::ErrorClass;

/// The most commands that wait for the monitor, which handles them one by one.
const QUEUE_CAPACITY: usize = 8;
/// The longest time a command waits for its result: more than the sum of the monitor's own timeouts for one
/// command, and less than the time that `hostbadge` waits for the reply.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// What an administrator asks the monitor for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostureAction {
    /// Read the PCRs now.
    Refresh,
    /// Read the PCRs, and make them the accepted baseline if they have the digest that the administrator saw.
    Accept {
        /// The digest that the administrator saw. It is `digest` in the posture report.
        digest: String,
        /// Who accepts, for the audit log, such as `uid 0, pid 4711`.
        accepted_by: String,
    },
}

/// Why a command failed. The messages are for administrators.
#[derive(Debug, thiserror::Error)]
pub enum PostureCommandError {
    /// Too many commands wait for the monitor.
    #[error("a posture check is in progress; try again in a moment")]
    Busy,
    /// The monitor has ended.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The monitor did not finish the command in 20 s. It may still finish a refresh; it does not start an
    /// acceptance.
    #[error("the TPM is slow; see hostbadge status, then hostbadge posture show")]
    TimedOut,
    /// The TPM did not quote the PCRs.
    #[error("{0}")]
    ReadPcrs(String),
    /// The audit log cannot be written, and an acceptance has to be recorded.
    #[error("the audit log cannot be written: {0}")]
    AuditUnavailable(String),
    /// The PCRs have changed since the administrator saw them.
    #[error(
        "the host's state is {current_digest} now, and not the one that was looked at; see what changed with \
         hostbadge posture diff"
    )]
    DigestMismatch {
        /// The digest of the PCRs now.
        current_digest: String,
    },
    /// The baseline was not written.
    #[error("{0}")]
    SaveBaseline(String),
}

impl PostureCommandError {
    /// The class of the failure, from which the HTTP status of the reply follows.
    pub fn class(&self) -> ErrorClass {
        match self {
            PostureCommandError::DigestMismatch { .. } => ErrorClass::Conflict,
            PostureCommandError::Busy
            | PostureCommandError::ShuttingDown
            | PostureCommandError::TimedOut
            | PostureCommandError::ReadPcrs(_)
            | PostureCommandError::AuditUnavailable(_)
            | PostureCommandError::SaveBaseline(_) => ErrorClass::Unavailable,
        }
    }
}

/// A command, and where its result goes. The sender is closed if the administrator no longer waits.
#[derive(Debug)]
pub struct PostureCommand {
    /// What to do.
    pub action: PostureAction,
    /// Where the result goes.
    pub reply: oneshot::Sender<Result<(), PostureCommandError>>,
}

/// The administrators' end of the channel. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PostureCommandSender(mpsc::Sender<PostureCommand>);

/// The monitor's end of the channel.
pub type PostureCommandReceiver = mpsc::Receiver<PostureCommand>;

/// Makes the channel between administrators and the monitor.
pub fn command_channel() -> (PostureCommandSender, PostureCommandReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
    (PostureCommandSender(sender), receiver)
}

impl PostureCommandSender {
    /// Sends a command and waits for its result, at most 20 s.
    ///
    /// # Errors
    ///
    /// Every [`PostureCommandError`].
    pub async fn send(&self, action: PostureAction) -> Result<(), PostureCommandError> {
        let (reply, response) = oneshot::channel();
        self.0.try_send(PostureCommand { action, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PostureCommandError::Busy,
            mpsc::error::TrySendError::Closed(_) => PostureCommandError::ShuttingDown,
        })?;
        match tokio::time::timeout(COMMAND_TIMEOUT, response).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(PostureCommandError::ShuttingDown),
            Err(_) => Err(PostureCommandError::TimedOut),
        }
    }
}

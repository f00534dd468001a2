//! Requests of administrators for the next issuing CA.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::error_class::ErrorClass;

/// How long a request may take, which is shorter than the timeout of the command line.
const ROTATION_TIMEOUT: Duration = Duration::from_secs(25);

/// The issuing CA that signs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaRotation {
    /// The RFC 7638 thumbprint of its key.
    pub kid: String,
    /// The one that signed before. Its certificates stay valid.
    pub retired: Option<String>,
}

/// A request of an administrator.
#[derive(Debug)]
pub struct CaRotationRequest {
    /// The administrator, for the audit log.
    pub requested_by: String,
    reply: oneshot::Sender<Result<CaRotation, CaRotationError>>,
}

/// Why there is no other issuing CA.
#[derive(Debug, thiserror::Error)]
pub enum CaRotationError {
    /// 8 requests are waiting.
    #[error("other rotations of the issuing CA are in progress; try again in a moment")]
    Busy,
    /// The CA manager has ended.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// No result within 25 seconds. The rotation may still end.
    #[error(
        "the issuing CA was not replaced within {} seconds; see hostbadge status and hostbadge key list",
        ROTATION_TIMEOUT.as_secs()
    )]
    TimedOut,
    /// The rotation failed.
    #[error("{message}")]
    Failed {
        /// Why.
        message: String,
        /// What that means for the administrator's request.
        class: ErrorClass,
    },
}

impl CaRotationError {
    /// What this failure means for the administrator's request.
    pub fn class(&self) -> ErrorClass {
        match self {
            CaRotationError::Busy => ErrorClass::Conflict,
            CaRotationError::ShuttingDown | CaRotationError::TimedOut => ErrorClass::Unavailable,
            CaRotationError::Failed { class, .. } => *class,
        }
    }
}

/// The result of a request.
#[derive(Debug)]
pub struct PendingCaRotation(oneshot::Receiver<Result<CaRotation, CaRotationError>>);

impl PendingCaRotation {
    /// Waits for the result, at most 25 s.
    ///
    /// # Errors
    /// [`CaRotationError`].
    pub async fn wait(self) -> Result<CaRotation, CaRotationError> {
        match tokio::time::timeout(ROTATION_TIMEOUT, self.0).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CaRotationError::ShuttingDown),
            Err(_) => Err(CaRotationError::TimedOut),
        }
    }
}

impl CaRotationRequest {
    /// A request and its result.
    pub fn new(requested_by: String) -> (CaRotationRequest, PendingCaRotation) {
        let (reply, result) = oneshot::channel();
        (CaRotationRequest { requested_by, reply }, PendingCaRotation(result))
    }

    /// Whether the administrator's request has ended. Such a request must not be carried out later.
    pub fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    /// Replies to the administrator.
    pub fn reply(self, result: Result<CaRotation, CaRotationError>) {
        // Fails only if the administrator has gone.
        let _ = self.reply.send(result);
    }
}

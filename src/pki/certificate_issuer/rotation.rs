//! Administrators' requests for the next issuing CA, which the CA manager carries out.

use std::time::Duration;

use tokio::sync::oneshot;

use super::CertificateIssuer;
use crate::error_class::ErrorClass;
use crate::issue::KeyReport;
use crate::mutex::lock;

/// Requests that wait; a further one is rejected.
const QUEUE_CAPACITY: usize = 8;
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

impl CaRotationRequest {
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

impl CertificateIssuer {
    /// Has the CA manager make the next issuing CA now.
    ///
    /// # Errors
    /// [`CaRotationError`].
    pub async fn rotate_ca(&self, requested_by: String) -> Result<CaRotation, CaRotationError> {
        let (reply, result) = oneshot::channel();
        {
            let mut requests = lock(&self.0.rotation_requests);
            requests.retain(|request| !request.is_cancelled());
            if requests.len() >= QUEUE_CAPACITY {
                return Err(CaRotationError::Busy);
            }
            requests.push_back(CaRotationRequest { requested_by, reply });
        }
        self.0.rotation_wanted.notify_one();
        match tokio::time::timeout(ROTATION_TIMEOUT, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CaRotationError::ShuttingDown),
            Err(_) => Err(CaRotationError::TimedOut),
        }
    }

    /// Resolves when there is a request.
    pub async fn rotation_wanted(&self) {
        self.0.rotation_wanted.notified().await;
    }

    /// The next request.
    pub fn next_rotation_request(&self) -> Option<CaRotationRequest> {
        lock(&self.0.rotation_requests).pop_front()
    }

    /// The keys of the host's CA: the root, then the issuing CAs, the active one first. Empty before the first
    /// snapshot.
    pub fn key_reports(&self) -> Vec<KeyReport> {
        self.0.active.load().as_ref().map_or_else(Vec::new, |snapshot| snapshot.key_reports.clone())
    }
}

//! Why a request is not fulfilled.

use std::io;
use std::time::Duration;

use super::command_budget::BudgetExceeded;
use super::signal_error::SignalError;
use crate::agents::ChangeApprovalError;
use crate::approvals::DecisionError;
use crate::audit::{AuditUnavailable, Counted, Recorded};
use crate::config::Diagnostic;
use crate::credentials;
use crate::error_class::ErrorClass;
use crate::issue::{self, KeyCommandError};
use crate::peer::InspectError;
use crate::pki::CaRotationError;
use crate::policy::{ErrorCode, Refusal};
use crate::posture::PostureCommandError;
use crate::revocation;

/// Why a caller does not get what it asked for.
#[derive(Debug)]
pub enum RequestError {
    /// The request was refused, and the refusal recorded.
    Denied(Recorded<Refusal>),
    /// The request was refused, as earlier ones of a flood or of the same stream, and a later record counts
    /// the refusal.
    DeniedUnrecorded(Counted<Refusal>),
    /// The audit log cannot be written, so nothing may be returned.
    AuditUnavailable(AuditUnavailable),
}

/// Outcome of a request whose result has to be recorded before it is returned.
pub type RequestResult<T> = Result<Recorded<T>, RequestError>;

/// A request whose body or message cannot be used. The text goes to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRequest(String);

/// The issuer or the CA is not ready. The text is the reason, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub(super) String);

/// Why an administrator's request is not fulfilled. The texts go to the administrator.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The body or the query cannot be used.
    #[error(transparent)]
    InvalidRequest(#[from] InvalidRequest),
    /// The process cannot be inspected.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// No agent has the requested name.
    #[error("there is no agent of this name")]
    UnknownAgent,
    /// `agents.d`, `policies` or `federation`, or files in them, have faults.
    #[error(
        "agents.d, policies or federation has a fault; what was read before stays active in each directory \
         that has one, and agents and policies change only together"
    )]
    InvalidFiles(Vec<Diagnostic>),
    /// A change was not approved.
    #[error(transparent)]
    ChangeApproval(#[from] ChangeApprovalError),
    /// A decision about a request that waits for an approval is not accepted.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The issuer is not ready.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// What was to be done could not be recorded.
    #[error(transparent)]
    AuditUnavailable(#[from] AuditUnavailable),
    /// The command is beyond its bound for an hour or a day.
    #[error(transparent)]
    BudgetExceeded(#[from] BudgetExceeded),
    /// A key command failed.
    #[error(transparent)]
    Keys(#[from] KeyCommandError),
    /// The issuing CA was not replaced.
    #[error(transparent)]
    Ca(#[from] CaRotationError),
    /// A posture command failed.
    #[error(transparent)]
    Posture(#[from] PostureCommandError),
    /// An enrollment step failed.
    #[error(transparent)]
    Enrollment(#[from] issue::Error),
    /// A command on sealed credentials failed.
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// A command on revocations failed.
    #[error(transparent)]
    Revocation(#[from] revocation::Error),
    /// A signal from outside does not revoke.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// An agent is revoked, and its own credentials are not destroyed.
    #[error(
        "the agent is revoked, and stays so, but its own credentials are not destroyed yet: {0}; repeat the command"
    )]
    NotErased(#[source] credentials::Error),
    /// An agent is offboarded, and the TPM has signed no receipt.
    #[error(
        "the agent is revoked and its own credentials are destroyed, but the receipt is not signed: {0}; repeat the \
         command for one"
    )]
    NoReceipt(#[source] issue::Error),
    /// The audit log cannot be read.
    #[error("the audit log cannot be read: {0}")]
    ReadAudit(#[source] io::Error),
    /// The metrics cannot be written as text.
    #[error("a metric has a value of another kind")]
    Metrics(#[source] std::fmt::Error),
    /// A blocking task ended without a result.
    #[error("the request was not completed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl RequestError {
    /// The error code of the response.
    pub fn code(&self) -> ErrorCode {
        self.refusal().map_or(ErrorCode::TemporarilyUnavailable, |refusal| refusal.code)
    }

    /// When a repeated request can succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }

    /// One line for the caller.
    pub fn description(&self) -> String {
        match self {
            RequestError::Denied(refusal) => refusal.get().description.clone(),
            RequestError::DeniedUnrecorded(refusal) => refusal.get().description.clone(),
            RequestError::AuditUnavailable(unavailable) => unavailable.to_string(),
        }
    }

    /// The refusal, unless the request failed for another reason.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            RequestError::Denied(refusal) => Some(refusal.get()),
            RequestError::DeniedUnrecorded(refusal) => Some(refusal.get()),
            RequestError::AuditUnavailable(_) => None,
        }
    }
}

impl From<AuditUnavailable> for RequestError {
    fn from(unavailable: AuditUnavailable) -> RequestError {
        RequestError::AuditUnavailable(unavailable)
    }
}

impl InvalidRequest {
    /// `reason` says what is wrong with the request.
    pub fn new(reason: impl Into<String>) -> InvalidRequest {
        InvalidRequest(reason.into())
    }
}

impl AdminError {
    /// When a repeated request can succeed, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            AdminError::BudgetExceeded(exceeded) => Some(exceeded.retry_after),
            _ => None,
        }
    }

    /// The error code of the response and of the record.
    pub fn code(&self) -> ErrorCode {
        match self {
            AdminError::BudgetExceeded(_) => ErrorCode::SlowDown,
            _ => match self.class() {
                ErrorClass::BadRequest | ErrorClass::Conflict => ErrorCode::InvalidRequest,
                ErrorClass::Unavailable => ErrorCode::TemporarilyUnavailable,
                ErrorClass::Internal => ErrorCode::ServerError,
            },
        }
    }

    /// Whether the request failed after the TPM had worked for it.
    pub(super) fn used_tpm(&self) -> bool {
        use crate::issue::EnrollmentError::{ChallengeSecret, Credential};
        matches!(self, AdminError::Enrollment(issue::Error::Enrollment(Credential(_) | ChallengeSecret)))
    }

    /// What the failure means for the administrator, whatever the request was.
    pub fn class(&self) -> ErrorClass {
        match self {
            AdminError::InvalidRequest(_) | AdminError::UnknownAgent | AdminError::InvalidFiles(_) => {
                ErrorClass::BadRequest
            }
            AdminError::Inspect(error) => match error {
                InspectError::NoProcess(_) => ErrorClass::BadRequest,
                InspectError::Changed(_) => ErrorClass::Conflict,
                InspectError::Hidden(_) => ErrorClass::Unavailable,
                InspectError::Kernel(..) => ErrorClass::Internal,
            },
            AdminError::NotReady(_) | AdminError::AuditUnavailable(_) => ErrorClass::Unavailable,
            AdminError::BudgetExceeded(_) => ErrorClass::Conflict,
            AdminError::ChangeApproval(ChangeApprovalError::NotStored(_)) => ErrorClass::Unavailable,
            AdminError::ChangeApproval(_) => ErrorClass::Conflict,
            AdminError::Decision(error) => error.class(),
            AdminError::Keys(error) => error.class(),
            AdminError::Ca(error) => error.class(),
            AdminError::Posture(error) => error.class(),
            AdminError::Enrollment(error) | AdminError::NoReceipt(error) => error.class(),
            AdminError::Credentials(error) | AdminError::NotErased(error) => error.class(),
            AdminError::Revocation(error) => error.class(),
            AdminError::Signal(error) => error.class(),
            AdminError::ReadAudit(_) | AdminError::Metrics(_) | AdminError::Task(_) => ErrorClass::Internal,
        }
    }
}

//! Why a signal does not revoke.

use std::path::PathBuf;

use crate::error_class::ErrorClass;
use crate::verify;

/// Why a signal does not revoke. The texts go to the administrator and into the audit log; what a signal says is
/// escaped and bounded.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// No issuer is configured.
    #[error("no issuer of signals is configured: add a table [[signals]] to hostbadged.toml")]
    NoIssuers,
    /// The issuer is none of the configured ones.
    #[error("no table [[signals]] has the issuer \"{0}\"")]
    UnknownIssuer(String),
    /// The keys of the issuer cannot be read.
    #[error("the keys of the issuer, {}: {reason}", .path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The signal cannot be verified.
    #[error("the signal: {0}")]
    Invalid(#[from] verify::Error),
    /// The signal was presented before.
    #[error("this signal was presented before: \"jti\" {0}")]
    Replayed(String),
    /// The subject is no agent or token of this host.
    #[error("the subject of the signal is not of this host: {0}")]
    UnknownSubject(String),
    /// The issuer may not revoke this agent.
    #[error("agents of the issuer's table [[signals]] does not name the agent {0}")]
    NotAllowed(String),
}

impl SignalError {
    /// What the failure means for the administrator.
    pub fn class(&self) -> ErrorClass {
        match self {
            SignalError::Keys { .. } => ErrorClass::Unavailable,
            SignalError::Replayed(_) => ErrorClass::Conflict,
            _ => ErrorClass::BadRequest,
        }
    }
}

//! The response of both HTTP sockets when a request is not fulfilled.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::agent::Peer;
use crate::config::Diagnostic;

/// The description where a socket does not serve the path of a request, by which a client can tell that it
/// has another socket.
pub const NO_SUCH_PATH: &str = "there is no such path here";

/// RFC 6749 section 5.2, with three members added for callers on the same host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorResponse {
    /// `invalid_request`, `invalid_scope`, `invalid_target` (RFC 8707), `invalid_client`, `access_denied`,
    /// `authorization_pending` and `slow_down` (RFC 8628), `temporarily_unavailable` or `server_error`.
    pub error: String,
    /// One line for a person: what is wrong and what to do about it.
    pub error_description: String,
    /// The calling process as the daemon identified it; with `invalid_client` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// The id of the approval that the request waits for, or that an administrator refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// What is wrong with the files of `agents.d` and `federation`; after a reload that failed only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// One fault in one file that an administrator wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fault {
    /// Path of the file or directory.
    pub file: PathBuf,
    /// Line number, counted from 1; `null` where the fault is not in one line.
    pub line: Option<usize>,
    /// What is wrong and what to do about it.
    #[serde(rename = "what")]
    pub message: String,
}

impl From<&Diagnostic> for Fault {
    fn from(fault: &Diagnostic) -> Self {
        Fault { file: fault.file.clone(), line: fault.line, message: fault.message.clone() }
    }
}

impl ErrorResponse {
    /// An error without `peer` and `faults`.
    pub fn new(error: impl Into<String>, error_description: impl Into<String>) -> ErrorResponse {
        ErrorResponse {
            error: error.into(),
            error_description: error_description.into(),
            peer: None,
            approval: None,
            faults: Vec::new(),
        }
    }
}

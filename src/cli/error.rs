//! Why a subcommand failed, and its exit status.

use std::fmt;
use std::process::ExitCode;

use super::format::{format_fault, format_peer};
use crate::config::{Diagnostic, escape_unprintable};
use crate::wire::error::{ErrorResponse, Fault};

/// Why a subcommand failed.
#[derive(Debug)]
pub(super) enum CliError {
    /// The daemon refused the request. Exit status 1.
    Refused(Box<ErrorResponse>),
    /// The command failed without the daemon. Exit status 1.
    Local(String),
    /// No daemon answers at the socket. Exit status 3.
    NoDaemon(String),
    /// The daemon cannot fulfill the request now. Exit status 4.
    Unavailable(Box<ErrorResponse>),
}

impl CliError {
    /// A failure without the daemon.
    pub(super) fn local(error: impl fmt::Display) -> CliError {
        CliError::Local(error.to_string())
    }

    /// Faults of files that an administrator wrote.
    pub(super) fn invalid_files(diagnostics: &[Diagnostic]) -> CliError {
        let mut response = ErrorResponse::new("invalid_request", "the files have faults");
        response.faults = diagnostics.iter().map(Fault::from).collect();
        CliError::Refused(Box::new(response))
    }

    /// An error response that this command makes itself.
    pub(super) fn unavailable(description: impl Into<String>) -> CliError {
        CliError::Unavailable(Box::new(ErrorResponse::new("temporarily_unavailable", description)))
    }

    /// Prints the error: the daemon's response to standard output with `--json`, otherwise a message to
    /// standard error.
    pub(super) fn report(&self, json: bool) -> ExitCode {
        let code = match self {
            CliError::Refused(_) | CliError::Local(_) => 1,
            CliError::NoDaemon(_) => 3,
            CliError::Unavailable(_) => 4,
        };
        match self {
            CliError::Refused(response) | CliError::Unavailable(response) if json => {
                println!("{}", serde_json::to_string(response).unwrap_or_default());
            }
            _ => eprintln!("hostbadge: {self}"),
        }
        ExitCode::from(code)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (response, label) = match self {
            CliError::Local(message) | CliError::NoDaemon(message) => {
                return f.write_str(&escape_unprintable(message));
            }
            CliError::Refused(response) => (response, "refused"),
            CliError::Unavailable(response) => (response, "unavailable"),
        };
        write!(
            f,
            "{label}: {} ({})",
            escape_unprintable(&response.error_description),
            escape_unprintable(&response.error)
        )?;
        for fault in &response.faults {
            write!(f, "\n  {}", escape_unprintable(&format_fault(fault)))?;
        }
        if let Some(peer) = &response.peer {
            write!(f, "\nThe daemon sees {}", escape_unprintable(&format_peer(peer)))?;
        }
        Ok(())
    }
}

//! Why a subcommand failed.

use std::fmt;
use std::io;

use super::format::{format_fault, format_peer};
use crate::config::{Diagnostic, escape_unprintable};
use crate::wire::agent::Peer;
use crate::wire::error::{ErrorResponse, Fault};

/// Why a subcommand failed.
#[derive(Debug)]
pub(super) enum CliError {
    /// The daemon refused the request. Exit status 1.
    Refused(Box<ErrorResponse>),
    /// The command failed without the daemon. Exit status 1.
    Local(String),
    /// A file cannot be written, possibly for now, as on a full disk. Exit status 1.
    File(String),
    /// Standard output cannot be written. Exit status 1; if its reader has gone, SIGPIPE ends the process.
    Output(io::Error),
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

    /// The daemon's response, or one of the same form; `None` if standard output cannot be written.
    pub(super) fn to_json(&self) -> Option<String> {
        let made;
        let response = match self {
            CliError::Refused(response) | CliError::Unavailable(response) => response.as_ref(),
            CliError::NoDaemon(message) => {
                made = ErrorResponse::new("no_daemon", message);
                &made
            }
            CliError::Local(message) | CliError::File(message) => {
                made = ErrorResponse::new("command_failed", message);
                &made
            }
            CliError::Output(_) => return None,
        };
        serde_json::to_string(response).ok()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (response, label) = match self {
            CliError::Local(message) | CliError::File(message) | CliError::NoDaemon(message) => {
                return f.write_str(&escape_unprintable(message));
            }
            CliError::Output(error) => return write!(f, "standard output: {error}"),
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
            if is_this_program(peer) {
                write!(
                    f,
                    "\nThe caller is hostbadge itself: an agent that [match] selects by exe or exe_sha256 has to \
                     send the request from its own program (hostbadge-agents(5))"
                )?;
            }
            f.write_str(
                "\nhostbadge whoami --why shows which conditions this process meets; an administrator asks \
                 hostbadge agent why PID",
            )?;
        }
        Ok(())
    }
}

/// Whether the daemon identified the program that runs this code, and not one that used its socket.
fn is_this_program(peer: &Peer) -> bool {
    let exe = std::env::current_exe().ok();
    exe.is_some_and(|exe| peer.exe.as_deref() == exe.to_str())
}

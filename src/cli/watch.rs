//! Renews what a subcommand writes, until a signal ends it.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use super::output::{note, print_line};
use super::renewal::{Backoff, renewal_delay};
use crate::clock::{Clock, Timestamp};

/// What was written.
pub(super) struct Renewed {
    /// The end of its lifetime; the next renewal is at half of it.
    pub(super) expires_at: Timestamp,
    /// Where it is, for the line that is printed.
    pub(super) place: String,
}

/// Calls `renew` at half of each lifetime, until a signal arrives or a renewal fails in a way that a
/// repetition does not fix. The caller then removes what was written.
pub(super) async fn renew_until_signal(
    renew: impl AsyncFnMut() -> Result<Renewed, CliError>,
) -> Result<ExitCode, CliError> {
    let listen = |kind| signal(kind).map_err(CliError::local);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        error = renew_until_error(renew) => Err(error),
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        _ = hangup.recv() => Ok(ExitCode::SUCCESS),
    }
}

async fn renew_until_error(mut renew: impl AsyncFnMut() -> Result<Renewed, CliError>) -> CliError {
    let mut backoff = Backoff::new();
    let mut last_error = String::new();
    let mut was_written = false;
    loop {
        match renew().await {
            Ok(Renewed { expires_at, place }) => {
                // The files are the result; a lost standard output does not end their renewal.
                let _ = print_line(format_args!("{place}: valid until {expires_at}"));
                last_error.clear();
                backoff = Backoff::new();
                was_written = true;
                tokio::time::sleep(renewal_delay(expires_at, Clock::System.now())).await;
                continue;
            }
            Err(error) if !is_retryable(&error, was_written) => return error,
            // A repeated error is printed once.
            Err(error) if error.to_string() != last_error => {
                last_error = error.to_string();
                note(format_args!("hostbadge: {last_error}"));
            }
            Err(_) => {}
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// A file that cannot be written at first is a mistake in the path, and later a full disk.
fn is_retryable(error: &CliError, was_written: bool) -> bool {
    match error {
        CliError::NoDaemon(_) | CliError::Unavailable(_) => true,
        CliError::Refused(response) => response.error == "slow_down",
        CliError::File(_) => was_written,
        CliError::Local(_) | CliError::Output(_) => false,
    }
}

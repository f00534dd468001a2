//! Reports why the command ends, and its exit status.

use std::io::{self, Write};
use std::process::ExitCode;

use nix::sys::signal::{SigHandler, Signal, raise, signal};

use super::error::CliError;
use super::output::{note, print_line, require_stdout};

/// Prints an error: a JSON object to standard output with `--json`, otherwise a message to standard error.
pub(super) fn report_error(error: &CliError, json: bool) -> ExitCode {
    let code = match error {
        CliError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => return end_by_sigpipe(),
        CliError::Refused(_) | CliError::Local(_) | CliError::File(_) | CliError::Output(_) => 1,
        CliError::NoDaemon(_) => 3,
        CliError::Unavailable(_) => 4,
    };
    let printed = json && error.to_json().is_some_and(|text| print_line(text).is_ok());
    if !printed {
        note(format_args!("hostbadge: {error}"));
    }
    ExitCode::from(code)
}

/// Prints the help or the version to standard output, and a usage error to standard error, with exit status
/// 2.
pub fn report_usage(usage: &clap::Error) -> ExitCode {
    if !usage.use_stderr()
        && let Err(error) = require_stdout()
    {
        return report_error(&error, false);
    }
    let printed = usage.print().and_then(|()| io::stdout().flush());
    match printed {
        Err(e) if !usage.use_stderr() => report_error(&CliError::Output(e), false),
        _ => ExitCode::from(if usage.use_stderr() { 2 } else { 0 }),
    }
}

/// Ends the process as the default action of SIGPIPE does: without a message, and for a shell with status
/// 141. The signal is ignored until then, so that a daemon that closes a connection does not end the command.
fn end_by_sigpipe() -> ExitCode {
    // SAFETY: the default action calls no handler.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let _ = raise(Signal::SIGPIPE);
    ExitCode::from(141)
}

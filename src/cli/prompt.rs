//! Questions to the administrator: secrets, which are read from standard input because command line arguments
//! would be visible to other users, and yes or no.

use std::io::{self, BufRead, IsTerminal, Read, Stdin};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::error::CliError;
use super::output::{note, note_unterminated};

/// Longest accepted line in bytes; a recovery key with spaces is shorter, and a terminal has no longer lines.
const MAX_INPUT_LEN: u64 = 4096;
/// Longest value of a credential in bytes.
const MAX_VALUE_LEN: usize = 64 * 1024;

/// Reads one line from standard input, from a terminal without echo.
pub(super) fn read_recovery_key() -> Result<Zeroizing<String>, CliError> {
    let stdin = io::stdin();
    let read = if stdin.is_terminal() {
        note_unterminated("Recovery key (not shown): ");
        let _no_echo = NoEcho::set(&stdin).map_err(read_error)?;
        read_line(&stdin)
    } else {
        read_line(&stdin)
    };
    read.map_err(read_error)
}

/// Reads the value of a credential: all of standard input, or one line of a terminal without echo.
pub(super) fn read_credential_value() -> Result<Zeroizing<String>, CliError> {
    let stdin = io::stdin();
    let read = if stdin.is_terminal() {
        note_unterminated("Value (not shown): ");
        match NoEcho::set(&stdin) {
            Ok(_no_echo) => read_line(&stdin),
            Err(e) => Err(e),
        }
    } else {
        let mut text = Zeroizing::new(String::with_capacity(MAX_VALUE_LEN + 2));
        stdin.lock().take(MAX_VALUE_LEN as u64 + 2).read_to_string(&mut text).map(|_| text)
    };
    read.map_err(|e| CliError::Local(format!("cannot read the value: {e}")))
}

/// Whether a person can answer a question.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// Asks a question on standard error. Only "yes" counts as yes.
pub(super) fn confirm(question: &str) -> Result<bool, CliError> {
    Ok(ask(question)?.trim() == "yes")
}

/// Asks a question on standard error, and reads a line with the answer.
pub(super) fn ask(question: &str) -> Result<Zeroizing<String>, CliError> {
    note_unterminated(question);
    let mut line = Zeroizing::new(String::with_capacity(MAX_INPUT_LEN as usize));
    let read = io::stdin().lock().take(MAX_INPUT_LEN).read_line(&mut line);
    read.map_err(|e| CliError::Local(format!("cannot read the answer: {e}")))?;
    Ok(line)
}

fn read_line(stdin: &Stdin) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(MAX_INPUT_LEN as usize));
    stdin.lock().take(MAX_INPUT_LEN).read_line(&mut line)?;
    if line.trim().is_empty() {
        return Err(io::Error::other("standard input is empty"));
    }
    Ok(line)
}

fn read_error(error: io::Error) -> CliError {
    CliError::Local(format!("cannot read the recovery key: {error}"))
}

/// Restores the terminal's settings when dropped.
struct NoEcho<'a> {
    stdin: &'a Stdin,
    original: Termios,
}

impl<'a> NoEcho<'a> {
    fn set(stdin: &'a Stdin) -> io::Result<NoEcho<'a>> {
        let original = tcgetattr(stdin.as_fd())?;
        let mut settings = original.clone();
        settings.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &settings)?;
        Ok(NoEcho { stdin, original })
    }
}

impl Drop for NoEcho<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.stdin.as_fd(), SetArg::TCSAFLUSH, &self.original);
        note("");
    }
}

//! What people keep on paper: the recovery key, typed or piped in, and never an argument that others could list.

use std::io::{self, BufRead, IsTerminal, Read};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::CliError;

/// No recovery key is longer, however it is spaced.
const MAX_INPUT_LEN: u64 = 256;

/// Reads one line from standard input; from a terminal without showing it.
pub fn read_recovery_key() -> Result<Zeroizing<String>, CliError> {
    let stdin = io::stdin();
    let failed = |e: io::Error| CliError::Local(format!("the recovery key cannot be read: {e}"));
    if !stdin.is_terminal() {
        return read_line().map_err(failed);
    }
    eprint!("Recovery key (not shown): ");
    let original = tcgetattr(stdin.as_fd()).map_err(|e| failed(e.into()))?;
    let mut no_echo = original.clone();
    no_echo.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &no_echo).map_err(|e| failed(e.into()))?;
    let read = read_line();
    let restored = tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &original);
    eprintln!();
    restored.map_err(|e| failed(e.into()))?;
    read.map_err(failed)
}

fn read_line() -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(MAX_INPUT_LEN as usize));
    io::stdin().lock().take(MAX_INPUT_LEN).read_line(&mut line)?;
    match line.trim().is_empty() {
        true => Err(io::Error::other("nothing was given on standard input")),
        false => Ok(line),
    }
}

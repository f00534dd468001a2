//! What people keep on paper: the recovery key, typed or piped in, and never an argument that others could list.

use std::io::{self, BufRead, IsTerminal, Read};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::Failure;

/// No recovery key is longer, however it is spaced.
const MOST: u64 = 256;

/// Reads one line from standard input; from a terminal without showing it.
pub fn read_recovery_key() -> Result<Zeroizing<String>, Failure> {
    let stdin = io::stdin();
    let failed = |e: io::Error| Failure::Local(format!("the recovery key cannot be read: {e}"));
    if !stdin.is_terminal() {
        return line().map_err(failed);
    }
    eprint!("Recovery key (not shown): ");
    let shown = tcgetattr(stdin.as_fd()).map_err(|e| failed(e.into()))?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &hidden).map_err(|e| failed(e.into()))?;
    let read = line();
    let restored = tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &shown);
    eprintln!();
    restored.map_err(|e| failed(e.into()))?;
    read.map_err(failed)
}

fn line() -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(MOST as usize));
    io::stdin().lock().take(MOST).read_line(&mut line)?;
    match line.trim().is_empty() {
        true => Err(io::Error::other("nothing was given on standard input")),
        false => Ok(line),
    }
}

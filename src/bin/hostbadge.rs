//! hostbadge: the command for agents, operators and verifiers.

use std::process::ExitCode;

use clap::Parser;
use hostbadge::cli;
use nix::sys::signal::{SigHandler, Signal, signal};

fn main() -> ExitCode {
    // A reader that has seen enough, such as head, ends the command like any other, without a word.
    // SAFETY: nothing else runs yet, and the default action needs no handler.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    cli::run(cli::Cli::parse())
}

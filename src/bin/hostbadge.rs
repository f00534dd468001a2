//! hostbadge: the command for agents, administrators and relying parties. See [`hostbadge::cli`].

use std::process::ExitCode;

use clap::Parser;
use hostbadge::cli;
use hostbadge::wiping_allocator::WipingAllocator;
use nix::sys::signal::{SigHandler, Signal, signal};

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    // If the reader of the output has gone, such as `head`, SIGPIPE ends the command without an error
    // message. SAFETY: the process has one thread, and the default action calls no handler.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    cli::run(cli::Cli::parse())
}

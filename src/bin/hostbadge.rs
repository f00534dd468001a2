//! hostbadge: the command for agents, administrators and relying parties. See [`hostbadge::cli`].

use std::process::ExitCode;

use clap::Parser;
use hostbadge::cli;
use hostbadge::wiping_allocator::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(command) => cli::run(command),
        Err(usage) => cli::report_usage(&usage),
    }
}

//! hostbadge: the command for agents, operators and verifiers.

use std::process::ExitCode;

use clap::Parser;
use hostbadge::cli;

fn main() -> ExitCode {
    cli::run(cli::Command::parse())
}

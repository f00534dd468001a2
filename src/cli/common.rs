//! Options of every subcommand, JSON output, and the last line of a verification.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use crate::config::escape_unprintable;

/// Options of every subcommand.
#[derive(Args, Debug)]
pub(super) struct CommonArgs {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// The agent socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "HOSTBADGE_SOCKET",
        default_value = "/run/hostbadge/agent.sock"
    )]
    pub(super) socket: PathBuf,

    /// The admin socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "HOSTBADGE_ADMIN_SOCKET",
        default_value = "/run/hostbadge/admin.sock"
    )]
    pub(super) admin_socket: PathBuf,
}

/// Prints a value as one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<ExitCode, CliError> {
    let text = serde_json::to_string(value).map_err(CliError::local)?;
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Prints the last line of a verification, and returns its exit status.
pub(super) fn print_verdict(valid: bool, reason: &str) -> ExitCode {
    let verdict = if valid { "VALID" } else { "NOT VALID" };
    println!("{verdict}: {}", escape_unprintable(reason));
    if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! The daemon's command line.

use std::path::PathBuf;

use clap::Parser;

/// Vouches for the AI agents on this host: owns its TPM and serves short-lived tokens over a Unix socket.
#[derive(Parser)]
#[command(
    name = "hostbadged",
    version,
    after_help = "Start with no configuration at all, or try it out with --dev DIR."
)]
pub struct Arguments {
    /// Configuration file [default: /etc/hostbadge/hostbadged.toml, where it exists]
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    pub config: Option<PathBuf>,

    /// A whole host in one directory, with a software TPM of its own
    #[arg(long, value_name = "DIR")]
    pub dev: Option<PathBuf>,

    /// Read configuration and agents, print each fault as file:line, and exit
    #[arg(long)]
    pub check: bool,
}

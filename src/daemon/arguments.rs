//! The daemon's command line.

use std::path::PathBuf;

use clap::Parser;

/// Issues short-lived identity to the AI agents on this host. Owns the host's TPM and serves Unix sockets.
#[derive(Parser)]
#[command(
    name = "hostbadged",
    version,
    after_help = "The daemon starts without any configuration. To try it out, run it with --dev DIR."
)]
pub struct Arguments {
    /// Configuration file [default: /etc/hostbadge/hostbadged.toml, if it exists]
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    pub config: Option<PathBuf>,

    /// Run a development instance in DIR with its own software TPM
    #[arg(long, value_name = "DIR")]
    pub dev: Option<PathBuf>,

    /// Check configuration, agents and bundles, print each fault as file:line, and exit
    #[arg(long)]
    pub check: bool,
}

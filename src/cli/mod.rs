//! The command `hostbadge`, one file for each subcommand.
//!
//! Requests and responses are the types of [`crate::wire`]. With `--json` a subcommand prints the daemon's
//! response as it is, so members that this release does not know are kept.

mod agent;
mod attest;
mod audit;
mod certificate;
mod client;
mod clock;
mod common;
mod enroll;
mod enroll_install;
mod error;
mod export;
mod files;
mod format;
mod key;
mod posture;
mod prompt;
mod renewal;
mod status;
mod table;
mod token;
mod verify;
mod whoami;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use common::CommonArgs;
use error::CliError;

/// Client and administration tool for hostbadged
#[derive(Parser, Debug)]
#[command(
    name = "hostbadge",
    version,
    after_help = "Exit status: 0 success, 1 refused or verification failed, 2 usage error, 3 no daemon at \
                  the socket, 4 service unavailable.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    subcommand: CliSubcommand,

    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Subcommand, Debug)]
enum CliSubcommand {
    /// Show which agent this process is, as the daemon identifies it
    Whoami,
    /// Request a token for an audience and print it
    Token(token::TokenArgs),
    /// Request an X.509 certificate for this process's identity, once or continuously
    Certificate(certificate::CertificateArgs),
    /// Request evidence of the host's state for a remote verifier
    Attest(attest::AttestArgs),
    /// Show daemon and TPM status (administrators)
    Status,
    /// Show, check and reload the registered agents (administrators)
    #[command(subcommand)]
    Agent(agent::AgentSubcommand),
    /// Show, rotate and recover the host's keys (administrators)
    #[command(subcommand)]
    Key(key::KeySubcommand),
    /// Enroll this host with an organization, through four files (administrators and operators)
    #[command(subcommand)]
    Enroll(enroll::EnrollSubcommand),
    /// Show, compare and accept the measured state of the host (administrators)
    #[command(subcommand)]
    Posture(posture::PostureSubcommand),
    /// Show the host's clock, and say that it is right (administrators)
    #[command(subcommand)]
    Clock(clock::ClockSubcommand),
    /// Export public documents for relying parties
    #[command(subcommand)]
    Export(export::ExportSubcommand),
    /// Verify tokens and evidence, without daemon and TPM
    #[command(subcommand)]
    Verify(verify::VerifySubcommand),
    /// Show the audit log (administrators)
    #[command(subcommand)]
    Audit(audit::AuditSubcommand),
}

/// Runs the subcommand and returns its exit status: 0 success, 1 refused or failed, 3 no daemon, 4
/// unavailable.
pub fn run(command: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return CliError::local(e).report(command.common.json),
    };
    let json = command.common.json;
    match runtime.block_on(dispatch(command)) {
        Ok(code) => code,
        Err(error) => error.report(json),
    }
}

async fn dispatch(command: Cli) -> Result<ExitCode, CliError> {
    let common = command.common;
    match command.subcommand {
        CliSubcommand::Whoami => whoami::run(&common).await,
        CliSubcommand::Token(arguments) => token::run(&common, &arguments).await,
        CliSubcommand::Certificate(arguments) => certificate::run(&common, &arguments).await,
        CliSubcommand::Attest(arguments) => attest::run(&common, &arguments).await,
        CliSubcommand::Status => status::run(&common).await,
        CliSubcommand::Agent(subcommand) => agent::run(&common, &subcommand).await,
        CliSubcommand::Key(subcommand) => key::run(&common, &subcommand).await,
        CliSubcommand::Enroll(subcommand) => enroll::run(&common, &subcommand).await,
        CliSubcommand::Posture(subcommand) => posture::run(&common, &subcommand).await,
        CliSubcommand::Clock(subcommand) => clock::run(&common, &subcommand).await,
        CliSubcommand::Export(subcommand) => export::run(&common, &subcommand).await,
        CliSubcommand::Verify(subcommand) => verify::run(&common, &subcommand),
        CliSubcommand::Audit(subcommand) => audit::run(&common, &subcommand).await,
    }
}

//! The command `hostbadge`, one file to a subcommand.

mod agent;
mod attest;
mod audit;
mod certificate;
mod client;
mod enroll;
mod export;
mod key;
mod posture;
mod prompt;
mod status;
mod table;
mod token;
mod verify;
mod whoami;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use table::sanitize;

/// Ask the host's hostbadged who you are and for short-lived tokens; look after it; check what it signed.
#[derive(Parser, Debug)]
#[command(
    name = "hostbadge",
    version,
    after_help = "Exit status: 0 done, 1 refused, 2 usage, 3 no daemon at the socket, 4 the daemon cannot now.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    subcommand: CliSubcommand,

    #[command(flatten)]
    common: CommonArgs,
}

/// Options of every command.
#[derive(Args, Debug)]
struct CommonArgs {
    /// JSON for programs instead of text for people
    #[arg(long, global = true)]
    json: bool,

    /// The agent socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "HOSTBADGE_SOCKET",
        default_value = "/run/hostbadge/agent.sock"
    )]
    socket: PathBuf,

    /// The admin socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "HOSTBADGE_ADMIN_SOCKET",
        default_value = "/run/hostbadge/admin.sock"
    )]
    admin_socket: PathBuf,
}

#[derive(Subcommand, Debug)]
enum CliSubcommand {
    /// Who the daemon sees in this process
    Whoami,
    /// Get a token for an audience; prints the bare token
    Token(token::TokenArgs),
    /// Get an X.509 certificate for this process's own identity, or keep one fresh
    Certificate(certificate::CertificateArgs),
    /// Evidence for a verifier: what this host booted, and which keys its TPM stands for
    Attest(attest::AttestArgs),
    /// How the daemon and its TPM are (for administrators)
    Status,
    /// The registered agents (for administrators)
    #[command(subcommand)]
    Agent(agent::AgentSubcommand),
    /// The issuing keys (for administrators)
    #[command(subcommand)]
    Key(key::KeySubcommand),
    /// Have an organisation vouch for this host's TPM, by four files (for administrators and operators)
    #[command(subcommand)]
    Enroll(enroll::EnrollSubcommand),
    /// Whether the host is as it was accepted (for administrators)
    #[command(subcommand)]
    Posture(posture::PostureSubcommand),
    /// What relying parties want to be given
    #[command(subcommand)]
    Export(export::ExportSubcommand),
    /// Check what a hostbadge signed; needs no daemon and no TPM
    #[command(subcommand)]
    Verify(verify::VerifySubcommand),
    /// The record of decisions (for administrators)
    #[command(subcommand)]
    Audit(audit::AuditSubcommand),
}

/// Runs the command that was asked for.
pub fn run(command: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return CliError::Local(e.to_string()).report(command.common.json),
    };
    let json = command.common.json;
    match runtime.block_on(dispatch(command)) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
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
        CliSubcommand::Agent(verb) => agent::run(&common, &verb).await,
        CliSubcommand::Key(verb) => key::run(&common, &verb).await,
        CliSubcommand::Enroll(verb) => enroll::run(&common, &verb).await,
        CliSubcommand::Posture(verb) => posture::run(&common, &verb).await,
        CliSubcommand::Export(verb) => export::run(&common, &verb).await,
        CliSubcommand::Verify(verb) => verify::run(&common, &verb),
        CliSubcommand::Audit(verb) => audit::run(&common, &verb).await,
    }
}

/// Why a command was not done, with its exit status.
#[derive(Debug)]
enum CliError {
    /// Exit status 1. The body is the daemon's.
    Refused(Value),
    /// Exit status 1, by this command itself.
    Local(String),
    /// Exit status 3.
    NoDaemon(String),
    /// Exit status 4. The body is the daemon's.
    Unavailable(Value),
}

impl CliError {
    fn report(&self, json: bool) -> ExitCode {
        let code = match self {
            CliError::Refused(_) | CliError::Local(_) => 1,
            CliError::NoDaemon(_) => 3,
            CliError::Unavailable(_) => 4,
        };
        match self {
            CliError::Refused(body) | CliError::Unavailable(body) if json => println!("{body}"),
            _ => eprintln!("hostbadge: {self}"),
        }
        ExitCode::from(code)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (body, label) = match self {
            CliError::Local(what) | CliError::NoDaemon(what) => return f.write_str(&sanitize(what)),
            CliError::Refused(body) => (body, "refused"),
            CliError::Unavailable(body) => (body, "not now"),
        };
        let text = |name: &str| sanitize(body[name].as_str().unwrap_or("?"));
        write!(f, "{label}: {} ({})", text("error_description"), text("error"))?;
        for fault in body["faults"].as_array().into_iter().flatten() {
            write!(f, "\n  {}", sanitize(&agent::format_diagnostic(fault)))?;
        }
        let peer = &body["peer"];
        if peer.is_object() {
            write!(f, "\nThe daemon sees {}", sanitize(&whoami::format_peer(peer)))?;
        }
        Ok(())
    }
}

/// Prints JSON as programs want it.
fn print_json(value: &Value) -> ExitCode {
    println!("{value}");
    ExitCode::SUCCESS
}

//! `hostbadge nonce`, and `hostbadge nonce use`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;
use crate::wire::agent::{NonceResponse, UseNonceRequest, UseNonceResponse};

/// Bytes of a random nonce. A daemon takes 8 to 64.
const NONCE_LEN: usize = 32;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct NonceArgs {
    /// Print a nonce that the daemon makes for the agent that this process is, valid once within 5 minutes by
    /// "hostbadge nonce use", instead of random bytes
    #[arg(long)]
    from_daemon: bool,

    #[command(subcommand)]
    subcommand: Option<NonceSubcommand>,
}

#[derive(Subcommand, Debug)]
enum NonceSubcommand {
    /// Use up a nonce of "hostbadge nonce --from-daemon" that came back in a proof or in evidence. Exit status 0 if
    /// the daemon made it for this agent at most 5 minutes ago and this is its first use, and 1 otherwise
    Use {
        /// The nonce
        #[arg(allow_hyphen_values = true)]
        nonce: String,
    },
}

pub(super) async fn run(common: &CommonArgs, arguments: &NonceArgs) -> Result<ExitCode, CliError> {
    match &arguments.subcommand {
        Some(NonceSubcommand::Use { nonce }) => use_nonce(common, nonce).await,
        None if arguments.from_daemon => from_daemon(common).await,
        None => random(common),
    }
}

fn random(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| CliError::Local("the system's random number generator failed".into()))?;
    let nonce = BASE64URL_NOPAD.encode(&nonce);
    if common.json {
        return print_json(&json!({ "nonce": nonce }));
    }
    print_line(nonce)?;
    Ok(ExitCode::SUCCESS)
}

async fn from_daemon(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::post_empty::<NonceResponse>(&common.socket, "/v1/nonce").await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print_line(reply.body.nonce)?;
    Ok(ExitCode::SUCCESS)
}

async fn use_nonce(common: &CommonArgs, nonce: &str) -> Result<ExitCode, CliError> {
    let request = UseNonceRequest { nonce: nonce.to_owned() };
    let reply = client::post::<UseNonceResponse>(&common.socket, "/v1/nonce/use", &request).await?;
    let code = if reply.body.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if common.json {
        return print_json(&reply.raw).map(|_| code);
    }
    print_line(if reply.body.valid {
        "valid, and used up now"
    } else {
        "not valid; the audit log has the reason"
    })?;
    Ok(code)
}

//! `hostbadge credential get`: the value of a credential, for an agent.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::{print_bytes, print_line};
use super::pending_approval::{parse_wait, until_approved};
use crate::wire::credentials::{ReleaseRequest, ReleaseResponse};

#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// Name of the credential, as in the agent's [[credential]]
    name: String,
    /// Version to get, instead of the latest
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Print the value even if standard output is a terminal
    #[arg(long)]
    terminal: bool,
    /// Wait for at most DURATION where an administrator has to approve the request, and repeat it every 5 s
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    wait_approval: Option<Duration>,
}

pub(super) async fn run(common: &CommonArgs, arguments: &GetArgs) -> Result<ExitCode, CliError> {
    let is_terminal = io::stdout().is_terminal();
    // Before the request, which would be recorded as a release.
    if is_terminal && !arguments.terminal {
        return Err(CliError::Local(
            "standard output is a terminal, which shows the value; redirect it, or add --terminal".to_owned(),
        ));
    }
    let request = ReleaseRequest {
        name: arguments.name.as_str().into(),
        version: arguments.version,
        agent: arguments.agent.as_deref().map(Into::into),
    };
    let reply = until_approved(arguments.wait_approval, async || {
        client::post::<ReleaseResponse<'static>>(&common.socket, "/v1/credential", &request).await
    })
    .await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print_bytes(reply.body.value.as_bytes())?;
    if is_terminal {
        print_line("")?;
    }
    Ok(ExitCode::SUCCESS)
}

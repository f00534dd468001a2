//! `hostbadge delegate`: makes the processes of a cgroup a sub-agent of this process's agent.

use std::process::ExitCode;

use clap::Args;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;
use super::rights_args::RightsArgs;
use crate::wire::delegate::{DelegateRequest, DelegateResponse};

#[derive(Args, Debug)]
pub(super) struct DelegateArgs {
    /// The sub-agent's name below that of the agent: a-z 0-9 . _ -
    name: String,

    /// The cgroup whose processes are the sub-agent: its path in the unified hierarchy, or below the agent's own cgroup
    /// where it does not begin with a slash
    #[arg(long, value_name = "PATH")]
    cgroup: String,

    #[command(flatten)]
    rights: RightsArgs,

    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

pub(super) async fn run(common: &CommonArgs, arguments: &DelegateArgs) -> Result<ExitCode, CliError> {
    let request = DelegateRequest {
        name: arguments.name.as_str().into(),
        cgroup: arguments.cgroup.as_str().into(),
        grants: arguments.rights.grants(),
        ttl: arguments.rights.ttl(),
        agent: arguments.agent.as_deref().map(Into::into),
    };
    let reply = client::post::<DelegateResponse>(&common.socket, "/v1/delegate", &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let DelegateResponse { agent, spiffe_id, cgroup, boundary, expires_at } = reply.body;
    print_line(format_args!("{agent}: {cgroup} until {expires_at}"))?;
    print_line(format_args!("  {spiffe_id}"))?;
    print_line(format_args!("  boundary: {}", boundary.as_str()))?;
    Ok(ExitCode::SUCCESS)
}

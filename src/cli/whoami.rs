//! `hostbadge whoami`.

use std::process::ExitCode;

use clap::Args;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::format::{format_delegation, format_peer};
use super::table::KeyValueTable;
use super::why;
use crate::wire::agent::WhoamiResponse;

#[derive(Args, Debug)]
pub(super) struct WhoamiArgs {
    /// Show which conditions of agents this process meets and which it does not, without what they require.
    /// Agents are shown that this process is, that have its user, or that have its unit unless users start
    /// processes in that
    #[arg(long)]
    why: bool,
}

pub(super) async fn run(common: &CommonArgs, arguments: &WhoamiArgs) -> Result<ExitCode, CliError> {
    if arguments.why {
        return why::run_for_caller(common).await;
    }
    let reply = client::get::<WhoamiResponse>(&common.socket, "/v1/whoami").await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let whoami = reply.body;
    let mut table = KeyValueTable::default();
    match &whoami.agent {
        Some(agent) => table.add("agent", agent),
        None => table.add("agents", format!("{} (name one with --agent)", whoami.agents.join(", "))),
    }
    table.add_some("id", whoami.spiffe_id);
    table.add_some("delegated", whoami.delegation.as_ref().map(format_delegation));
    table.add("process", format_peer(&whoami.peer));
    table.add_some("sha256", whoami.peer.exe_sha256);
    let id = whoami.host.id.unwrap_or_else(|| "unknown".into());
    let tpm = whoami.host.tpm.map_or_else(|| "unknown".into(), |tpm| tpm.to_string());
    table.add("host", format!("{id} ({tpm} TPM, posture {})", whoami.host.posture));
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

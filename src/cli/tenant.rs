//! `hostbadge tenant list|rm`.

use std::process::ExitCode;

use clap::Subcommand;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;
use super::table::print_columns;
use crate::plural::counted;
use crate::wire::tenants::{RemoveTenantRequest, RemoveTenantResponse, Tenant};

#[derive(Subcommand, Debug)]
pub(super) enum TenantSubcommand {
    /// List the tenants with what they have and may have
    List,
    /// Destroy the keys and the credentials of a tenant that no agent names (root only)
    ///
    /// Its tokens no longer verify at once, and nothing decrypts its credentials any more. Without this command,
    /// the issuing keys of a tenant are removed once the last token has expired, and its credentials stay.
    Rm {
        /// The tenant
        name: String,
    },
}

pub(super) async fn run(common: &CommonArgs, subcommand: &TenantSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        TenantSubcommand::List => list(common).await,
        TenantSubcommand::Rm { name } => remove(common, name).await,
    }
}

async fn list(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::get::<Vec<Tenant>>(&common.admin_socket, "/v1/tenants").await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let rows: Vec<Vec<String>> = reply.body.iter().map(row).collect();
    print_columns(&["TENANT", "AGENTS", "RATE", "TOKENS", "CREDENTIALS", "KID"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn row(tenant: &Tenant) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let quota = &tenant.quota;
    vec![
        tenant.name.clone(),
        tenant.agents.to_string(),
        or_dash(quota.rate.map(|rate| format!("{rate}/s"))),
        or_dash(
            quota.live_tokens.map(|most| format!("{} of {most}", tenant.live_tokens.unwrap_or_default())),
        ),
        match (tenant.credentials, quota.credentials) {
            (Some(stored), Some(most)) => format!("{stored} of {most}"),
            (stored, _) => or_dash(stored.map(|stored| stored.to_string())),
        },
        or_dash(tenant.kid.clone()),
    ]
}

async fn remove(common: &CommonArgs, name: &str) -> Result<ExitCode, CliError> {
    let request = RemoveTenantRequest { name: name.to_owned() };
    let path = "/v1/tenants/remove";
    let reply = client::post::<RemoveTenantResponse>(&common.admin_socket, path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let RemoveTenantResponse { name, credentials } = reply.body;
    print_line(format_args!(
        "destroyed the keys of tenant {name}, with {}",
        counted(credentials, "credential")
    ))?;
    Ok(ExitCode::SUCCESS)
}

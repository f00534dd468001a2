//! `hostbadge export jwks|discovery|bundle|status-list`: documents for relying parties that cannot reach this host.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::export_status_list::{self, StatusListArgs};
use super::files::OutputArgs;
use super::tenant_args::TenantArgs;

#[derive(Subcommand, Debug)]
pub(super) enum ExportSubcommand {
    /// Export the public keys that verify this host's tokens (RFC 7517)
    Jwks(JwksArgs),
    /// Export the OpenID Connect discovery document, for a web server that serves it and the key set
    Discovery(DiscoveryArgs),
    /// Export the SPIFFE bundle document: root certificates and token keys, for federation
    Bundle(OutputArgs),
    /// Export status lists: which tokens are revoked, for a web server at ISSUER/v1/status-list/
    StatusList(StatusListArgs),
}

#[derive(Args, Debug)]
pub(super) struct JwksArgs {
    #[command(flatten)]
    tenant: TenantArgs,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub(super) struct DiscoveryArgs {
    #[command(flatten)]
    tenant: TenantArgs,

    /// Keep the token, introspection and status list endpoints, for an issuer URL at which a server forwards requests to
    /// the agent socket
    #[arg(long)]
    endpoints: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Members of the discovery document that a web server with two files does not have.
const ENDPOINTS: [&str; 3] = ["token_endpoint", "introspection_endpoint", "status_list_aggregation_endpoint"];

impl ExportSubcommand {
    /// Whether the document goes to standard output.
    pub(super) fn prints_result(&self) -> bool {
        !self.output().is_file()
    }

    fn output(&self) -> &OutputArgs {
        match self {
            ExportSubcommand::Jwks(arguments) => &arguments.output,
            ExportSubcommand::Bundle(output) => output,
            ExportSubcommand::Discovery(arguments) => &arguments.output,
            ExportSubcommand::StatusList(arguments) => arguments.output(),
        }
    }
}

pub(super) async fn run(common: &CommonArgs, subcommand: &ExportSubcommand) -> Result<ExitCode, CliError> {
    let (path, left_out) = match subcommand {
        ExportSubcommand::Jwks(arguments) => (arguments.tenant.path("/.well-known/jwks.json")?, &[][..]),
        ExportSubcommand::Discovery(arguments) => {
            let left_out = if arguments.endpoints { &[][..] } else { &ENDPOINTS };
            (arguments.tenant.path("/.well-known/openid-configuration")?, left_out)
        }
        ExportSubcommand::Bundle(_) => ("/v1/bundle".to_owned(), &[][..]),
        ExportSubcommand::StatusList(arguments) => return export_status_list::run(common, arguments).await,
    };
    // The documents have specifications of their own; the command only indents them.
    let mut document = client::get::<Value>(&common.socket, &path).await?.body;
    if let Some(members) = document.as_object_mut() {
        members.retain(|name, _| !left_out.contains(&name.as_str()));
    }
    subcommand.output().write(format!("{document:#}\n").as_bytes(), 0o644)
}

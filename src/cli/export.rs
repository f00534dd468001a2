//! `hostbadge export jwks|discovery|bundle`: documents for relying parties that cannot reach this host.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::files::OutputArgs;
use crate::agents::is_tenant_name;

#[derive(Subcommand, Debug)]
pub(super) enum ExportSubcommand {
    /// Export the public keys that verify this host's tokens (RFC 7517)
    Jwks(JwksArgs),
    /// Export the OpenID Connect discovery document, for a web server that serves it and the key set
    Discovery(DiscoveryArgs),
    /// Export the SPIFFE bundle document: root certificates and token keys, for federation
    Bundle(OutputArgs),
}

#[derive(Args, Debug)]
pub(super) struct JwksArgs {
    #[command(flatten)]
    tenant: TenantArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Whose documents are exported.
#[derive(Args, Debug)]
struct TenantArgs {
    /// Export the document of this tenant's issuer, ISSUER/tenant/NAME [default: that of agents without a tenant]
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

impl TenantArgs {
    /// The path of a document on the agent socket.
    fn path(&self, document: &str) -> Result<String, CliError> {
        match &self.tenant {
            None => Ok(document.to_owned()),
            Some(tenant) if is_tenant_name(tenant) => Ok(format!("/tenant/{tenant}{document}")),
            Some(_) => Err(CliError::Local(
                "a tenant has the form of an agent name: a-z 0-9 . _ -, at most 63 characters".into(),
            )),
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct DiscoveryArgs {
    #[command(flatten)]
    tenant: TenantArgs,

    /// Keep the token and introspection endpoints, for an issuer URL at which a server forwards requests to
    /// the agent socket
    #[arg(long)]
    endpoints: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Members of the discovery document that a web server with two files does not have.
const ENDPOINTS: [&str; 2] = ["token_endpoint", "introspection_endpoint"];

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
    };
    // The documents have specifications of their own; the command only indents them.
    let mut document = client::get::<Value>(&common.socket, &path).await?.body;
    if let Some(members) = document.as_object_mut() {
        members.retain(|name, _| !left_out.contains(&name.as_str()));
    }
    subcommand.output().write(format!("{document:#}\n").as_bytes(), 0o644)
}

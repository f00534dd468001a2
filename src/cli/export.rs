//! `hostbadge export jwks|discovery|bundle`: documents for relying parties that cannot reach this host.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::files::OutputArgs;

#[derive(Subcommand, Debug)]
pub(super) enum ExportSubcommand {
    /// Export the public keys that verify this host's tokens (RFC 7517)
    Jwks(OutputArgs),
    /// Export the OpenID Connect discovery document
    Discovery(OutputArgs),
    /// Export the SPIFFE bundle document: root certificates and token keys, for federation
    Bundle(OutputArgs),
}

pub(super) async fn run(common: &CommonArgs, subcommand: &ExportSubcommand) -> Result<ExitCode, CliError> {
    let (path, output) = match subcommand {
        ExportSubcommand::Jwks(output) => ("/.well-known/jwks.json", output),
        ExportSubcommand::Discovery(output) => ("/.well-known/openid-configuration", output),
        ExportSubcommand::Bundle(output) => ("/v1/bundle", output),
    };
    // The documents have specifications of their own; the command only indents them.
    let document = client::get::<Value>(&common.socket, path).await?.body;
    output.write(format!("{document:#}\n").as_bytes(), 0o644)
}

//! `hostbadge export jwks|discovery|bundle`: what relying parties that cannot reach this host are given by hand.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{CliError, CommonArgs, client};
use crate::store;

#[derive(Subcommand, Debug)]
pub enum ExportSubcommand {
    /// The public keys that verify this host's tokens, RFC 7517
    Jwks(ExportOutputArgs),
    /// The OpenID Connect discovery document
    Discovery(ExportOutputArgs),
    /// The SPIFFE bundle document: roots of certificates and keys of tokens, for those who federate with this host
    Bundle(ExportOutputArgs),
}

#[derive(Args, Debug)]
pub struct ExportOutputArgs {
    /// Write to FILE, replaced whole, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(common: &CommonArgs, subcommand: &ExportSubcommand) -> Result<ExitCode, CliError> {
    let (path, output_args) = match subcommand {
        ExportSubcommand::Jwks(output_args) => ("/.well-known/jwks.json", output_args),
        ExportSubcommand::Discovery(output_args) => ("/.well-known/openid-configuration", output_args),
        ExportSubcommand::Bundle(output_args) => ("/v1/bundle", output_args),
    };
    let document = client::get(&common.socket, path).await?;
    let text = format!("{document:#}\n");
    match &output_args.output {
        None => print!("{text}"),
        Some(file) => store::write_atomic(file, text.as_bytes(), 0o644)
            .map_err(|e| CliError::Local(format!("{}: {e}", file.display())))?,
    }
    Ok(ExitCode::SUCCESS)
}

//! `hostbadge export jwks|discovery|bundle`: what relying parties that cannot reach this host are given by hand.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Common, Failure, client};
use crate::store;

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// The public keys that verify this host's tokens, RFC 7517
    Jwks(To),
    /// The OpenID Connect discovery document
    Discovery(To),
    /// The SPIFFE bundle document: roots of certificates and keys of tokens, for those who federate with this host
    Bundle(To),
}

#[derive(Args, Debug)]
pub struct To {
    /// Write to FILE, replaced whole, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(common: &Common, verb: &Verb) -> Result<ExitCode, Failure> {
    let (path, to) = match verb {
        Verb::Jwks(to) => ("/.well-known/jwks.json", to),
        Verb::Discovery(to) => ("/.well-known/openid-configuration", to),
        Verb::Bundle(to) => ("/v1/bundle", to),
    };
    let document = client::get(&common.socket, path).await?;
    let text = format!("{document:#}\n");
    match &to.output {
        None => print!("{text}"),
        Some(file) => store::replace(file, text.as_bytes(), 0o644)
            .map_err(|e| Failure::Local(format!("{}: {e}", file.display())))?,
    }
    Ok(ExitCode::SUCCESS)
}

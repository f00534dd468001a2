//! `hostbadge attest`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Common, Failure, client};
use crate::store;

#[derive(Args, Debug)]
pub struct Arguments {
    /// The verifier's challenge: 8 to 64 bytes in base64url without padding
    #[arg(long, value_name = "BASE64URL")]
    nonce: String,

    /// Write to FILE, replaced whole, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(common: &Common, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let ask = serde_json::json!({ "nonce": arguments.nonce });
    let evidence = client::post(&common.socket, "/v1/attest", &ask).await?;
    match &arguments.output {
        None => println!("{evidence}"),
        Some(file) => store::replace(file, format!("{evidence}\n").as_bytes(), 0o644)
            .map_err(|e| Failure::Local(format!("{}: {e}", file.display())))?,
    }
    Ok(ExitCode::SUCCESS)
}

//! `hostbadge attest`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{CliError, CommonArgs, client};
use crate::store;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum AttestFormat {
    #[default]
    Evidence,
    Eat,
}

#[derive(Args, Debug)]
pub struct AttestArgs {
    /// The verifier's challenge: 8 to 64 bytes in base64url without padding
    #[arg(long, value_name = "BASE64URL")]
    nonce: String,

    /// The document itself, or an EAT (RFC 9711) around it: a JWT signed by the host key
    #[arg(long, value_enum, default_value_t)]
    format: AttestFormat,

    /// Write to FILE, replaced whole, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(common: &CommonArgs, arguments: &AttestArgs) -> Result<ExitCode, CliError> {
    let mut request = serde_json::json!({ "nonce": arguments.nonce });
    if arguments.format == AttestFormat::Eat {
        request["format"] = "eat".into();
    }
    let response = client::post_large(&common.socket, "/v1/attest", &request).await?;
    // A JWT stands alone, for programs as for people.
    let evidence = match response["eat"].as_str() {
        Some(token) => token.to_owned(),
        None => response.to_string(),
    };
    match &arguments.output {
        None => println!("{evidence}"),
        Some(file) => store::write_atomic(file, format!("{evidence}\n").as_bytes(), 0o644)
            .map_err(|e| CliError::Local(format!("{}: {e}", file.display())))?,
    }
    Ok(ExitCode::SUCCESS)
}

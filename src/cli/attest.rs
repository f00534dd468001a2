//! `hostbadge attest`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Common, Failure, client};
use crate::store;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Evidence,
    Eat,
}

#[derive(Args, Debug)]
pub struct Arguments {
    /// The verifier's challenge: 8 to 64 bytes in base64url without padding
    #[arg(long, value_name = "BASE64URL")]
    nonce: String,

    /// The document itself, or an EAT (RFC 9711) around it: a JWT signed by the host key
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Write to FILE, replaced whole, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(common: &Common, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut ask = serde_json::json!({ "nonce": arguments.nonce });
    if arguments.format == Format::Eat {
        ask["format"] = "eat".into();
    }
    let answer = client::post_for_much(&common.socket, "/v1/attest", &ask).await?;
    // A JWT stands alone, for programs as for people.
    let evidence = match answer["eat"].as_str() {
        Some(token) => token.to_owned(),
        None => answer.to_string(),
    };
    match &arguments.output {
        None => println!("{evidence}"),
        Some(file) => store::replace(file, format!("{evidence}\n").as_bytes(), 0o644)
            .map_err(|e| Failure::Local(format!("{}: {e}", file.display())))?,
    }
    Ok(ExitCode::SUCCESS)
}

//! `hostbadge attest`.

use std::process::ExitCode;

use clap::Args;
use serde_json::value::RawValue;

use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::files::OutputArgs;
use crate::wire::agent::{AttestRequest, EatResponse, EvidenceFormat};

/// Form of the evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum AttestFormat {
    #[default]
    Evidence,
    Eat,
}

#[derive(Args, Debug)]
pub(super) struct AttestArgs {
    /// The verifier's nonce, as `hostbadge nonce` makes it: 8 to 64 bytes in base64url without padding
    #[arg(long, value_name = "BASE64URL", allow_hyphen_values = true)]
    nonce: String,

    /// The evidence itself (JSON), or an EAT (RFC 9711) that contains it: a JWT signed by the host key
    #[arg(long, value_enum, default_value_t)]
    format: AttestFormat,

    #[command(flatten)]
    output: OutputArgs,
}

impl AttestArgs {
    /// Whether the evidence goes to standard output.
    pub(super) fn prints_result(&self) -> bool {
        !self.output.is_file()
    }
}

pub(super) async fn run(common: &CommonArgs, arguments: &AttestArgs) -> Result<ExitCode, CliError> {
    let nonce = arguments.nonce.clone();
    let document = match arguments.format {
        AttestFormat::Evidence => {
            let request = AttestRequest { nonce, format: EvidenceFormat::Evidence };
            let reply = client::post_large::<Box<RawValue>>(&common.socket, "/v1/attest", &request).await?;
            reply.body.get().to_owned()
        }
        // The token is printed alone, with and without --json.
        AttestFormat::Eat => {
            let request = AttestRequest { nonce, format: EvidenceFormat::Eat };
            let reply = client::post_large::<EatResponse>(&common.socket, "/v1/attest", &request).await?;
            reply.body.eat
        }
    };
    arguments.output.write(format!("{document}\n").as_bytes(), 0o644)
}

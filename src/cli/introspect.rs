//! `hostbadge introspect`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::read_file;
use super::output::print_line;
use super::revoke::read_token;
use super::table::KeyValueTable;
use crate::clock::Timestamp;
use crate::wire::agent::{IntrospectionRequest, IntrospectionResponse};

/// Claims that are printed, with their labels.
const CLAIMS: [(&str, &str); 6] = [
    ("client_id", "agent"),
    ("sub", "id"),
    ("aud", "audience"),
    ("scope", "scope"),
    ("exp", "expires"),
    ("jti", "jti"),
];

#[derive(Args, Debug)]
pub(super) struct IntrospectArgs {
    /// Use the token up: of all requests with this option on this host, the first finds the token active, and no
    /// other one does
    #[arg(long)]
    once: bool,

    /// Your own audience. A token for another audience is not active
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,

    /// File with the DPoP proof of the request that the token came with, or, without --method, with its WPT
    #[arg(long, value_name = "FILE", requires = "url")]
    proof: Option<PathBuf>,

    /// With a DPoP proof: method of that request
    #[arg(long, requires = "proof")]
    method: Option<String>,

    /// With --proof: absolute URL of that request
    #[arg(long, requires = "proof")]
    url: Option<String>,

    /// With a WPT beside an access token: file with the WIT
    #[arg(long, value_name = "FILE", requires = "proof", conflicts_with = "method")]
    wit: Option<PathBuf>,

    /// File with the client certificate of the connection on which the token came, in PEM
    #[arg(long, value_name = "FILE", conflicts_with = "proof")]
    certificate: Option<PathBuf>,
}

/// Largest file of an option, in bytes.
const MAX_FILE_SIZE: usize = 16 * 1024;

/// Prints whether the token on standard input is active. Exit status 0 if it is, and 1 if it is not.
pub(super) async fn run(common: &CommonArgs, arguments: &IntrospectArgs) -> Result<ExitCode, CliError> {
    let request = IntrospectionRequest {
        token: read_token()?.to_string(),
        audience: arguments.audience.clone(),
        once: arguments.once,
        proof: text(arguments.proof.as_deref())?,
        method: arguments.method.clone(),
        url: arguments.url.clone(),
        wit: text(arguments.wit.as_deref())?,
        certificate: text(arguments.certificate.as_deref())?,
        token_type_hint: None,
        client_id: None,
        client_secret: None,
    };
    let path = "/v1/introspect";
    let reply = client::post::<IntrospectionResponse>(&common.socket, path, &request).await?;
    let code = if reply.body.active { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if common.json {
        return print_json(&reply.raw).map(|_| code);
    }
    if !reply.body.active {
        print_line("not active; the audit log has the reason")?;
        return Ok(code);
    }
    let mut table = KeyValueTable::default();
    table.add("active", if arguments.once { "yes, and used up now" } else { "yes" });
    for (name, label) in CLAIMS {
        let claim = match reply.body.claims.get(name) {
            Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
            Some(Value::Number(secs)) => secs.as_u64().map(|secs| Timestamp::from_secs(secs).to_string()),
            _ => None,
        };
        table.add_some(label, claim);
    }
    table.print()?;
    Ok(code)
}

/// The text of a file, without space at its ends.
fn text(file: Option<&Path>) -> Result<Option<String>, CliError> {
    let Some(file) = file else { return Ok(None) };
    let text = String::from_utf8(read_file(file, MAX_FILE_SIZE)?);
    let text = text.map_err(|_| CliError::local(format!("{} is not text", file.display())))?;
    Ok(Some(text.trim().to_owned()))
}

//! `hostbadge prove`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use data_encoding::HEXLOWER;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::{MAX_INPUT_SIZE, OutputArgs, read_file, read_stdin};
use super::pending_approval::{parse_wait, until_approved};
use crate::digest::sha256;
use crate::wire::agent::{ProofKind, ProveRequest, ProveResponse};

/// Largest token that is read, in bytes.
const MAX_TOKEN_SIZE: usize = 16 * 1024;

/// The kind of proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A DPoP proof (RFC 9449)
    Dpop,
    /// A Workload Proof Token with its Workload Identity Token
    Wpt,
    /// An HTTP message signature (RFC 9421) with its Workload Identity Token
    HttpSignature,
    /// An assertion that authenticates the agent at an authorization server (RFC 7523)
    ClientAssertion,
    /// An attestation for an authorization server, with a proof of the proof key
    ClientAttestation,
    /// A signature by a sealed access key (AWS Signature Version 4)
    Sigv4,
}

#[derive(Args, Debug)]
pub(super) struct ProveArgs {
    #[arg(value_enum)]
    kind: Kind,

    /// Method of the request that the proof is for, such as GET
    #[arg(requires = "url", required_unless_present = "audience")]
    method: Option<String>,

    /// Absolute URL of the request
    url: Option<String>,

    /// With client-assertion and client-attestation: the issuer of the authorization server, as the agent's grant names it
    #[arg(long, value_name = "ISSUER", conflicts_with_all = ["method", "url", "body", "body_sha256", "token_file"])]
    audience: Option<String>,

    /// The body of the request; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "body_sha256")]
    body: Option<PathBuf>,

    /// SHA-256 of the body: 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    body_sha256: Option<String>,

    /// The nonce or challenge that the server gave
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    nonce: Option<String>,

    /// With http-signature and sigv4: the Content-Type of the request, which they sign
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,

    /// With sigv4: the credential; default: the first one of the agent that signs this request
    #[arg(long, value_name = "NAME")]
    credential: Option<String>,

    /// File with the access token that the request has; "-" is standard input. It is no argument, which other users
    /// could see
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,

    /// Wait for at most DURATION where an administrator has to approve the request, and repeat it every 5 s
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    wait_approval: Option<Duration>,

    #[command(flatten)]
    output: OutputArgs,
}

impl ProveArgs {
    /// Whether the proof goes to standard output.
    pub(super) fn prints_result(&self) -> bool {
        !self.output.is_file()
    }
}

/// Prints the headers of the request, a line each as `curl --header @FILE` reads them, or the parameters of a client
/// assertion in the form encoding.
pub(super) async fn run(common: &CommonArgs, arguments: &ProveArgs) -> Result<ExitCode, CliError> {
    let body_sha256 = match &arguments.body {
        Some(file) => Some(HEXLOWER.encode(&sha256(&read(file, MAX_INPUT_SIZE)?))),
        None => arguments.body_sha256.clone(),
    };
    let token = arguments.token_file.as_deref().map(|file| read(file, MAX_TOKEN_SIZE)).transpose()?;
    let token = token.map(String::from_utf8).transpose();
    let token = token.map_err(|_| CliError::Local("the token is not text".into()))?;
    let request = ProveRequest {
        kind: match arguments.kind {
            Kind::Dpop => ProofKind::Dpop,
            Kind::Wpt => ProofKind::Wpt,
            Kind::HttpSignature => ProofKind::HttpSignature,
            Kind::ClientAssertion => ProofKind::ClientAssertion,
            Kind::ClientAttestation => ProofKind::ClientAttestation,
            Kind::Sigv4 => ProofKind::Sigv4,
        },
        method: arguments.method.as_deref().map(Into::into),
        url: arguments.url.as_deref().map(Into::into),
        body_sha256: body_sha256.map(Into::into),
        nonce: arguments.nonce.as_deref().map(Into::into),
        content_type: arguments.content_type.as_deref().map(Into::into),
        credential: arguments.credential.as_deref().map(Into::into),
        token: token.as_deref().map(|token| token.trim().into()),
        audience: arguments.audience.as_deref().map(Into::into),
        agent: arguments.agent.as_deref().map(Into::into),
    };
    let reply = until_approved(arguments.wait_approval, async || {
        client::post::<ProveResponse>(&common.socket, "/v1/prove", &request).await
    })
    .await?;
    if common.json && !arguments.output.is_file() {
        return print_json(&reply.raw);
    }
    arguments.output.write(text(&reply.body)?.as_bytes(), 0o600)
}

/// Reads a file, or standard input for "-".
fn read(file: &Path, max_size: usize) -> Result<Vec<u8>, CliError> {
    if file == Path::new("-") { read_stdin(max_size) } else { read_file(file, max_size) }
}

fn text(response: &ProveResponse) -> Result<String, CliError> {
    if !response.parameters.is_empty() {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(&response.parameters);
        return Ok(format!("{}\n", form.finish()));
    }
    let mut text = String::new();
    for (name, value) in &response.headers {
        // Another line would be another header.
        if !name.bytes().chain(value.bytes()).all(|b| matches!(b, b' '..=b'~')) {
            return Err(CliError::Local("the daemon's response contains no valid headers".into()));
        }
        text.push_str(&format!("{name}: {value}\n"));
    }
    Ok(text)
}

//! `hostbadge token`: a token for this process's own identity, once or renewed continuously.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::value::RawValue;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::{read_file, write_output};
use super::pending_approval::{parse_wait, until_approved};
use super::watch::{Renewed, renew_until_signal};
use super::watched_file::WatchedFile;
use crate::clock::{Clock, Timestamp};
use crate::wire::agent::{Bind, TokenRequest, TokenResponse, Ttl};

/// Largest certificate with its chain, in bytes.
const MAX_CERTIFICATE_SIZE: usize = 16 * 1024;

/// What a token is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum BindTo {
    /// Nothing
    None,
    /// The proof key, which "hostbadge prove" uses
    Dpop,
    /// The certificate of --certificate
    Mtls,
}

#[derive(Args, Debug)]
pub(super) struct TokenArgs {
    /// Audience of the token, exactly as the agent's grant names it
    audience: String,

    /// Scope to request, instead of all scopes of the grant; may be repeated
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,

    /// Lifetime, like "60s" or "5m", or a number of seconds; at most the grant's, which is the default
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// What to bind the token to, where the grant does not say it: the proof key of this process's invocation, or a
    /// certificate of the agent
    #[arg(long, value_enum, value_name = "WHAT")]
    bind: Option<BindTo>,

    /// With --bind mtls: the agent's certificate, as "hostbadge certificate" wrote it
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,

    /// Write the token to FILE with mode 0600 instead of to standard output, as --file does; "-" is standard
    /// output. A regular file is replaced atomically, a character device or FIFO is written to, and anything
    /// else is refused, such as a link to a file
    #[arg(long, short, visible_alias = "file", value_name = "FILE", conflicts_with = "watch")]
    output: Option<PathBuf>,

    /// Write the token to FILE with mode 0600 and replace it atomically at half of its lifetime, until
    /// SIGTERM or SIGINT; then remove it. A file that this command did not write is refused and stays. One
    /// process can renew a file
    #[arg(long, value_name = "FILE")]
    watch: Option<PathBuf>,

    /// Wait for at most DURATION where an administrator has to approve the request, and repeat it every 5 s
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    wait_approval: Option<Duration>,
}

impl TokenArgs {
    /// Whether the token goes to standard output.
    pub(super) fn prints_result(&self) -> bool {
        self.watch.is_none() && self.output.as_deref().is_none_or(|file| file == Path::new("-"))
    }
}

pub(super) async fn run(common: &CommonArgs, arguments: &TokenArgs) -> Result<ExitCode, CliError> {
    if let Some(file) = &arguments.watch {
        return watch(common, arguments, file).await;
    }
    let Token { token, raw, .. } = request_token(common, arguments).await?;
    if common.json && arguments.output.is_none() {
        return print_json(&raw);
    }
    write_output(arguments.output.as_deref(), format!("{token}\n").as_bytes(), 0o600)?;
    Ok(ExitCode::SUCCESS)
}

/// Renews the file until a signal arrives or the request is refused, then removes it.
async fn watch(common: &CommonArgs, arguments: &TokenArgs, path: &Path) -> Result<ExitCode, CliError> {
    let mut file = WatchedFile::claim(path)?;
    let outcome = renew_until_signal(async || {
        let requested_at = Clock::System.now().as_secs();
        let Token { token, expires_in, .. } = request_token(common, arguments).await?;
        file.replace(&token)?;
        let expires_at = Timestamp::from_secs(requested_at.saturating_add(expires_in));
        Ok(Renewed { expires_at, place: path.display().to_string() })
    })
    .await;
    file.remove();
    outcome
}

/// A token and the daemon's response with it.
struct Token {
    token: String,
    /// Seconds.
    expires_in: u64,
    raw: Box<RawValue>,
}

async fn request_token(common: &CommonArgs, arguments: &TokenArgs) -> Result<Token, CliError> {
    let certificate =
        arguments.certificate.as_deref().map(|file| read_file(file, MAX_CERTIFICATE_SIZE)).transpose()?;
    let certificate = certificate.map(String::from_utf8).transpose();
    let certificate = certificate.map_err(|_| CliError::Local("the certificate is not PEM".into()))?;
    let request = TokenRequest {
        audience: Some(arguments.audience.as_str().into()),
        scope: (!arguments.scope.is_empty()).then(|| arguments.scope.join(" ").into()),
        ttl: arguments.ttl.as_deref().map(|ttl| Ttl::Text(ttl.into())),
        bind: arguments.bind.map(|bind| match bind {
            BindTo::None => Bind::None,
            BindTo::Dpop => Bind::Dpop,
            BindTo::Mtls => Bind::Mtls,
        }),
        certificate: certificate.map(Into::into),
        agent: arguments.agent.as_deref().map(Into::into),
        ..TokenRequest::default()
    };
    let reply = until_approved(arguments.wait_approval, async || {
        client::post::<TokenResponse<'static>>(&common.socket, "/v1/token", &request).await
    })
    .await?;
    let token = reply.body.access_token.into_owned();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(CliError::Local("the daemon's response contains no valid token".into()));
    }
    Ok(Token { token, expires_in: reply.body.expires_in, raw: reply.raw })
}

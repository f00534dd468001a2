//! `hostbadge token`.

use std::process::ExitCode;

use clap::Args;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use crate::wire::agent::{TokenRequest, TokenResponse, Ttl};

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

    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

pub(super) async fn run(common: &CommonArgs, arguments: &TokenArgs) -> Result<ExitCode, CliError> {
    let request = TokenRequest {
        audience: Some(arguments.audience.as_str().into()),
        scope: (!arguments.scope.is_empty()).then(|| arguments.scope.join(" ").into()),
        ttl: arguments.ttl.as_deref().map(|ttl| Ttl::Text(ttl.into())),
        agent: arguments.agent.as_deref().map(Into::into),
        ..TokenRequest::default()
    };
    let reply = client::post::<TokenResponse<'static>>(&common.socket, "/v1/token", &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let token = &reply.body.access_token;
    if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(CliError::Local("the daemon's response contains no valid token".into()));
    }
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

//! `hostbadge token`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::{CliError, CommonArgs, client, print_json};

#[derive(Args, Debug)]
pub struct TokenArgs {
    /// Whom the token is for, as in the agent's grant
    audience: String,

    /// A scope to ask for, instead of all that the grant has; may be given again
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,

    /// A shorter life than the grant's, like "60s" or "5m"
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// Which agent to be, where this process is several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

pub async fn run(common: &CommonArgs, arguments: &TokenArgs) -> Result<ExitCode, CliError> {
    let mut request = Map::new();
    request.insert("audience".into(), arguments.audience.as_str().into());
    if !arguments.scope.is_empty() {
        request.insert("scope".into(), arguments.scope.join(" ").into());
    }
    if let Some(ttl) = &arguments.ttl {
        request.insert("ttl".into(), ttl.as_str().into());
    }
    if let Some(agent) = &arguments.agent {
        request.insert("agent".into(), agent.as_str().into());
    }
    let response = client::post(&common.socket, "/v1/token", &Value::Object(request)).await?;
    if common.json {
        return Ok(print_json(&response));
    }
    match response["access_token"].as_str() {
        Some(token) if token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) => {
            println!("{token}");
        }
        _ => return Err(CliError::Local("the answer holds no token".into())),
    }
    Ok(ExitCode::SUCCESS)
}

//! `hostbadge token`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::{Common, Failure, client, print_json};

#[derive(Args, Debug)]
pub struct Arguments {
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

pub async fn run(common: &Common, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut ask = Map::new();
    ask.insert("audience".into(), arguments.audience.as_str().into());
    if !arguments.scope.is_empty() {
        ask.insert("scope".into(), arguments.scope.join(" ").into());
    }
    if let Some(ttl) = &arguments.ttl {
        ask.insert("ttl".into(), ttl.as_str().into());
    }
    if let Some(agent) = &arguments.agent {
        ask.insert("agent".into(), agent.as_str().into());
    }
    let answer = client::post(&common.socket, "/v1/token", &Value::Object(ask)).await?;
    if common.json {
        return Ok(print_json(&answer));
    }
    match answer["access_token"].as_str() {
        Some(token) if token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) => {
            println!("{token}");
        }
        _ => return Err(Failure::Local("the answer holds no token".into())),
    }
    Ok(ExitCode::SUCCESS)
}

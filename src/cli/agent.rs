//! `hostbadge agent list|show|check|reload`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::table::{KeyValueTable, print_columns};
use super::{CliError, CommonArgs, client, print_json};
use crate::agents::AgentSet;
use crate::config::Config;

#[derive(Subcommand, Debug)]
pub enum AgentSubcommand {
    /// The agents in force
    List,
    /// One agent, with its conditions and grants
    Show { name: String },
    /// Read a directory of agents and report its faults; needs no daemon
    Check {
        /// [default: the directory of the configuration]
        dir: Option<PathBuf>,
    },
    /// Have the daemon read its agents again: all of them, or none if there is a fault
    Reload,
}

pub async fn run(common: &CommonArgs, subcommand: &AgentSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        AgentSubcommand::List => list(common).await,
        AgentSubcommand::Show { name } => show(common, name).await,
        AgentSubcommand::Check { dir } => check(common, dir.as_ref()),
        AgentSubcommand::Reload => reload(common).await,
    }
}

async fn list(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let response = client::get(&common.admin_socket, "/v1/agents").await?;
    if common.json {
        return Ok(print_json(&response));
    }
    let rows: Vec<Vec<String>> = response.as_array().into_iter().flatten().map(row).collect();
    print_columns(&["NAME", "OWNER", "MATCH", "AUDIENCES"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn row(agent: &Value) -> Vec<String> {
    let text = |name: &str| agent[name].as_str().unwrap_or("-").to_owned();
    let audiences: Vec<&str> = agent["grants"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|grant| grant["audience"].as_str())
        .collect();
    vec![text("name"), text("owner"), format_selectors(&agent["match"]), audiences.join(" ")]
}

fn format_selectors(matching: &Value) -> String {
    let to_text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let each = matching.as_object().into_iter().flatten();
    each.map(|(name, value)| format!("{name}={}", to_text(value))).collect::<Vec<_>>().join(" ")
}

async fn show(common: &CommonArgs, name: &str) -> Result<ExitCode, CliError> {
    // A name that is none could otherwise reach another path.
    let name = crate::agents::AgentName::parse(name).map_err(|e| CliError::Local(e.to_string()))?;
    let agent = client::get(&common.admin_socket, &format!("/v1/agents/{name}")).await?;
    if common.json {
        return Ok(print_json(&agent));
    }
    let mut table = KeyValueTable::default();
    for name in ["name", "owner", "tenant"] {
        if let Some(text) = agent[name].as_str() {
            table.add(name, text);
        }
    }
    table.add("match", format_selectors(&agent["match"]));
    for grant in agent["grants"].as_array().into_iter().flatten() {
        let scopes: Vec<&str> =
            grant["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        table.add(
            "grant",
            format!(
                "{}, at most {} s{}{}: {}",
                grant["audience"].as_str().unwrap_or_default(),
                grant["ttl"],
                match grant["assurance"] == "tpm" {
                    true => format!(", {} by the TPM", grant["alg"].as_str().unwrap_or_default()),
                    false => String::new(),
                },
                grant["posture"].as_str().map_or(String::new(), |mode| format!(", posture {mode}")),
                scopes.join(" ")
            ),
        );
    }
    table.print();
    Ok(ExitCode::SUCCESS)
}

fn check(common: &CommonArgs, dir: Option<&PathBuf>) -> Result<ExitCode, CliError> {
    let config = match dir {
        // Only how long the trust domain is matters here, and a broken configuration is hostbadged --check's to tell.
        Some(_) => Config::load(None).unwrap_or_default(),
        None => Config::load(None).map_err(|faults| CliError::Refused(invalid_files_response(&faults)))?,
    };
    let dir = dir.unwrap_or(&config.paths.agents);
    match AgentSet::read(dir, config.trust_domain_length()) {
        Ok(registry) if common.json => Ok(print_json(&json!({ "agents": registry.len(), "faults": [] }))),
        Ok(registry) => {
            println!("{}: {} agents, no faults", dir.display(), registry.len());
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => Err(CliError::Refused(invalid_files_response(&faults))),
    }
}

fn invalid_files_response(faults: &[crate::config::Diagnostic]) -> Value {
    json!({ "error": "invalid_request", "error_description": "the files have faults", "faults": faults })
}

async fn reload(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let response = client::post(&common.admin_socket, "/v1/agents/reload", &json!({})).await?;
    if common.json {
        return Ok(print_json(&response));
    }
    let mut table = KeyValueTable::default();
    for what in ["added", "changed", "removed"] {
        let names: Vec<&str> =
            response[what].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        table.add(what, if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    }
    table.print();
    Ok(ExitCode::SUCCESS)
}

/// A fault in one line.
pub fn format_diagnostic(fault: &Value) -> String {
    let text = |name: &str| fault[name].as_str().unwrap_or_default();
    match fault["line"].as_u64() {
        Some(line) => format!("{}:{line}: {}", text("file"), text("what")),
        None => format!("{}: {}", text("file"), text("what")),
    }
}

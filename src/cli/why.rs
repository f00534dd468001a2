//! `hostbadge agent why` and `hostbadge whoami --why`.

use std::process::ExitCode;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::format::{format_delegation, format_peer};
use super::output::print_line;
use super::table::{KeyValueTable, print_columns};
use crate::agents::AgentName;
use crate::plural::counted;
use crate::wire::comparison::{ConditionComparison, ConditionOutcome, WhyResponse};

pub(super) async fn run_for_process(
    common: &CommonArgs,
    pid: i32,
    agent: Option<&str>,
) -> Result<ExitCode, CliError> {
    let mut path = format!("/v1/processes/{pid}");
    if let Some(name) = agent {
        // Checked first, because the name becomes a part of the query.
        path += &format!("?agent={}", AgentName::parse_any(name).map_err(CliError::local)?);
    }
    let reply = client::get::<WhyResponse>(&common.admin_socket, &path).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print(&reply.body, true)
}

pub(super) async fn run_for_caller(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::get::<WhyResponse>(&common.socket, "/v1/whoami/why").await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print(&reply.body, false)
}

fn print(why: &WhyResponse, shows_expected: bool) -> Result<ExitCode, CliError> {
    let mut table = KeyValueTable::default();
    table.add("process", format_peer(&why.peer));
    table.add_some("sha256", why.peer.exe_sha256.as_ref());
    table.add("agents", if why.agents.is_empty() { "none".to_owned() } else { why.agents.join(", ") });
    table.add_some("refused", why.refusal.as_ref());
    table.add_some("delegated", why.delegation.as_ref().map(format_delegation));
    if why.omitted > 0 {
        table.add(
            "omitted",
            format!("{}, which have fewer of these conditions", counted(why.omitted, "agent")),
        );
    }
    for agent in why.compared.iter().filter(|agent| agent.matches && !agent.roles.is_empty()) {
        table.add("roles", format!("{}: {}", agent.agent, agent.roles.join(", ")));
    }
    table.print()?;
    if why.compared.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    print_line("")?;
    let row = |agent: &str, one: &ConditionComparison| {
        let mut row = vec![agent.to_owned(), one.condition.clone(), outcome(one.outcome).to_owned()];
        row.extend(shows_expected.then(|| one.expected.clone().unwrap_or_default()));
        row.push(one.seen.clone());
        row
    };
    let rows: Vec<Vec<String>> = why
        .compared
        .iter()
        .flat_map(|agent| agent.conditions.iter().map(move |one| row(&agent.agent, one)))
        .collect();
    match shows_expected {
        true => print_columns(&["AGENT", "CONDITION", "HOLDS", "REQUIRED", "FOUND"], &rows)?,
        false => print_columns(&["AGENT", "CONDITION", "HOLDS", "FOUND"], &rows)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn outcome(outcome: ConditionOutcome) -> &'static str {
    match outcome {
        ConditionOutcome::Holds => "yes",
        ConditionOutcome::Fails => "no",
        ConditionOutcome::Unknown => "unknown",
        ConditionOutcome::NotCompared => "-",
    }
}

//! `hostbadge agent list`, and the list of agents for other commands, page by page.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::note;
use super::table::print_columns;
use crate::plural::counted;
use crate::wire::admin::Agent;
use crate::wire::lifecycle::{AgentActivity, AgentState, UnitPresence};

/// Agents of one page. The daemon sends fewer where they are large.
const PAGE_AGENTS: usize = 500;
/// Pages that are asked for: many times those of the 10,000 agents that a host may have.
const MAX_PAGES: usize = 10_000;
/// For a time or number that is not known.
const UNKNOWN: &str = "-";

/// An agent, and the daemon's JSON of it.
pub(super) struct ListedAgent {
    pub(super) agent: Agent,
    raw: Box<RawValue>,
}

/// Asks for all agents, page by page: all of 10,000 agents may be larger than a response that is accepted.
pub(super) async fn list_agents(common: &CommonArgs) -> Result<Vec<ListedAgent>, CliError> {
    let mut listed: Vec<ListedAgent> = Vec::new();
    let mut path = format!("/v1/agents?limit={PAGE_AGENTS}");
    for _ in 0..MAX_PAGES {
        let page = client::get::<Vec<Box<RawValue>>>(&common.admin_socket, &path).await?.body;
        let before = listed.len();
        for raw in page {
            let agent = Agent::deserialize(&*raw)
                .map_err(|e| CliError::Local(format!("cannot parse an agent: {e}")))?;
            // A daemon of an earlier release sends all agents again.
            if listed.last().is_none_or(|last| last.agent.name < agent.name) {
                listed.push(ListedAgent { agent, raw });
            }
        }
        match listed.last() {
            Some(last) if listed.len() > before => {
                path = format!("/v1/agents?limit={PAGE_AGENTS}&after={}", last.agent.name);
            }
            _ => break,
        }
    }
    Ok(listed)
}

pub(super) async fn run(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let listed = list_agents(common).await?;
    if common.json {
        let raw: Vec<Box<RawValue>> = listed.into_iter().map(|one| one.raw).collect();
        return print_json(&raw);
    }
    let headers = ["NAME", "OWNER", "UNIT", "LAST SEEN", "LIVE TOKENS", "GRANTS USED", "STATE"];
    let rows: Vec<Vec<String>> = listed.iter().map(|one| row(&one.agent)).collect();
    print_columns(&headers, &rows)?;
    if listed.iter().any(|one| one.agent.activity.is_none()) {
        note("the daemon is of a release that does not say what agents did");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(agent: &Agent) -> Vec<String> {
    let owner = agent.owner.clone().unwrap_or_else(|| UNKNOWN.into());
    let mut row = vec![agent.name.clone(), owner];
    match &agent.activity {
        None => row.extend(std::iter::repeat_n(UNKNOWN.to_owned(), 5)),
        Some(activity) => row.extend([
            activity.unit.map_or(UNKNOWN, unit_word).to_owned(),
            activity.last_seen.map_or_else(|| "never".to_owned(), |at| at.to_rfc3339_seconds()),
            activity.live_tokens.to_string(),
            format!("{}/{}", activity.grants_used, activity.grants),
            state_word(activity.state).to_owned(),
        ]),
    }
    row
}

/// What an agent did and has, in lines for `agent show`.
pub(super) fn format_activity(activity: &AgentActivity) -> Vec<String> {
    let seen = match activity.last_seen {
        Some(at) => format!("seen last {}", at.to_rfc3339_seconds()),
        None => "not in the audit log".to_owned(),
    };
    let mut lines = vec![format!(
        "{}, {seen}, {}, {} of {} used",
        state_word(activity.state),
        counted(activity.live_tokens, "live token"),
        activity.grants_used,
        counted(activity.grants, "grant")
    )];
    if activity.unit == Some(UnitPresence::Absent) {
        lines.push("this host has no file of its unit".to_owned());
    }
    lines
}

fn unit_word(presence: UnitPresence) -> &'static str {
    match presence {
        UnitPresence::There => "there",
        UnitPresence::Absent => "absent",
    }
}

fn state_word(state: AgentState) -> &'static str {
    match state {
        AgentState::Active => "active",
        AgentState::Pending => "pending",
        AgentState::Drained => "drained",
        AgentState::Revoked => "revoked",
    }
}

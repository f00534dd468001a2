//! `hostbadge anomaly list|show|resume`.

use std::process::ExitCode;

use clap::Subcommand;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::{note, print_line};
use super::table::{KeyValueTable, print_columns};
use crate::agents::AgentName;
use crate::wire::anomaly::{
    AgentAnomalies, AgentProfile, AnomaliesResponse, AnomalyAlert, ResumeRequest, ResumeResponse,
    SuspendedAgent,
};

const PATH: &str = "/v1/anomalies";
const DAY: u64 = 24 * 3600;
/// Alerts that "hostbadge agent show" has.
const MAX_SHOWN_ALERTS: usize = 3;

#[derive(Subcommand, Debug)]
pub(super) enum AnomalySubcommand {
    /// List the latest alerts about agents, the latest first, and the agents that a rule has suspended
    List {
        /// Only alerts about this agent
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
    },
    /// Show what is known of an agent: its usual hours and numbers, what each rule does, and alerts about it
    Show {
        /// Name of the agent
        name: String,
    },
    /// End the suspension of an agent by a rule (root only). What was issued before stays revoked
    Resume {
        /// Name of the agent
        name: String,
    },
}

pub(super) async fn run(common: &CommonArgs, subcommand: &AnomalySubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        AnomalySubcommand::List { agent } => list(common, agent.as_deref()).await,
        AnomalySubcommand::Show { name } => show(common, name).await,
        AnomalySubcommand::Resume { name } => resume(common, name).await,
    }
}

async fn list(common: &CommonArgs, agent: Option<&str>) -> Result<ExitCode, CliError> {
    let reply = client::get::<AnomaliesResponse>(&common.admin_socket, PATH).await?;
    let AnomaliesResponse { alerts, suspended, dropped, .. } = reply.body;
    let is_asked_for = |name: &str| agent.is_none_or(|agent| agent == name);
    let alerts: Vec<AnomalyAlert> = alerts.into_iter().filter(|alert| is_asked_for(&alert.agent)).collect();
    if common.json {
        return match agent {
            Some(_) => print_json(&alerts),
            None => print_json(&reply.raw),
        };
    }
    let rows: Vec<Vec<String>> = alerts.iter().map(row).collect();
    print_columns(&["TIME", "AGENT", "RULE", "ACTION", "FOUND"], &rows)?;
    for one in suspended.iter().filter(|one| is_asked_for(&one.agent)) {
        note(format_args!("hostbadge: agent {}: {}", one.agent, suspended_line(one)));
    }
    if dropped > 0 {
        note(format_args!("hostbadge: {dropped} further alerts came at once and were not recorded"));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(alert: &AnomalyAlert) -> Vec<String> {
    let action = if alert.suspended { "suspended" } else { "alert" };
    vec![
        alert.time.to_rfc3339_seconds(),
        alert.agent.clone(),
        alert.rule.clone(),
        action.to_owned(),
        found(alert),
    ]
}

fn found(alert: &AnomalyAlert) -> String {
    match alert.repeats {
        0 => alert.detail.clone(),
        n => format!("{} (and {n} times more before)", alert.detail),
    }
}

fn alert_line(alert: &AnomalyAlert) -> String {
    format!("{} {}: {}", alert.time.to_rfc3339_seconds(), alert.rule, found(alert))
}

fn suspended_line(one: &SuspendedAgent) -> String {
    format!(
        "suspended by the rule {} since {}; hostbadge anomaly resume {} ends it",
        one.rule,
        one.since.to_rfc3339_seconds(),
        one.agent
    )
}

async fn show(common: &CommonArgs, name: &str) -> Result<ExitCode, CliError> {
    // Checked first, because the name becomes a part of the path.
    let name = AgentName::parse(name).map_err(CliError::local)?;
    let reply = client::get::<AgentAnomalies>(&common.admin_socket, &format!("{PATH}/{name}")).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let of = reply.body;
    let mut table = KeyValueTable::default();
    table.add("agent", &of.agent);
    table.add_some("suspended", of.suspended.as_ref().map(suspended_line));
    match &of.profile {
        Some(profile) => profile_lines(profile).into_iter().for_each(|(key, line)| table.add(key, line)),
        None => table.add("learning", "it was not seen yet"),
    }
    table.add_some("stated hours", of.stated_hours.as_ref());
    for rule in &of.rules {
        table.add("rule", format!("{}: {}", rule.name, rule.action));
    }
    for alert in &of.alerts {
        table.add("alert", alert_line(alert));
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

/// The suspension of an agent and its latest alerts, for "hostbadge agent show".
pub(super) fn anomaly_lines(of: &AgentAnomalies) -> Vec<String> {
    let suspended = of.suspended.iter().map(suspended_line);
    suspended.chain(of.alerts.iter().take(MAX_SHOWN_ALERTS).map(alert_line)).collect()
}

fn profile_lines(profile: &AgentProfile) -> Vec<(&'static str, String)> {
    let learning = match profile.learning_left {
        Some(left) if left >= DAY => format!("{} days are left", left.div_ceil(DAY)),
        Some(left) => format!("{} hours are left", left.div_ceil(3600)),
        None => "finished".to_owned(),
    };
    let (mean, most) = (profile.hourly_mean, profile.hourly_threshold);
    let hours = |hours: &[usize]| match hours {
        [] => "none".to_owned(),
        hours => hours.iter().map(|hour| format!("{hour:02}")).collect::<Vec<_>>().join(" "),
    };
    let mut lines = vec![
        ("last seen", profile.last_seen.to_string()),
        ("learning", learning),
        ("in an hour", format!("{mean:.1} on average where there is any; more than {most} are unusual")),
        ("refusals", format!("more than {} in five minutes are unusual", profile.refusals_threshold)),
        ("hours Mon-Fri", hours(&profile.working_hours)),
        ("hours Sat, Sun", hours(&profile.weekend_hours)),
        ("known", format!("{} audiences and credentials", profile.known_names)),
    ];
    if let Some(share) = profile.longest_share {
        lines.push(("lifetimes", format!("{:.0} % have the longest", share * 100.0)));
    }
    lines
}

async fn resume(common: &CommonArgs, name: &str) -> Result<ExitCode, CliError> {
    let request = ResumeRequest { agent: name.to_owned() };
    let path = format!("{PATH}/resume");
    let reply = client::post::<ResumeResponse>(&common.admin_socket, &path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let ResumeResponse { agent, rule } = reply.body;
    print_line(format_args!(
        "resumed {agent}, which the rule {rule} had suspended; what was issued before stays revoked"
    ))?;
    Ok(ExitCode::SUCCESS)
}

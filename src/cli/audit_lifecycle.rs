//! `hostbadge audit lifecycle`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::{note, print_line};
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::wire::lifecycle::{LifecycleFinding, LifecycleResponse};

/// The kinds of findings, for the long help.
pub(super) const KINDS: &str = "Findings:
  unknown-unit       the agent's unit has no file on this host
  unregistered-unit  processes of a unit asked, and no agent names the unit
  unused-agent       the agent never asked for anything, and is known for a day; see --unseen-for
  no-owner           nobody answers for the agent
  drained            the agent gets nothing new
  revoked            the agent is revoked
  expired-grant      a grant or the permission for a credential has expired

Examples:
  hostbadge audit lifecycle
  hostbadge audit lifecycle --unseen-for 90d
  hostbadge audit lifecycle --json | jq -r '.findings[] | select(.kind == \"unused-agent\").agent'";

#[derive(Args, Debug)]
pub(super) struct LifecycleArgs {
    /// Also name agents that were seen, but not for AGE, such as 90d; an agent that was never seen then counts once it
    /// is known for AGE
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    unseen_for: Option<Duration>,
}

/// Prints the findings. Exit status 0 if there is none, and 1 otherwise.
pub(super) async fn run(common: &CommonArgs, arguments: &LifecycleArgs) -> Result<ExitCode, CliError> {
    let path = match arguments.unseen_for {
        Some(age) => format!("/v1/lifecycle?unseen_for={}", age.as_secs()),
        None => "/v1/lifecycle".to_owned(),
    };
    let reply = client::get::<LifecycleResponse>(&common.admin_socket, &path).await?;
    let code = if reply.body.count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if common.json {
        return print_json(&reply.raw).map(|_| code);
    }
    let response = reply.body;
    for finding in &response.findings {
        print_line(escape_unprintable(&format_finding(finding)))?;
    }
    print_line(format_args!("{}, {}", counted(response.agents, "agent"), summary(&response)))?;
    note_limits(&response);
    Ok(code)
}

fn format_finding(finding: &LifecycleFinding) -> String {
    let of = match (&finding.agent, &finding.role, &finding.unit) {
        (Some(agent), ..) => format!("agent {agent}"),
        (None, Some(role), _) => format!("role {role}"),
        (None, None, unit) => format!("unit {}", unit.as_deref().unwrap_or_default()),
    };
    let since = finding.since.map(|at| format!(" ({})", at.to_rfc3339_seconds())).unwrap_or_default();
    format!("{of}{since}: {} [{}]", finding.what, finding.kind.name())
}

/// The number of findings, and of each kind.
fn summary(response: &LifecycleResponse) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in &response.findings {
        *counts.entry(finding.kind.name()).or_default() += 1;
    }
    let total = counted(response.count, "finding");
    if counts.is_empty() {
        return total;
    }
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!("{total}: {}", counts.join(", "))
}

/// Says what is not known, or not printed.
fn note_limits(response: &LifecycleResponse) {
    match response.known_since {
        Some(since) => {
            note(format_args!("hostbadge: the audit log is known since {}", since.to_rfc3339_seconds()));
        }
        None => {
            note("hostbadge: the daemon is reading the audit log: which agents are unused is not known yet")
        }
    }
    if response.left_out > 0 {
        note(format_args!(
            "hostbadge: left out {}, not seen and not known for long enough",
            counted(response.left_out, "agent")
        ));
    }
    if let Some(more) = response.count.checked_sub(response.findings.len()).filter(|more| *more > 0) {
        note(format_args!("hostbadge: {} left out", counted(more, "more finding")));
    }
}

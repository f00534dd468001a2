//! `hostbadge agent lint`: what is valid in the agents' files and weaker than it can be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::format::format_fault;
use super::output::{note, print_line};
use super::progress::Progress;
use crate::agents::{AgentSet, AgentSource, Lint, StatusListDefault};
use crate::audit::usage_lints;
use crate::clock::Clock;
use crate::config::{Config, Diagnostic, escape_unprintable};
use crate::plural::counted;
use crate::wire::error::Fault;
use crate::wire::status::StatusResponse;

#[derive(Args, Debug)]
pub(super) struct LintArgs {
    /// Directory of the agents' files [default: the directory of the configuration]
    dir: Option<PathBuf>,
    /// Also compare grants with what was issued, by the audit log: as far back as AGE, such as 90d, or 30d
    /// without it. What was not used for less than a day is not named
    #[arg(
        long,
        value_name = "AGE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30d",
        value_parser = humantime::parse_duration
    )]
    usage: Option<Duration>,
    /// Directory of the audit log [default: the directory of the configuration]
    #[arg(long, value_name = "DIR", requires = "usage")]
    audit: Option<PathBuf>,
    /// Leave out the findings of this lint; may be repeated
    #[arg(long, value_name = "LINT", value_parser = lint_names(), hide_possible_values = true)]
    allow: Vec<String>,
}

fn lint_names() -> PossibleValuesParser {
    PossibleValuesParser::new(Lint::ALL.iter().map(|lint| lint.name()))
}

/// Prints the findings. Exit status 0 if there is none, and 1 otherwise.
pub(super) async fn run(common: &CommonArgs, arguments: &LintArgs) -> Result<ExitCode, CliError> {
    let config = match arguments {
        // Only the length of the trust domain matters then.
        LintArgs { dir: Some(_), usage: None, .. } | LintArgs { dir: Some(_), audit: Some(_), .. } => {
            Config::load(None).unwrap_or_default()
        }
        _ => Config::load(None).map_err(|faults| CliError::invalid_files(&faults))?,
    };
    let (dir, agents) = read_agents(arguments.dir.as_ref(), &config)?;
    let mut found = agents.lints_on_host().map_err(CliError::local)?;
    if let Some(age) = arguments.usage {
        let audit_dir = arguments.audit.as_ref().unwrap_or(&config.paths.audit);
        found.extend(usage(audit_dir, &agents, age)?);
    }
    found.extend(host_lints(common, &dir, &agents, arguments.dir.is_none().then_some(&config)).await);
    found.retain(|one| {
        let lint = Lint::of(one).map(|(lint, _)| lint.name());
        !lint.is_some_and(|name| arguments.allow.iter().any(|allowed| allowed == name))
    });
    if common.json {
        print_json(
            &json!({ "agents": agents.len(), "findings": found.iter().map(to_json).collect::<Vec<_>>() }),
        )?;
    } else {
        for finding in &found {
            print_line(escape_unprintable(&format_fault(&Fault::from(finding))))?;
        }
        let dir = escape_unprintable(&dir.to_string_lossy()).into_owned();
        print_line(format_args!("{dir}: {}, {}", counted(agents.len(), "agent"), summary(&found)))?;
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the agents and roles of a directory, or those of the configuration, and returns the directory too.
/// Without a file of configuration, this may be a development host.
pub(super) fn read_agents(dir: Option<&PathBuf>, config: &Config) -> Result<(PathBuf, AgentSet), CliError> {
    let source = match dir {
        Some(dir) => AgentSource::beside(dir, config.trust_domain_length()),
        None => AgentSource::from(config),
    };
    let agents = AgentSet::read_from(&source).map_err(|faults| {
        if dir.is_none() && !source.agents.exists() {
            note(
                "hostbadge: the agents of a development host are in another directory, which hostbadged --dev \
                 prints; name it",
            );
        }
        CliError::invalid_files(&faults)
    })?;
    Ok((source.agents, agents))
}

fn usage(audit_dir: &Path, agents: &AgentSet, age: Duration) -> Result<Vec<Diagnostic>, CliError> {
    let now = Clock::System.now();
    let mut progress = Progress::start();
    let report = usage_lints(audit_dir, agents, now.before(age), now, &mut |records, back_to| {
        progress.tick_records(records, back_to);
    });
    progress.end();
    let report = report.map_err(|e| CliError::Local(format!("the audit log: {e}")))?;
    if report.left_out > 0 {
        note(format_args!(
            "hostbadge: usage: left out {}, whose files were changed, or whose audit log begins, less than a day ago",
            counted(report.left_out, "agent")
        ));
    }
    Ok(report.lints)
}

/// What concerns this host: by what the daemon says, if it runs and this user may ask it, otherwise by the
/// configuration, if the agents are those of it.
async fn host_lints(
    common: &CommonArgs,
    dir: &Path,
    agents: &AgentSet,
    config: Option<&Config>,
) -> Vec<Diagnostic> {
    let status = client::get::<StatusResponse>(&common.admin_socket, "/v1/status").await.ok();
    let status = status.map(|reply| reply.body);
    let default = match (&status, config) {
        (Some(StatusResponse { status_lists, .. }), _) => {
            let ttl = Duration::from_secs(status_lists.ttl);
            Some(StatusListDefault { is_on: status_lists.by_default, ttl })
        }
        (None, Some(Config { tokens, .. })) => {
            Some(StatusListDefault { is_on: tokens.status_list, ttl: tokens.status_list_ttl })
        }
        (None, None) => None,
    };
    let mut found = default.map(|default| agents.status_list_lints(dir, default)).unwrap_or_default();
    let seal = status.and_then(|status| status.seal);
    if seal.is_some_and(|seal| seal.recovery.is_none()) {
        let message = Lint::NoRecoveryKey.about(
            "this host has no recovery key, so its keys are lost with its TPM; make one, and store it elsewhere: \
             hostbadge key recovery",
        );
        found.push(Diagnostic { file: dir.to_owned(), line: None, message });
    }
    found
}

fn to_json(finding: &Diagnostic) -> Value {
    let (lint, text) =
        Lint::of(finding).map_or((None, finding.message.as_str()), |(lint, text)| (Some(lint), text));
    json!({ "lint": lint.map(Lint::name), "file": finding.file, "line": finding.line, "what": text })
}

/// The number of findings, and of each lint.
fn summary(found: &[Diagnostic]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (lint, _) in found.iter().filter_map(Lint::of) {
        *counts.entry(lint.name()).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    match counts.is_empty() {
        true => counted(found.len(), "finding"),
        false => format!("{}: {}", counted(found.len(), "finding"), counts.join(", ")),
    }
}

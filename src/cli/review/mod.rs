//! `hostbadge review`: what agents may do against what they did, the narrowed files, and the signature of a reviewer.

mod apply;
mod sign;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::agent_lint::read_agents;
use super::common::CommonArgs;
use super::error::CliError;
use super::files::write_file;
use super::output::{note, print_bytes, print_line};
use crate::agents::{AgentName, AgentSource};
use crate::clock::Clock;
use crate::config::Config;
use crate::review::{self, Review, narrowed_files, to_json};

/// The name that this host gave itself.
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";
/// The permissions of the page, which names agents and what they may do.
const PAGE_MODE: u32 = 0o600;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ReviewArgs {
    /// Compare with the audit log of this time, such as 90d
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = humantime::parse_duration)]
    since: Duration,
    /// Review this agent only
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Print the narrowed files as a unified diff instead of the table
    #[arg(long)]
    diff: bool,
    /// Replace the agents' files by the narrowed ones, and keep the earlier ones beside them. Nothing is in effect
    /// until "hostbadge agent reload" or a restart of the daemon
    #[arg(long)]
    apply: bool,
    /// Also write a page for browsers, which needs nothing else and has no script
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Directory of the agents' files, with roles.d beside it [default: those of the configuration]
    #[arg(long, value_name = "DIR")]
    agents: Option<PathBuf>,
    /// Directory of the audit log [default: the directory of the configuration]
    #[arg(long, value_name = "DIR")]
    audit: Option<PathBuf>,

    #[command(subcommand)]
    subcommand: Option<ReviewSubcommand>,
}

#[derive(Subcommand, Debug)]
enum ReviewSubcommand {
    /// Record in the audit log that someone has examined a review (administrators)
    ///
    /// The record has the SHA-256 digest of the review's JSON, its period and its figures, the reviewer as named
    /// here, and the user and the login of this process as the kernel knows them. A file that was changed is refused.
    Sign(sign::SignArgs),
}

pub(super) async fn run(common: &CommonArgs, arguments: &ReviewArgs) -> Result<ExitCode, CliError> {
    if let Some(ReviewSubcommand::Sign(arguments)) = &arguments.subcommand {
        return sign::run(common, arguments).await;
    }
    let config = match arguments {
        // Only the length of the trust domain matters then.
        ReviewArgs { agents: Some(_), audit: Some(_), .. } => Config::load(None).unwrap_or_default(),
        _ => Config::load(None).map_err(|faults| CliError::invalid_files(&faults))?,
    };
    let source = match &arguments.agents {
        Some(dir) => AgentSource::beside(dir, config.trust_domain_length()),
        None => AgentSource::from(&config),
    };
    let (_, agents) = read_agents(arguments.agents.as_ref(), &config)?;
    let only = arguments.agent.as_deref();
    if let Some(name) = only {
        AgentName::parse(name).map_err(CliError::local)?;
        if agents.get(name).is_none() {
            return Err(CliError::Local(format!(
                "no agent is named {name}; \"hostbadge agent list\" has the names"
            )));
        }
    }
    let audit = arguments.audit.as_ref().unwrap_or(&config.paths.audit);
    let now = Clock::System.now();
    let mut review =
        review::read(audit, &agents, &source.roles, only, host_name(), now.before(arguments.since), now)
            .map_err(|e| CliError::Local(format!("the audit log or the agents' files: {e}")))?;
    let files = narrowed_files(&mut review, &agents, source.rules);
    let json = to_json(&review).map_err(CliError::local)?;
    if let Some(file) = &arguments.html {
        write_page(file, &review, &json)?;
    }
    let applied = match arguments.apply {
        true => apply::apply(&files, now)?,
        false => Vec::new(),
    };
    if common.json {
        print_line(&json)?;
        applied.iter().for_each(note);
        return Ok(ExitCode::SUCCESS);
    }
    match arguments.diff {
        true => {
            let diffs: String = review.agents.iter().filter_map(|agent| agent.diff.as_deref()).collect();
            print_bytes(diffs.as_bytes())?;
            text::notes(&review).iter().for_each(note);
            text::shorter_times(&review).iter().for_each(note);
        }
        false => print_bytes(text::report(&review).as_bytes())?,
    }
    applied.iter().for_each(note);
    Ok(ExitCode::SUCCESS)
}

fn write_page(file: &Path, review: &Review, json: &str) -> Result<(), CliError> {
    write_file(file, review::page(review, json).as_bytes(), PAGE_MODE)
}

fn host_name() -> String {
    fs::read_to_string(HOSTNAME_FILE).map(|name| name.trim().to_owned()).unwrap_or_default()
}

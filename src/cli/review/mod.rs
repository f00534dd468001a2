//! `hostbadge review`: what agents may do against what they did, the narrowed files, and the signature of a reviewer.

mod apply;
mod host;
mod sign;
mod text;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use apply::Applied;
use host::host_name;

use super::agent_lint::read_agents;
use super::common::CommonArgs;
use super::error::CliError;
use super::files::write_file;
use super::output::{note, print_bytes, print_line};
use super::progress::Progress;
use crate::agents::{AgentName, AgentSource, EvaluatedAttributes};
use crate::clock::Clock;
use crate::config::{Config, escape_unprintable};
use crate::policy::cedar::PolicySet;
use crate::review::{self, NarrowedFile, Review, ReviewRequest, narrowed_files, to_json};

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
    /// Call rights unused also of agents whose use is known for a shorter time than --since, and although the log lacks
    /// records. Without it, what they may have used is not known, and stays
    #[arg(long)]
    incomplete: bool,
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
    /// here, and the user and the login of this process as the kernel knows them. A file whose figures do not add up,
    /// a review of another host and one that ends in the future are refused.
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
    let evaluates = evaluated_attributes(&policies_dir(arguments, &config));
    let now = Clock::System.now();
    let mut progress = Progress::start();
    let request = ReviewRequest {
        audit,
        agents: &agents,
        roles: &source.roles,
        only,
        host: host_name(),
        since: now.before(arguments.since),
        now,
        accepts_incomplete: arguments.incomplete,
        evaluates,
    };
    let review = review::read(request, &mut |records, back_to| progress.tick_records(records, back_to));
    progress.end();
    let mut review =
        review.map_err(|e| CliError::Local(format!("the audit log or the agents' files: {e}")))?;
    let files = narrowed_files(&mut review, &agents, source.rules, evaluates);
    write_page(arguments, &review)?;
    if !common.json {
        print_text(arguments.diff, &review)?;
    }
    let failed = match arguments.apply {
        true => apply_files(arguments, &files, &mut review, source.approvals.is_some()),
        false => None,
    };
    if common.json {
        print_line(to_json(&review).map_err(CliError::local)?)?;
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn print_text(diff: bool, review: &Review) -> Result<(), CliError> {
    if !diff {
        return print_bytes(text::report(review).as_bytes());
    }
    print_bytes(text::diffs(review, io::stdout().is_terminal()).as_bytes())?;
    review::notes(review).iter().for_each(note);
    text::shorter_times(review).iter().for_each(note);
    Ok(())
}

/// Replaces the files, says what was done, and notes it in the review. Returns what failed.
fn apply_files(
    arguments: &ReviewArgs,
    files: &[NarrowedFile],
    review: &mut Review,
    needs_two: bool,
) -> Option<CliError> {
    let Applied { done, failed } = apply::apply(files, review.period.until);
    apply::sentences(&done, needs_two).iter().for_each(note);
    review.applied = Some(done);
    // It has the same JSON as the output.
    let written = write_page(arguments, review);
    failed.or(written.err())
}

/// The policies of the configuration, or those beside the agents that are named.
fn policies_dir(arguments: &ReviewArgs, config: &Config) -> PathBuf {
    match &arguments.agents {
        Some(dir) => dir.with_file_name("policies"),
        None => config.paths.policies.clone(),
    }
}

/// What the policies in `dir` evaluate: everything where they cannot be read.
fn evaluated_attributes(dir: &Path) -> EvaluatedAttributes {
    match PolicySet::read(dir) {
        Ok(set) => set.map(|set| set.evaluated_attributes()).unwrap_or_default(),
        Err(faults) => {
            let fault = faults.first().map(ToString::to_string).unwrap_or_default();
            note(format_args!(
                "the policies cannot be read, so that nothing is narrowed that one could evaluate: {}",
                escape_unprintable(&fault)
            ));
            EvaluatedAttributes::ALL
        }
    }
}

fn write_page(arguments: &ReviewArgs, review: &Review) -> Result<(), CliError> {
    let Some(file) = &arguments.html else { return Ok(()) };
    let json = to_json(review).map_err(CliError::local)?;
    write_file(file, review::page(review, &json).as_bytes(), PAGE_MODE)
}

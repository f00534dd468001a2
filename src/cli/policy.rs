//! `hostbadge policy check|show|why|schema`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::format::format_fault;
use super::output::{note, print_bytes, print_line};
use super::policy_why;
use super::table::{KeyValueTable, print_columns};
use crate::agents::{AgentName, AgentSet};
use crate::config::{Config, escape_unprintable};
use crate::policy::cedar::{self, PolicySet, SCHEMA_TEXT};
use crate::wire::error::Fault;
use crate::wire::policy::PoliciesResponse;

#[derive(Subcommand, Debug)]
pub(super) enum PolicySubcommand {
    /// Check a directory of policies and print its faults and warnings, without the daemon
    Check {
        /// Directory of the policies [default: the directory of the configuration]
        dir: Option<PathBuf>,
    },
    /// List the policies in force
    Show {
        /// Only those that concern this agent
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
    },
    /// Show how a request would be decided: each layer, its rule, and what would have to change
    ///
    /// Nothing is issued or recorded. What is not given is as the agent's file says, or as it is now. The agent
    /// may be left out with --record.
    Why(Box<policy_why::WhyArgs>),
    /// Print the schema of policies: names and types of what they decide by
    Schema,
}

pub(super) async fn run(common: &CommonArgs, subcommand: &PolicySubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        PolicySubcommand::Check { dir } => check(common, dir.as_ref()),
        PolicySubcommand::Show { agent } => show(common, agent.as_deref()).await,
        PolicySubcommand::Why(arguments) => policy_why::run(common, arguments).await,
        PolicySubcommand::Schema => {
            print_bytes(SCHEMA_TEXT.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(common: &CommonArgs, dir: Option<&PathBuf>) -> Result<ExitCode, CliError> {
    let config = match dir {
        // Only the agents' directory matters here; hostbadged --check reports faults of the configuration.
        Some(_) => Config::load(None).unwrap_or_default(),
        None => Config::load(None).map_err(|faults| CliError::invalid_files(&faults))?,
    };
    let dir = dir.unwrap_or(&config.paths.policies);
    let policies = PolicySet::read(dir).map_err(|faults| CliError::invalid_files(&faults))?;
    // Faults of agents are those of "agent check"; without agents, no name is known.
    let agents = AgentSet::read(&config.paths.agents, config.trust_domain_length());
    let warnings = match (&policies, &agents) {
        (Some(policies), Ok(agents)) => cedar::warnings(policies, agents),
        (Some(policies), Err(_)) => policies.warnings().to_vec(),
        (None, _) => Vec::new(),
    };
    let count = policies.as_ref().map_or(0, |policies| policies.policies().len());
    if common.json {
        let sha256 = policies.as_ref().map(|policies| data_encoding::HEXLOWER.encode(policies.sha256()));
        let json = json!({ "policies": count, "sha256": sha256, "faults": [], "warnings": warnings });
        return print_json(&json);
    }
    for warning in &warnings {
        let fault = Fault::from(warning);
        let message = format!("warning: {}", fault.message);
        note(escape_unprintable(&format_fault(&Fault { message, ..fault })));
    }
    let dir = escape_unprintable(&dir.to_string_lossy()).into_owned();
    print_line(format_args!("{dir}: {}, no faults", cedar::counted_policies(count)))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(common: &CommonArgs, agent: Option<&str>) -> Result<ExitCode, CliError> {
    let query = match agent {
        None => String::new(),
        // Checked first, because the name becomes a part of the query.
        Some(name) => format!("?agent={}", AgentName::parse_any(name).map_err(CliError::local)?),
    };
    let path = format!("/v1/policies{query}");
    let reply = client::get::<PoliciesResponse>(&common.admin_socket, &path).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let policies = reply.body;
    let mut table = KeyValueTable::default();
    match &policies.set {
        Some(set) => {
            table.add("version", set.version.to_string());
            table.add("SHA-256", &set.sha256);
            table.add("times in", &policies.timezone);
        }
        None => table.add("policies", "none"),
    }
    table.add("permit", if policies.require_permit { "required" } else { "implied by the grant" });
    if policies.omitted > 0 {
        table.add("omitted", format!("{} more", cedar::counted_policies(policies.omitted)));
    }
    table.print()?;
    if policies.policies.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    print_line("")?;
    let rows: Vec<Vec<String>> = policies
        .policies
        .into_iter()
        .map(|policy| vec![policy.id, policy.name.unwrap_or_else(|| "-".into()), policy.effect, policy.scope])
        .collect();
    print_columns(&["POLICY", "ID", "EFFECT", "CONCERNS"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

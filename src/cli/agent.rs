//! `hostbadge agent list|show|why|new|check|lint|reload|approve|offboard`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::agent_lint;
use super::agent_list::{self, format_activity, list_agents};
use super::agent_new;
use super::anomaly::anomaly_lines;
use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::format::{format_fault, roles_suffix};
use super::offboard::{self, OffboardArgs};
use super::output::{note, print_line};
use super::table::KeyValueTable;
use super::why;
use crate::agents::{AgentName, host_warnings, script_warnings};
use crate::clock::Timestamp;
use crate::config::{Config, escape_unprintable};
use crate::plural::counted;
use crate::wire::admin::{
    Agent, AgentGrant, AgentSelectors, EmptyDirectory, IdOrName, ReloadCounts, ReloadRequest, ReloadResponse,
    ReloadedPolicies,
};
use crate::wire::anomaly::AgentAnomalies;
use crate::wire::change::{ApproveRequest, PendingChange};
use crate::wire::credentials::CredentialUse;
use crate::wire::error::Fault;

/// Warnings that a reload prints; `hostbadge agent check` prints all.
const MAX_PRINTED_WARNINGS: usize = 20;

#[derive(Subcommand, Debug)]
pub(super) enum AgentSubcommand {
    /// List the active agents with what each did and has
    List,
    /// Show one agent with its conditions and grants
    Show {
        /// Name of the agent
        name: String,
    },
    /// Show which conditions of which agents a process meets, and which it does not
    Why {
        /// Id of the process
        #[arg(value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
        /// Compare with this agent only
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
    },
    /// Write the file of a new agent, with comments; nothing is loaded
    New(Box<agent_new::NewArgs>),
    /// Check a directory of agents and print its faults and warnings, without the daemon
    Check {
        /// Directory of the agents' files, with roles.d beside it [default: those of the configuration]
        dir: Option<PathBuf>,
    },
    /// Name what is valid in the agents' files and weaker than it can be, with what to do; exit status 1 if
    /// there is something
    Lint(agent_lint::LintArgs),
    /// Make the daemon read its agents and policies again: all become active, or none if a file has a fault
    Reload(ReloadArgs),
    /// Activate a change that another administrator asked for, where the configuration demands two of them
    Approve {
        /// Digest of the change, as hostbadge status shows it
        digest: String,
    },
    /// End an agent for good (root only): revoke all of it, destroy its own credentials with their key, so that not
    /// even this host's TPM opens a copy of them, and print a receipt
    ///
    /// The receipt is signed by the host key in the TPM; `hostbadge verify receipt` checks it on any machine. Shared
    /// credentials stay. After a failure, repeat the command: it completes what is left.
    Offboard(OffboardArgs),
}

#[derive(Args, Debug)]
pub(super) struct ReloadArgs {
    /// Accept that a directory has no files any more: agents.d (agents), roles.d (roles), policies or
    /// federation. Without this option, an empty directory is a fault while agents, roles, policies or bundles
    /// are active, which stay so: its file system may not be mounted
    #[arg(
        long,
        value_name = "DIRECTORY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "agents"
    )]
    allow_empty: Vec<Directory>,
}

/// A directory that may be empty.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Directory {
    /// Remove all agents
    Agents,
    /// Remove all roles
    Roles,
    /// End all policies
    Policies,
    /// Remove the bundles of all other trust domains
    Federation,
}

pub(super) async fn run(common: &CommonArgs, subcommand: &AgentSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        AgentSubcommand::List => agent_list::run(common).await,
        AgentSubcommand::Show { name } => show(common, name).await,
        AgentSubcommand::Why { pid, agent } => why::run_for_process(common, *pid, agent.as_deref()).await,
        AgentSubcommand::New(arguments) => agent_new::run(common, arguments),
        AgentSubcommand::Check { dir } => check(common, dir.as_ref()),
        AgentSubcommand::Lint(arguments) => agent_lint::run(common, arguments).await,
        AgentSubcommand::Reload(arguments) => reload(common, arguments).await,
        AgentSubcommand::Approve { digest } => approve(common, digest).await,
        AgentSubcommand::Offboard(arguments) => offboard::run(common, arguments).await,
    }
}

fn format_selectors(selectors: &AgentSelectors) -> String {
    let id_or_name = |value: &IdOrName| match value {
        IdOrName::Id(id) => id.to_string(),
        IdOrName::Name(name) => name.clone(),
    };
    let conditions = [
        ("user", selectors.user.as_ref().map(id_or_name)),
        ("group", selectors.group.as_ref().map(id_or_name)),
        ("unit", selectors.unit.clone()),
        ("user_unit", selectors.user_unit.clone()),
        ("session", selectors.session.then(|| "true".into())),
        ("container", selectors.container.clone()),
        ("exe", selectors.exe.clone()),
        ("exe_sha256", selectors.exe_sha256.clone()),
        ("measured", selectors.measured.then(|| "true".into())),
        ("files", (!selectors.files.is_empty()).then(|| selectors.files.len().to_string())),
        ("unit_sha256", selectors.unit_sha256.clone()),
    ];
    let given = conditions.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    given.collect::<Vec<_>>().join(" ")
}

async fn show(common: &CommonArgs, name: &str) -> Result<ExitCode, CliError> {
    // Checked first, because the name becomes a part of the path.
    let name = AgentName::parse(name).map_err(CliError::local)?;
    let reply = client::get::<Agent>(&common.admin_socket, &format!("/v1/agents/{name}")).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let agent = reply.body;
    let mut table = KeyValueTable::default();
    table.add("name", &agent.name);
    table.add_some("owner", agent.owner.as_ref());
    table.add_some("tenant", agent.tenant.as_ref());
    if agent.drain {
        table.add("drain", "gets nothing new; what it has stays valid until it expires");
    }
    table.add("match", format_selectors(&agent.selectors));
    if let Some(activity) = &agent.activity {
        format_activity(activity).into_iter().for_each(|line| table.add("activity", line));
    }
    // Another request, which a daemon of an earlier release does not know.
    let path = format!("/v1/anomalies/{name}");
    if let Ok(anomalies) = client::get::<AgentAnomalies>(&common.admin_socket, &path).await {
        anomaly_lines(&anomalies.body).into_iter().for_each(|line| table.add("anomalies", line));
    }
    if !agent.roles.is_empty() {
        table.add("roles", agent.roles.join(", "));
    }
    for grant in &agent.grants {
        table.add("grant", format_grant(grant));
    }
    for credential in &agent.credentials {
        let usage = match credential.usage {
            CredentialUse::Inject => "through the egress proxy",
            CredentialUse::Release => "gets the value",
            CredentialUse::Sign => "signs its requests",
        };
        let limits = format_approval(credential.approval.as_ref())
            + &format_limits(credential.expires, credential.hours.as_ref());
        let from = format_role(credential.role.as_ref());
        table.add("credential", format!("{}, {usage}{limits}{from}", credential.name));
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

fn format_grant(grant: &AgentGrant) -> String {
    let mut text = format!("{}, at most {} s", grant.audience, grant.ttl);
    if grant.assurance == "tpm" {
        text += &format!(", {} by the TPM", grant.alg);
    }
    if grant.typ != "at+jwt" {
        text += &format!(", typ {}", grant.typ);
    }
    if let Some(mode) = grant.posture {
        text += &format!(", posture {mode}");
    }
    match grant.status_list {
        Some(true) => text += ", with a status",
        Some(false) => text += ", without a status",
        None => {}
    }
    text += &format_approval(grant.approval.as_ref());
    text += &format_limits(grant.expires, grant.hours.as_ref());
    text += &format_role(grant.role.as_ref());
    format!("{text}: {}", grant.scopes.join(" "))
}

fn format_approval(approval: Option<&String>) -> String {
    match approval.map(String::as_str) {
        Some("each") => ", after an approval of each request".to_owned(),
        Some(other) => format!(", after an approval of the {other}"),
        None => String::new(),
    }
}

fn format_limits(expires: Option<Timestamp>, hours: Option<&String>) -> String {
    let expires = expires.map(|at| format!(", until {}", at.to_rfc3339_seconds())).unwrap_or_default();
    let hours = hours.map(|hours| format!(", at {hours}")).unwrap_or_default();
    expires + &hours
}

/// A change that waits for a second administrator, in some lines.
pub(super) fn pending_lines(pending: &PendingChange) -> Vec<String> {
    let requester = pending.requested_by.as_deref().unwrap_or("no administrator yet");
    let mut lines = vec![
        format!(
            "{}, {} of them wider, asked for by {requester}",
            counted(pending.count, "change"),
            pending.widening
        ),
        format!("another administrator approves it: hostbadge agent approve {}", pending.digest),
    ];
    lines.extend(pending.changes.iter().take(MAX_PRINTED_WARNINGS).cloned());
    if let Some(more) = pending.count.checked_sub(MAX_PRINTED_WARNINGS).filter(|more| *more > 0) {
        lines.push(format!("{more} more"));
    }
    lines
}

fn format_role(role: Option<&String>) -> String {
    role.map(|role| format!(", by role {role}")).unwrap_or_default()
}

fn check(common: &CommonArgs, dir: Option<&PathBuf>) -> Result<ExitCode, CliError> {
    let config = match dir {
        // Only the length of the trust domain matters here; hostbadged --check reports faults of the
        // configuration.
        Some(_) => Config::load(None).unwrap_or_default(),
        None => Config::load(None).map_err(|faults| CliError::invalid_files(&faults))?,
    };
    let (dir, agents) = agent_lint::read_agents(dir, &config)?;
    let warnings = agents.warnings_on_host().map_err(CliError::local)?;
    if common.json {
        let (agents, roles) = (agents.len(), agents.roles().len());
        let json = json!({ "agents": agents, "roles": roles, "faults": [], "warnings": warnings });
        return print_json(&json);
    }
    warnings.iter().map(Fault::from).for_each(print_warning);
    let dir = escape_unprintable(&dir.to_string_lossy()).into_owned();
    let roles = roles_suffix(agents.roles().len());
    print_line(format_args!("{dir}: {}{roles}, no faults", counted(agents.len(), "agent")))?;
    Ok(ExitCode::SUCCESS)
}

fn print_warning(warning: Fault) {
    let message = format!("warning: {}", warning.message);
    note(escape_unprintable(&format_fault(&Fault { message, ..warning })));
}

async fn reload(common: &CommonArgs, arguments: &ReloadArgs) -> Result<ExitCode, CliError> {
    let allow_empty = arguments.allow_empty.iter().map(|directory| match directory {
        Directory::Agents => EmptyDirectory::Agents,
        Directory::Roles => EmptyDirectory::Roles,
        Directory::Policies => EmptyDirectory::Policies,
        Directory::Federation => EmptyDirectory::Federation,
    });
    let request = ReloadRequest { allow_empty: allow_empty.collect() };
    let path = "/v1/agents/reload";
    let reply = client::post::<ReloadResponse>(&common.admin_socket, path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print_reload(common, reply.body).await
}

async fn approve(common: &CommonArgs, digest: &str) -> Result<ExitCode, CliError> {
    let request = ApproveRequest { digest: digest.to_owned() };
    let path = "/v1/agents/approve";
    let reply = client::post::<ReloadResponse>(&common.admin_socket, path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print_reload(common, reply.body).await
}

async fn print_reload(common: &CommonArgs, changes: ReloadResponse) -> Result<ExitCode, CliError> {
    if let Some(pending) = changes.pending {
        let mut table = KeyValueTable::default();
        pending_lines(&pending).into_iter().for_each(|line| table.add("pending", line));
        table.print()?;
        return Ok(ExitCode::SUCCESS);
    }
    let counts = changes.counts.unwrap_or(ReloadCounts {
        added: changes.added.len(),
        changed: changes.changed.len(),
        removed: changes.removed.len(),
        warnings: changes.warnings.len(),
    });
    let mut table = KeyValueTable::default();
    for (label, names, count) in [
        ("added", changes.added, counts.added),
        ("changed", changes.changed, counts.changed),
        ("removed", changes.removed, counts.removed),
    ] {
        let text = match count.saturating_sub(names.len()) {
            _ if names.is_empty() => "none".to_owned(),
            0 => names.join(", "),
            more => format!("{count}: {} and {more} more", names.join(", ")),
        };
        table.add(label, text);
    }
    if let Some(policies) = &changes.policies {
        table.add("policies", format_policies(policies));
    }
    table.print()?;
    let printed = changes.warnings.len().min(MAX_PRINTED_WARNINGS);
    changes.warnings.into_iter().take(printed).for_each(print_warning);
    if counts.warnings > printed {
        note(format_args!(
            "{}; \"hostbadge agent check\" prints them",
            counted(counts.warnings - printed, "more warning")
        ));
    }
    warn_of_host(common).await;
    Ok(ExitCode::SUCCESS)
}

/// `new: LABELS; changed: LABELS; 2 policies, 1 of them makes rights wider`.
fn format_policies(policies: &ReloadedPolicies) -> String {
    let kinds = [("new", &policies.added), ("changed", &policies.changed), ("removed", &policies.removed)];
    let listed = kinds.into_iter().filter(|(_, labels)| !labels.is_empty());
    let mut parts: Vec<String> =
        listed.map(|(kind, labels)| format!("{kind} {}", labels.join(", "))).collect();
    let named = policies.added.len() + policies.changed.len() + policies.removed.len();
    if let Some(more) = policies.count.checked_sub(named).filter(|more| *more > 0) {
        parts.push(format!("{more} more"));
    }
    if policies.widening > 0 {
        parts.push(format!("rights become wider by {} of them", policies.widening));
    }
    escape_unprintable(&parts.join("; ")).into_owned()
}

/// Warns of executables and units that this host does not have. The daemon does not see all executables; an
/// administrator does.
async fn warn_of_host(common: &CommonArgs) {
    // The reload was successful, whether or not the agents can be listed.
    let Ok(agents) = list_agents(common).await else {
        note("executables and units were not looked for; \"hostbadge agent check\" does");
        return;
    };
    let of_agent = |Agent { name, selectors, .. }: Agent| {
        let exe = selectors.exe.as_deref().map(Path::new);
        let mut warnings = host_warnings(exe, selectors.unit.as_deref());
        warnings.extend(script_warnings(selectors.files.keys().map(Path::new), exe));
        warnings.into_iter().map(move |warning| format!("agent {name}: warning: {warning}"))
    };
    let warnings: Vec<String> = agents.into_iter().flat_map(|listed| of_agent(listed.agent)).collect();
    for warning in warnings.iter().take(MAX_PRINTED_WARNINGS) {
        note(escape_unprintable(warning));
    }
    if let Some(more) = warnings.len().checked_sub(MAX_PRINTED_WARNINGS).filter(|more| *more > 0) {
        note(format_args!("{}; \"hostbadge agent check\" prints them", counted(more, "more warning")));
    }
}

//! `hostbadge credential put|list|show|rotate|rm|import|accept|get`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::{note, print_line};
use super::table::{KeyValueTable, print_columns};
use super::{client, credential_get, credential_import, prompt};
use crate::clock::{Clock, Timestamp};
use crate::plural::counted;
use crate::wire::credentials::{
    AcceptCredentialsResponse, CredentialUse, CredentialUser, PutCredentialRequest, PutCredentialResponse,
    RemoveCredentialRequest, RemoveCredentialResponse, RotateCredentialRequest, StoredCredential,
};

const PATH: &str = "/v1/credentials";

#[derive(Subcommand, Debug)]
pub(super) enum CredentialSubcommand {
    /// Store a credential, sealed to this host's TPM (root only). The value is read from standard input, or
    /// asked for at a terminal
    Put {
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        value: ValueArgs,
        /// Nobody is to use it: an agent that asks for it, with or without a [[credential]] for it, is suspended, unless
        /// [anomaly] says otherwise
        #[arg(long)]
        canary: bool,
    },
    /// List the stored credentials, without their values
    List,
    /// Show one credential with its versions and the agents that may use it, without its value
    Show(TargetArgs),
    /// Store a new version of a credential (root only). Earlier versions are destroyed, at once or after
    /// --overlap
    Rotate {
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        value: ValueArgs,
        /// How long earlier versions can still be requested by their number, like "24h"; at most 30 days
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        overlap: Option<Duration>,
    },
    /// Destroy a credential, or one version of it (root only)
    Rm {
        #[command(flatten)]
        target: TargetArgs,
        /// Destroy this version only
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Store each variable of an environment file as a credential (root only)
    Import(credential_import::ImportArgs),
    /// Accept credentials.db as it is, after an older copy of it was put back or it was moved away (root
    /// only)
    Accept,
    /// Print the value of a credential that this process may have (agents)
    Get(credential_get::GetArgs),
}

/// Which credential.
#[derive(Args, Clone, Debug)]
pub(super) struct TargetArgs {
    /// Name of the credential, such as "github-bot"
    name: String,
    /// Tenant whose agents may use it
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Agent whose own it is: no other gets it, it is in no recovery copy, and "hostbadge agent offboard" destroys
    /// it
    #[arg(long, value_name = "AGENT", conflicts_with = "tenant")]
    agent: Option<String>,
}

impl TargetArgs {
    fn is(&self, stored: &StoredCredential) -> bool {
        let has_holder = match &self.agent {
            Some(agent) => stored.agent.as_ref() == Some(agent),
            None => stored.agent.is_none() && stored.tenant == self.tenant,
        };
        stored.name == self.name && has_holder
    }
}

/// How the value is read, and how long it is valid.
#[derive(Args, Debug)]
pub(super) struct ValueArgs {
    /// When the value expires: a duration like "90d" or a time like "2027-03-31T00:00:00Z"
    #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
    expires: Option<Timestamp>,
    /// Store the value of standard input with the newline at its end, which is removed otherwise
    #[arg(long)]
    keep_newline: bool,
}

pub(super) async fn run(
    common: &CommonArgs,
    subcommand: &CredentialSubcommand,
) -> Result<ExitCode, CliError> {
    match subcommand {
        CredentialSubcommand::Put { target, value, canary } => put(common, target, value, *canary).await,
        CredentialSubcommand::List => list(common).await,
        CredentialSubcommand::Show(target) => show(common, target).await,
        CredentialSubcommand::Rotate { target, value, overlap } => {
            rotate(common, target, value, *overlap).await
        }
        CredentialSubcommand::Rm { target, version } => remove(common, target, *version).await,
        CredentialSubcommand::Import(arguments) => credential_import::run(common, arguments).await,
        CredentialSubcommand::Accept => accept(common).await,
        CredentialSubcommand::Get(arguments) => credential_get::run(common, arguments).await,
    }
}

async fn put(
    common: &CommonArgs,
    target: &TargetArgs,
    value: &ValueArgs,
    canary: bool,
) -> Result<ExitCode, CliError> {
    let TargetArgs { name, tenant, agent } = target.clone();
    let (value, expires_at) = (read_value(value)?, value.expires);
    let request = PutCredentialRequest { name, tenant, agent, value, expires_at, canary };
    let path = format!("{PATH}/put");
    let reply = client::post::<PutCredentialResponse>(&common.admin_socket, &path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print_line(format_args!("stored {} as version {}", reply.body.name, reply.body.version))?;
    Ok(ExitCode::SUCCESS)
}

async fn rotate(
    common: &CommonArgs,
    target: &TargetArgs,
    value: &ValueArgs,
    overlap: Option<Duration>,
) -> Result<ExitCode, CliError> {
    let expired = earlier_expiry(common, target).await?;
    let request = RotateCredentialRequest {
        name: target.name.clone(),
        tenant: target.tenant.clone(),
        agent: target.agent.clone(),
        value: read_value(value)?,
        expires_at: value.expires,
        overlap: overlap.map(|overlap| overlap.as_secs()),
    };
    let path = format!("{PATH}/rotate");
    let reply = client::post::<PutCredentialResponse>(&common.admin_socket, &path, &request).await?;
    if let (Some(expires), None) = (expired, value.expires) {
        note(format_args!(
            "hostbadge: this version does not expire; the one before has {expires}: --expires sets a time"
        ));
    }
    if common.json {
        return print_json(&reply.raw);
    }
    print_line(format_args!("stored {} as version {}", reply.body.name, reply.body.version))?;
    Ok(ExitCode::SUCCESS)
}

/// When the present version expires, if it does.
async fn earlier_expiry(common: &CommonArgs, target: &TargetArgs) -> Result<Option<Timestamp>, CliError> {
    let stored = client::get::<Vec<StoredCredential>>(&common.admin_socket, PATH).await?.body;
    let found = stored.iter().find(|other| target.is(other));
    Ok(found.and_then(|credential| credential.versions.last()?.expires_at))
}

fn read_value(arguments: &ValueArgs) -> Result<Zeroizing<String>, CliError> {
    let mut value = prompt::read_credential_value()?;
    if !arguments.keep_newline {
        let trimmed = value.strip_suffix('\n').map_or(value.len(), |text| text.trim_end_matches('\r').len());
        value.truncate(trimmed);
    }
    Ok(value)
}

fn parse_expiry(text: &str) -> Result<Timestamp, String> {
    if let Ok(duration) = humantime::parse_duration(text) {
        return Ok(Clock::System.now().after(duration));
    }
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "expected a duration like \"90d\" or a time like \"2027-03-31T00:00:00Z\"")?;
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|e| e.to_string())?;
    Ok(Timestamp::from_secs(since_epoch.as_secs()))
}

async fn list(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::get::<Vec<StoredCredential>>(&common.admin_socket, PATH).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let rows: Vec<Vec<String>> = reply.body.iter().map(row).collect();
    print_columns(&["NAME", "TENANT", "OWN", "VERSION", "STORED", "EXPIRES", "AGENTS"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn row(credential: &StoredCredential) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let latest = credential.versions.last();
    let agents: Vec<&str> = credential.agents.iter().map(|user| user.agent.as_str()).collect();
    vec![
        credential.name.clone(),
        or_dash(credential.tenant.clone()),
        or_dash(credential.agent.clone()),
        or_dash(latest.map(|latest| latest.version.to_string())),
        or_dash(latest.map(|latest| latest.created.to_string())),
        or_dash(latest.and_then(|latest| latest.expires_at).map(|expires| expires.to_string())),
        or_dash(Some(agents.join(" ")).filter(|agents| !agents.is_empty())),
    ]
}

async fn show(common: &CommonArgs, target: &TargetArgs) -> Result<ExitCode, CliError> {
    let stored = client::get::<Vec<StoredCredential>>(&common.admin_socket, PATH).await?.body;
    let found = stored.iter().find(|other| target.is(other));
    let Some(credential) = found else {
        return Err(CliError::Local(format!("this host has no credential \"{}\"", target.name)));
    };
    if common.json {
        return print_json(credential);
    }
    let mut table = KeyValueTable::default();
    table.add("name", &credential.name);
    table.add_some("tenant", credential.tenant.as_ref());
    table.add_some("own", credential.agent.as_ref().map(|agent| format!("of agent {agent} alone")));
    if credential.canary {
        table.add("canary", "an agent that asks for it is suspended, unless [anomaly] says otherwise");
    }
    for version in &credential.versions {
        let mut text =
            format!("{}, {}, stored {}", version.version, counted(version.size, "byte"), version.created);
        if let Some(expires) = version.expires_at {
            text += &format!(", expires {expires}");
        }
        if let Some(destroyed) = version.destroyed_at {
            text += &format!(", to be destroyed {destroyed}");
        }
        table.add("version", text);
    }
    for user in &credential.agents {
        table.add("agent", format_user(user));
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

fn format_user(user: &CredentialUser) -> String {
    match user.usage {
        CredentialUse::Inject => format!("{}, through the egress proxy", user.agent),
        CredentialUse::Release => format!("{}, gets the value", user.agent),
        CredentialUse::Sign => format!("{}, signs its requests", user.agent),
    }
}

async fn remove(
    common: &CommonArgs,
    target: &TargetArgs,
    version: Option<u64>,
) -> Result<ExitCode, CliError> {
    let TargetArgs { name, tenant, agent } = target.clone();
    let request = RemoveCredentialRequest { name, tenant, agent, version };
    let path = format!("{PATH}/remove");
    let reply = client::post::<RemoveCredentialResponse>(&common.admin_socket, &path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let versions: Vec<String> = reply.body.versions.iter().map(u64::to_string).collect();
    let noun = if versions.len() == 1 { "version" } else { "versions" };
    print_line(format_args!("destroyed {noun} {} of {}", versions.join(", "), reply.body.name))?;
    Ok(ExitCode::SUCCESS)
}

async fn accept(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let path = format!("{PATH}/accept");
    let reply = client::post_empty::<AcceptCredentialsResponse>(&common.admin_socket, &path).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print_line(format_args!(
        "accepted credentials.db with {}; those that were removed since that copy was made may be in \
         it again: hostbadge credential list",
        counted(reply.body.credentials, "credential")
    ))?;
    Ok(ExitCode::SUCCESS)
}

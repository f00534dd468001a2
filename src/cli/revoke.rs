//! `hostbadge revoke token|jti|agent|invocation|owner|tenant|key|signal|lift|list|accept`, `freeze` and `thaw`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::{read_file, read_stdin};
use super::output::{note, print_line};
use super::table::print_columns;
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::verify::MAX_EVENT_TOKEN_LEN;
use crate::wire::revocation::{
    FreezeRequest, Revocation, RevocationsResponse, RevokeOutcome, RevokeOwnRequest, RevokeOwnResponse,
    RevokeRequest, RevokeResponse,
};
use crate::wire::signal::{SignalRequest, SignalResponse};

/// Longest token that is read, in bytes.
const MAX_TOKEN_LEN: usize = 16 * 1024;

#[derive(Subcommand, Debug)]
pub(super) enum RevokeSubcommand {
    /// Revoke one token, which is read from standard input
    Token {
        /// Revoke it as the agent that it was issued to, by the agent socket
        #[arg(long)]
        own: bool,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Revoke one token by its identifier, as the audit log has it
    Jti {
        /// The token's jti
        #[arg(allow_hyphen_values = true)]
        jti: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Revoke all that an agent has, and issue nothing to it
    Agent {
        /// The agent
        name: String,
        #[command(flatten)]
        name_args: NameArgs,
    },
    /// Revoke all that one invocation of a unit has, and issue nothing to it; after a restart the unit is another
    /// invocation
    Invocation {
        /// The invocation ID, 32 hexadecimal digits
        id: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Revoke all that the agents of an owner have, and issue nothing to them
    Owner {
        /// The owner, as the agents' files have it
        owner: String,
        #[command(flatten)]
        name_args: NameArgs,
    },
    /// Revoke all that the agents of a tenant have, and issue nothing to them
    Tenant {
        /// The tenant
        name: String,
        #[command(flatten)]
        name_args: NameArgs,
    },
    /// Revoke an issuing key with all tokens that it signed; another key signs from then on
    Key {
        /// The key's kid, as "hostbadge key list" has it
        #[arg(allow_hyphen_values = true)]
        kid: String,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Revoke what a security event token of a configured issuer names (RFC 8417)
    ///
    /// The issuer, its keys, the audience and the agents that it may revoke are in a table [[signals]] of
    /// hostbadged.toml. The event is session-revoked or credential-change of CAEP, or account-disabled of RISC. A
    /// signal is accepted once, at most 1 h after it was issued.
    Signal {
        /// The file with the token; "-" is standard input
        file: PathBuf,
    },
    /// Lift the revocation of an agent, invocation, owner or tenant (root only). What was issued before stays
    /// revoked
    Lift {
        /// What was revoked
        #[arg(value_enum)]
        kind: LiftKind,
        /// Its name or ID
        value: String,
    },
    /// List what is revoked
    List,
    /// Accept revocations.db as it is, after an older copy of it was put back or it was damaged (root only).
    /// Everything that was issued is revoked, and nothing is issued until "hostbadge thaw"
    Accept,
}

/// The reason of a revocation.
#[derive(Args, Debug)]
pub(super) struct WhyArgs {
    /// Why, for the audit log and "hostbadge revoke list"
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// How a name is revoked.
#[derive(Args, Debug)]
pub(super) struct NameArgs {
    #[command(flatten)]
    why: WhyArgs,
    /// Revoke a name that no agent's file has, too
    #[arg(long)]
    unregistered: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(super) enum LiftKind {
    Agent,
    Invocation,
    Owner,
    Tenant,
}

#[derive(Args, Debug)]
pub(super) struct FreezeArgs {
    #[command(flatten)]
    why: WhyArgs,
}

pub(super) async fn run(common: &CommonArgs, subcommand: &RevokeSubcommand) -> Result<ExitCode, CliError> {
    let request = match subcommand {
        RevokeSubcommand::Token { own: true, .. } => return revoke_own(common).await,
        RevokeSubcommand::Token { why, .. } => {
            RevokeRequest { token: Some(read_token()?.to_string()), reason: why.reason.clone(), ..none() }
        }
        RevokeSubcommand::Jti { jti, why } => {
            RevokeRequest { jti: Some(jti.clone()), reason: why.reason.clone(), ..none() }
        }
        RevokeSubcommand::Agent { name, name_args } => {
            RevokeRequest { agent: Some(name.clone()), ..named(name_args) }
        }
        RevokeSubcommand::Invocation { id, why } => {
            RevokeRequest { invocation: Some(id.clone()), reason: why.reason.clone(), ..none() }
        }
        RevokeSubcommand::Owner { owner, name_args } => {
            RevokeRequest { owner: Some(owner.clone()), ..named(name_args) }
        }
        RevokeSubcommand::Tenant { name, name_args } => {
            RevokeRequest { tenant: Some(name.clone()), ..named(name_args) }
        }
        RevokeSubcommand::Key { kid, why } => {
            RevokeRequest { key: Some(kid.clone()), reason: why.reason.clone(), ..none() }
        }
        RevokeSubcommand::Signal { file } => return signal(common, file).await,
        RevokeSubcommand::Lift { kind, value } => return lift(common, *kind, value).await,
        RevokeSubcommand::List => return list(common).await,
        RevokeSubcommand::Accept => return send_empty(common, "/v1/revocations/accept").await,
    };
    send(common, "/v1/revocations/revoke", &request).await
}

pub(super) async fn freeze(common: &CommonArgs, arguments: &FreezeArgs) -> Result<ExitCode, CliError> {
    let request = FreezeRequest { reason: arguments.why.reason.clone() };
    let reply = client::post::<RevokeResponse>(&common.admin_socket, "/v1/freeze", &request).await?;
    print_outcome(common, &reply)
}

pub(super) async fn thaw(common: &CommonArgs) -> Result<ExitCode, CliError> {
    send_empty(common, "/v1/thaw").await
}

fn none() -> RevokeRequest {
    RevokeRequest::default()
}

fn named(arguments: &NameArgs) -> RevokeRequest {
    let NameArgs { why, unregistered } = arguments;
    RevokeRequest { reason: why.reason.clone(), unregistered: *unregistered, ..none() }
}

async fn lift(common: &CommonArgs, kind: LiftKind, value: &str) -> Result<ExitCode, CliError> {
    let value = Some(value.to_owned());
    let request = match kind {
        LiftKind::Agent => RevokeRequest { agent: value, ..none() },
        LiftKind::Invocation => RevokeRequest { invocation: value, ..none() },
        LiftKind::Owner => RevokeRequest { owner: value, ..none() },
        LiftKind::Tenant => RevokeRequest { tenant: value, ..none() },
    };
    send(common, "/v1/revocations/lift", &request).await
}

async fn signal(common: &CommonArgs, file: &Path) -> Result<ExitCode, CliError> {
    let text = match file == Path::new("-") {
        true => read_stdin(MAX_EVENT_TOKEN_LEN)?,
        false => read_file(file, MAX_EVENT_TOKEN_LEN)?,
    };
    let not_a_token = |_| CliError::Local(format!("{}: not a token", file.display()));
    let set = String::from_utf8(text).map_err(not_a_token)?.trim().to_owned();
    let path = "/v1/revocations/signal";
    let reply = client::post::<SignalResponse>(&common.admin_socket, path, &SignalRequest { set }).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let SignalResponse { issuer, jti, event, revoked } = &reply.body;
    print_line(escape_unprintable(&format!("{event} by signal {jti} of {issuer}")))?;
    print_revoked(revoked)
}

async fn revoke_own(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let request = RevokeOwnRequest {
        token: read_token()?.to_string(),
        token_type_hint: None,
        client_id: None,
        client_secret: None,
    };
    let reply = client::post::<RevokeOwnResponse>(&common.socket, "/v1/revoke", &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print_line("revoked, if it is a token of this host that has not expired")?;
    Ok(ExitCode::SUCCESS)
}

async fn send(common: &CommonArgs, path: &str, request: &RevokeRequest) -> Result<ExitCode, CliError> {
    let reply = client::post::<RevokeResponse>(&common.admin_socket, path, request).await?;
    print_outcome(common, &reply)
}

async fn send_empty(common: &CommonArgs, path: &str) -> Result<ExitCode, CliError> {
    let reply = client::post_empty::<RevokeResponse>(&common.admin_socket, path).await?;
    print_outcome(common, &reply)
}

fn print_outcome(common: &CommonArgs, reply: &client::Reply<RevokeResponse>) -> Result<ExitCode, CliError> {
    if common.json {
        return print_json(&reply.raw);
    }
    print_revoked(&reply.body)
}

/// Prints what was revoked, in one line.
pub(super) fn print_revoked(response: &RevokeResponse) -> Result<ExitCode, CliError> {
    let RevokeResponse { kind, value, outcome } = response;
    let (is_everything, value) = (kind == "everything", escape_unprintable(value));
    let text = match (outcome, is_everything) {
        (RevokeOutcome::Revoked, true) => {
            "this host is frozen: everything is revoked, and nothing is issued until \"hostbadge thaw\""
                .to_owned()
        }
        (RevokeOutcome::AlreadyRevoked, true) => "this host was frozen before".to_owned(),
        (RevokeOutcome::Lifted, true) => {
            "this host is thawed: what was issued before stays revoked".to_owned()
        }
        (RevokeOutcome::Revoked, false) => format!("revoked {kind} {value}"),
        (RevokeOutcome::AlreadyRevoked, false) => format!("{kind} {value} was revoked before"),
        (RevokeOutcome::Expired, _) => format!("the {kind} {value} has expired: there is nothing to revoke"),
        (RevokeOutcome::Lifted, false) => {
            format!("lifted the revocation of {kind} {value}: what was issued before stays revoked")
        }
    };
    print_line(text)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::get::<RevocationsResponse>(&common.admin_socket, "/v1/revocations").await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let RevocationsResponse { revocations, count, tokens, used_tokens, .. } = &reply.body;
    let rows: Vec<Vec<String>> = revocations.iter().map(row).collect();
    print_columns(&["REVOKED", "SINCE", "UNTIL", "BY", "REASON"], &rows)?;
    if *count > revocations.len() {
        note(format_args!("hostbadge: {} of {count} are shown", revocations.len()));
    }
    print_line(format_args!(
        "{} revoked, {} used once",
        counted(*tokens as u64, "single token"),
        counted(*used_tokens as u64, "token")
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn row(revocation: &Revocation) -> Vec<String> {
    let Revocation { kind, value, revoked_at, revoked_by, reason, blocks, lapses_at } = revocation;
    let what = if value.is_empty() { kind.clone() } else { format!("{kind} {}", escape_unprintable(value)) };
    let until = match lapses_at.filter(|_| !blocks) {
        Some(lapses_at) => format!("lifted, forgotten {}", lapses_at.to_rfc3339_seconds()),
        None => "lifted".to_owned(),
    };
    vec![
        what,
        revoked_at.to_rfc3339_seconds(),
        if *blocks { "it is lifted".to_owned() } else { until },
        escape_unprintable(revoked_by).to_string(),
        escape_unprintable(reason).to_string(),
    ]
}

/// The token of standard input, without white space around it.
pub(super) fn read_token() -> Result<Zeroizing<String>, CliError> {
    let text = Zeroizing::new(read_stdin(MAX_TOKEN_LEN)?);
    match std::str::from_utf8(&text).map(str::trim) {
        Ok(token) if !token.is_empty() => Ok(Zeroizing::new(token.to_owned())),
        _ => Err(CliError::Local("standard input has no token".to_owned())),
    }
}

//! `hostbadge selftest`: attacks its own host as other processes of it could, and changes nothing.
//!
//! An attack that cannot be tried is skipped with the reason, and never counted as held. Where an attack shows
//! something only if the same thing works unaltered, that is tried first.

mod altered_evidence;
mod attempts;
mod audit_copy;
mod connections;
mod context;
mod exchange;
mod foreign_token;
mod forged_tokens;
mod probe;
mod replay;
mod smuggling;
mod state_copy;
mod step;
mod stranger;
mod target;
mod workdir;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::{note, print_line};
use super::table::print_columns;
use crate::config::Config;
use crate::plural::counted;
use attempts::{Attempt, Attempts, Outcome};
use context::{Context, unused_uid};
use workdir::WorkDir;

/// Exit status where the self-test cannot be run at all.
const EXIT_USAGE: u8 = 2;

/// An attack.
type Attack = fn(&Context, &mut Attempts);

/// The attacks by name, in the order in which they are tried.
const ATTACKS: [(&str, Attack); 10] = [
    ("stranger", stranger::run),
    ("stale-pid", connections::stale_pid),
    ("exec-race", connections::exec_race),
    ("fd-passing", connections::fd_passing),
    ("replay", replay::run),
    ("foreign-token", foreign_token::run),
    ("state-copy", state_copy::run),
    ("altered-evidence", altered_evidence::run),
    ("audit-copy", audit_copy::run),
    ("smuggled-headers", smuggling::run),
];

#[derive(Args, Debug)]
pub(super) struct SelftestArgs {
    /// Only this attack; several may be named
    #[arg(long, value_name = "ATTACK", value_parser = attack_name())]
    only: Vec<String>,

    /// The audience for which a token is requested, if this process is an agent that has a grant for it
    #[arg(long, value_name = "AUDIENCE", default_value = "urn:hostbadge:selftest")]
    audience: String,

    /// The daemon's state [default: paths.state of the configuration]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// The audit log [default: paths.audit of the configuration]
    #[arg(long, value_name = "DIR")]
    audit: Option<PathBuf>,

    /// Keep the generation of the state and the digests of its files in this file, with which the next self-test
    /// compares the state
    #[arg(long, value_name = "FILE")]
    remember: Option<PathBuf>,

    /// Take these steps as a process of an attack
    #[arg(long, value_name = "STEPS", hide = true)]
    probe: Option<String>,
}

/// Tries the attacks and prints a table. Exit status 0 if there is no hole, 1 if there is one, and 2 if the self-test
/// cannot be run by this user.
pub(super) async fn run(common: &CommonArgs, arguments: &SelftestArgs) -> Result<ExitCode, CliError> {
    if let Some(steps) = &arguments.probe {
        probe::run(steps).await;
        return Ok(ExitCode::SUCCESS);
    }
    if !nix::unistd::geteuid().is_root() {
        note(
            "hostbadge: a self-test starts processes of another user and reads the audit log: run it as root",
        );
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let context = context(common, arguments)?;
    let mut attempts = Attempts::new();
    for (name, attack) in ATTACKS {
        let is_wanted = arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
        if is_wanted && attempts.begin(name) {
            attack(&context, &mut attempts);
        }
    }
    print(common, &context, &attempts.into_list())
}

/// Everything that the attacks need. Fails if no daemon answers.
fn context(common: &CommonArgs, arguments: &SelftestArgs) -> Result<Context, CliError> {
    let no_daemon = |e: io::Error| CliError::NoDaemon(format!("{}: {e}", common.socket.display()));
    let whoami = exchange::ask(&common.socket, "GET", "/v1/whoami", None).map_err(no_daemon)?;
    let agent = match (whoami.status, whoami.body["agent"].as_str()) {
        (200, Some(agent)) => Ok(agent.to_owned()),
        (401, _) => Err("this process is no agent (hostbadge-selftest.service can be one)".to_owned()),
        _ => Err(format!("whoami: the daemon answered {}", whoami.summary())),
    };
    let paths = match (&arguments.state, &arguments.audit) {
        (Some(_), Some(_)) => Config::default().paths,
        _ => Config::load(None).map_err(|faults| CliError::invalid_files(&faults))?.paths,
    };
    let stranger =
        unused_uid().ok_or_else(|| CliError::local("all uids that systemd leaves unused have users"))?;
    Ok(Context {
        agent_socket: common.socket.clone(),
        workload_socket: common.socket.with_file_name("workload.sock"),
        credentials_socket: common.socket.with_file_name("credentials.sock"),
        admin_socket: common.admin_socket.clone(),
        state: arguments.state.clone().unwrap_or(paths.state),
        audit: arguments.audit.clone().unwrap_or(paths.audit),
        remember: arguments.remember.clone(),
        audience: arguments.audience.clone(),
        stranger,
        agent,
        workdir: WorkDir::new().map_err(CliError::local)?,
    })
}

fn print(common: &CommonArgs, context: &Context, attempts: &[Attempt]) -> Result<ExitCode, CliError> {
    let count = |wanted: Outcome| attempts.iter().filter(|one| one.result == wanted).count();
    let (held, holes, skipped) = (count(Outcome::Held), count(Outcome::Hole), count(Outcome::Skipped));
    if common.json {
        let agent = context.agent.as_ref().ok();
        print_json(&json!({
            "holes": holes, "held": held, "skipped": skipped, "agent": agent, "attempts": attempts,
        }))?;
    } else {
        let row = |one: &Attempt| {
            vec![
                one.attack.to_owned(),
                one.attempt.clone(),
                one.result.as_str().to_owned(),
                one.detail.clone(),
            ]
        };
        print_columns(
            &["ATTACK", "ATTEMPT", "RESULT", "DETAIL"],
            &attempts.iter().map(row).collect::<Vec<_>>(),
        )?;
        print_line(format_args!("{}: {held} held, {skipped} skipped", counted(holes, "hole")))?;
    }
    Ok(if holes == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Parses the name of an attack, and lists all of them in the help and completions.
fn attack_name() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(ATTACKS.map(|(name, _)| name)).map(|name| name.to_string())
}

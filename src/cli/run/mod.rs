//! `hostbadge run`: starts a command as an agent or sub-agent in a cgroup of its own.
//!
//! Two processes run it. The one that the user started stays in its own cgroup ([`outside`]): it makes the cgroup of the
//! command, delegates it, passes signals on and ends as the command ends. The other one is in the cgroup of the command
//! ([`inside`]): only there are tokens those of the sub-agent.

mod environment;
mod inside;
mod outside;
mod place;
mod private_dir;
mod signals;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use serde::Serialize;

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;
use super::rights_args::RightsArgs;
use environment::{DIR_VARIABLE, Environment};
use place::Place;

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// Run the command as the sub-agent NAME of the agent that this process is: a-z 0-9 . _ -. Without it, the command is
    /// the agent that its own process matches
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    rights: RightsArgs,

    /// Put a token for AUDIENCE into the variable VAR of the command. It is not renewed; may be repeated
    #[arg(long, value_name = "VAR=AUDIENCE", value_parser = OsStringValueParser::new().try_map(parse_variable))]
    env: Vec<(OsString, String)>,

    /// Put a token for AUDIENCE into a file, in the directory $HOSTBADGE_RUN_DIR of the command, which is in memory, or at
    /// an absolute path in memory. It is renewed at half of its lifetime, and removed at the end; may be repeated
    #[arg(long, value_name = "PATH=AUDIENCE", value_parser = OsStringValueParser::new().try_map(parse_file))]
    file: Vec<(PathBuf, String)>,

    /// Leave a variable in the environment that looks like a secret; may be repeated
    #[arg(long, value_name = "NAME")]
    keep: Vec<OsString>,

    /// Slice of the scope, where the service manager makes it
    #[arg(long, value_name = "SLICE")]
    slice: Option<String>,

    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,

    /// Do not say which variables were removed, and that those of --env are not renewed
    #[arg(long, short)]
    quiet: bool,

    /// Say where the command would run and what it would get, and run nothing
    #[arg(long)]
    check: bool,

    /// In the cgroup of the command
    #[arg(long, hide = true)]
    in_cgroup: bool,

    /// The limit on core files that the command gets
    #[arg(skip)]
    core_limit: Option<(rlim_t, rlim_t)>,

    /// The command with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl RunArgs {
    /// Has no core file and no other process of this user read what this process knows: tokens, and the variables that the
    /// command does not get. The command gets the limit back.
    fn protect(&mut self) {
        self.core_limit = getrlimit(Resource::RLIMIT_CORE).ok();
        if let Some((_, hard)) = self.core_limit {
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, hard);
        }
        let _ = set_dumpable(false);
    }

    /// Takes back in the process that `command` starts what this one has changed for itself.
    fn restore(&self, command: &mut Command) {
        signals::restore_in(command, self.core_limit.unwrap_or((RLIM_INFINITY, RLIM_INFINITY)));
    }

    /// The arguments of the process in the cgroup of the command: those that matter there.
    fn inside(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        let mut add = |option: &str, value: OsString| words.extend([option.into(), value]);
        for (option, value) in [("--as", &self.name), ("--agent", &self.agent)] {
            if let Some(value) = value {
                add(option, value.into());
            }
        }
        let joined = |place: &OsString, audience: &str| {
            let mut text = place.clone();
            text.push("=");
            text.push(audience);
            text
        };
        self.env.iter().for_each(|(name, audience)| add("--env", joined(name, audience)));
        self.file
            .iter()
            .for_each(|(path, audience)| add("--file", joined(&path.clone().into_os_string(), audience)));
        words.push("--".into());
        words.extend(self.command.iter().cloned());
        words
    }
}

/// What `--check` says, for programs.
#[derive(Serialize)]
struct Plan {
    command: Vec<String>,
    /// The sub-agent's own name.
    #[serde(rename = "as")]
    name: Option<String>,
    place: &'static str,
    rights: Vec<String>,
    removed_variables: Vec<String>,
    kept_variables: Vec<String>,
    token_variables: Vec<String>,
    token_files: Vec<String>,
}

pub(super) async fn run(common: &CommonArgs, mut arguments: RunArgs) -> Result<ExitCode, CliError> {
    if arguments.check {
        return check(common, &arguments);
    }
    arguments.protect();
    let status = match arguments.in_cgroup {
        true => inside::run(common, &arguments).await?,
        false => outside::run(common, &arguments).await?,
    };
    Ok(end_as(status))
}

/// Ends this process as the command ended: with its status, or by its signal.
fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(number) = status.signal()
        && let Ok(number) = Signal::try_from(number)
    {
        let mut set = SigSet::empty();
        set.add(number);
        // SAFETY: the default action is no code of this process.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
        let _ = set.thread_unblock();
        let _ = raise(number);
    }
    // For signals that do not end a process by default, as shells report them.
    let by_signal = status.signal().map_or(1, |number| 128 + number);
    ExitCode::from(u8::try_from(status.code().unwrap_or(by_signal)).unwrap_or(1))
}

fn check(common: &CommonArgs, arguments: &RunArgs) -> Result<ExitCode, CliError> {
    let place = Place::find(arguments.slice.as_deref())?;
    let environment = Environment::of(std::env::vars_os(), &arguments.keep);
    let texts = |names: &[OsString]| names.iter().map(|name| name.display().to_string()).collect::<Vec<_>>();
    let plan = Plan {
        command: texts(&arguments.command),
        name: arguments.name.clone(),
        place: place.describe(),
        rights: if arguments.name.is_some() { arguments.rights.describe() } else { Vec::new() },
        removed_variables: texts(&environment.removed),
        kept_variables: texts(&environment.kept),
        token_variables: arguments
            .env
            .iter()
            .map(|(name, audience)| format!("{}={audience}", name.display()))
            .collect(),
        token_files: arguments
            .file
            .iter()
            .map(|(path, audience)| format!("{}={audience}", path.display()))
            .collect(),
    };
    if common.json {
        return print_json(&plan);
    }
    let or_none = |texts: &[String]| if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
    let identity = match &plan.name {
        Some(name) => format!("sub-agent {name} of this process's agent, with {}", or_none(&plan.rights)),
        None => "the agent that its process matches".to_owned(),
    };
    print_line(format_args!("command:            {}", plan.command.join(" ")))?;
    print_line(format_args!("runs as:            {identity}"))?;
    print_line(format_args!("runs in:            {}", plan.place))?;
    print_line(format_args!("variables removed:  {}", or_none(&plan.removed_variables)))?;
    print_line(format_args!("variables kept:     {}", or_none(&plan.kept_variables)))?;
    print_line(format_args!("tokens in variables: {} (not renewed)", or_none(&plan.token_variables)))?;
    print_line(format_args!(
        "tokens in files:    {} (in ${DIR_VARIABLE}, renewed)",
        or_none(&plan.token_files)
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn parse_variable(text: OsString) -> Result<(OsString, String), String> {
    let (name, audience) = split(&text)?;
    if name.is_empty() || name.as_bytes().contains(&0) {
        return Err("VAR must be the name of a variable".to_owned());
    }
    Ok((name, audience))
}

fn parse_file(text: OsString) -> Result<(PathBuf, String), String> {
    let (path, audience) = split(&text)?;
    if path.is_empty() { Err("PATH is empty".to_owned()) } else { Ok((path.into(), audience)) }
}

/// What stands before and after the first sign of equality.
fn split(text: &OsString) -> Result<(OsString, String), String> {
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|b| *b == b'=').ok_or("write NAME=AUDIENCE")?;
    let audience = String::from_utf8(bytes[at + 1..].to_vec()).map_err(|_| "the audience is not text")?;
    if audience.is_empty() {
        return Err("the audience is empty".to_owned());
    }
    Ok((OsString::from_vec(bytes[..at].to_vec()), audience))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_place_and_an_audience() {
        let file = parse_file("a=https://x?y=z".into()).unwrap();
        assert_eq!(file, (PathBuf::from("a"), "https://x?y=z".to_owned()));
        assert_eq!(parse_variable("A=x".into()).unwrap(), ("A".into(), "x".to_owned()));
        for wrong in ["", "a", "=x", "a="] {
            assert!(parse_file(wrong.into()).is_err() && parse_variable(wrong.into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_status_is_that_of_the_command() {
        assert_eq!(format!("{:?}", end_as(ExitStatus::from_raw(7 << 8))), format!("{:?}", ExitCode::from(7)));
        assert_eq!(format!("{:?}", end_as(ExitStatus::from_raw(0))), format!("{:?}", ExitCode::SUCCESS));
    }
}

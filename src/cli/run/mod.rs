//! `hostbadge run`: starts a command as an agent or sub-agent in a cgroup of its own.
//!
//! Two processes run it. The one that the user started stays in its own cgroup ([`outside`]): it makes the cgroup of the
//! command, delegates it, passes signals on and ends as the command ends. The other one is in the cgroup of the command
//! ([`inside`]): only there are tokens those of the sub-agent.

mod args;
mod environment;
mod inside;
mod outside;
mod place;
mod private_dir;
mod signals;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use serde::Serialize;

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;
pub(super) use args::RunArgs;
use environment::{DIR_VARIABLE, Environment};
use place::Place;

/// What `--check` says, for programs.
#[derive(Serialize)]
struct Plan {
    command: Vec<String>,
    /// The sub-agent's own name.
    #[serde(rename = "as")]
    name: Option<String>,
    /// The agent whose sub-agent it is, where the arguments name it.
    agent: Option<String>,
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
    let sub_agent = arguments.sub_agent()?;
    let environment = Environment::of(std::env::vars_os(), &arguments.keep);
    let texts = |names: &[OsString]| names.iter().map(|name| name.display().to_string()).collect::<Vec<_>>();
    let plan = Plan {
        command: texts(&arguments.command),
        name: sub_agent.map(|(name, _)| name.to_owned()),
        agent: sub_agent.and_then(|(_, agent)| agent.map(ToOwned::to_owned)),
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
    let identity = match (&plan.name, &plan.agent) {
        (Some(name), Some(agent)) => {
            format!("sub-agent {name} of agent {agent}, with {}", or_none(&plan.rights))
        }
        (Some(name), None) => {
            format!("sub-agent {name} of this process's agent, with {}", or_none(&plan.rights))
        }
        (None, _) => "the agent that its process matches".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_that_of_the_command() {
        assert_eq!(format!("{:?}", end_as(ExitStatus::from_raw(7 << 8))), format!("{:?}", ExitCode::from(7)));
        assert_eq!(format!("{:?}", end_as(ExitStatus::from_raw(0))), format!("{:?}", ExitCode::SUCCESS));
    }
}

//! The arguments of `hostbadge run`, and what they do to the process and its children.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

use super::signals;
use crate::agents::split_sub_agent;
use crate::cli::error::CliError;
use crate::cli::rights_args::RightsArgs;

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Run the command as the sub-agent NAME of the agent that this process is: a-z 0-9 . _ -. AGENT/sub/run-NAME is one of
    /// another agent, for which [run] in that agent's file permits this user to start commands. Without the option, the
    /// command is the agent that its own process matches
    #[arg(long = "as", value_name = "NAME")]
    pub(super) name: Option<String>,

    #[command(flatten)]
    pub(super) rights: RightsArgs,

    /// Put a token for AUDIENCE into the variable VAR of the command. It is not renewed; may be repeated
    #[arg(long, value_name = "VAR=AUDIENCE", value_parser = OsStringValueParser::new().try_map(parse_variable))]
    pub(super) env: Vec<(OsString, String)>,

    /// Put a token for AUDIENCE into a file, in the directory $HOSTBADGE_RUN_DIR of the command, which is in memory, or at
    /// an absolute path in memory. It is renewed at half of its lifetime, and removed at the end; may be repeated
    #[arg(long, value_name = "PATH=AUDIENCE", value_parser = OsStringValueParser::new().try_map(parse_file))]
    pub(super) file: Vec<(PathBuf, String)>,

    /// Leave a variable in the environment that looks like a secret; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) keep: Vec<OsString>,

    /// Slice of the scope, where the service manager makes it
    #[arg(long, value_name = "SLICE")]
    pub(super) slice: Option<String>,

    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    pub(super) agent: Option<String>,

    /// Do not say which variables were removed, and that those of --env are not renewed
    #[arg(long, short)]
    pub(super) quiet: bool,

    /// Say where the command would run and what it would get, and run nothing
    #[arg(long)]
    pub(super) check: bool,

    /// In the cgroup of the command
    #[arg(long, hide = true)]
    pub(super) in_cgroup: bool,

    /// The limit on core files that the command gets
    #[arg(skip)]
    pub(super) core_limit: Option<(rlim_t, rlim_t)>,

    /// The command with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

impl RunArgs {
    /// Has no core file and no other process of this user read what this process knows: tokens, and the variables that the
    /// command does not get. The command gets the limit back.
    pub(super) fn protect(&mut self) {
        self.core_limit = getrlimit(Resource::RLIMIT_CORE).ok();
        if let Some((_, hard)) = self.core_limit {
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, hard);
        }
        let _ = set_dumpable(false);
    }

    /// Takes back in the process that `command` starts what this one has changed for itself.
    pub(super) fn restore(&self, command: &mut Command) {
        signals::restore_in(command, self.core_limit.unwrap_or((RLIM_INFINITY, RLIM_INFINITY)));
    }

    /// The sub-agent that the command is to be, by its own name, and the agent whose it is, where the arguments name that.
    ///
    /// # Errors
    /// The arguments name two agents.
    pub(super) fn sub_agent(&self) -> Result<Option<(&str, Option<&str>)>, CliError> {
        let Some(name) = &self.name else { return Ok(None) };
        match (split_sub_agent(name), self.agent.as_deref()) {
            (None, agent) => Ok(Some((name, agent))),
            (Some((agent, name)), None) => Ok(Some((name, Some(agent)))),
            (Some((agent, name)), Some(named)) if agent == named => Ok(Some((name, Some(agent)))),
            (Some((agent, _)), Some(named)) => Err(CliError::Local(format!(
                "--as names agent \"{agent}\", and --agent names \"{named}\"; leave one out"
            ))),
        }
    }

    /// The arguments of the process in the cgroup of the command: those that matter there.
    pub(super) fn inside(&self) -> Vec<OsString> {
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

/// The text before and after the first equals sign.
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
    fn a_name_may_have_that_of_its_agent_before_it() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            run: RunArgs,
        }
        let of = |words: &[&str]| {
            let words = [&["run"], words, &["--", "true"]].concat();
            let run = Line::try_parse_from(words).unwrap().run;
            let found = run.sub_agent().map_err(|e| e.to_string())?;
            Ok::<_, String>(found.map(|(name, agent)| (name.to_owned(), agent.map(ToOwned::to_owned))))
        };
        let some =
            |name: &str, agent: Option<&str>| Ok(Some((name.to_owned(), agent.map(ToOwned::to_owned))));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["--as", "x"]), some("x", None));
        assert_eq!(of(&["--as", "x", "--agent", "a"]), some("x", Some("a")));
        assert_eq!(of(&["--as", "a/sub/x"]), some("x", Some("a")));
        assert_eq!(of(&["--as", "a/sub/b/sub/x"]), some("x", Some("a/sub/b")));
        assert_eq!(of(&["--as", "a/sub/x", "--agent", "a"]), some("x", Some("a")));
        assert!(of(&["--as", "a/sub/x", "--agent", "b"]).unwrap_err().contains("leave one out"));
    }

    #[test]
    fn a_token_has_a_place_and_an_audience() {
        let file = parse_file("a=https://x?y=z".into()).unwrap();
        assert_eq!(file, (PathBuf::from("a"), "https://x?y=z".to_owned()));
        assert_eq!(parse_variable("A=x".into()).unwrap(), ("A".into(), "x".to_owned()));
        for wrong in ["", "a", "=x", "a="] {
            assert!(parse_file(wrong.into()).is_err() && parse_variable(wrong.into()).is_err(), "{wrong}");
        }
    }
}

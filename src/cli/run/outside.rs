//! The process that the user starts: it makes the cgroup, delegates it, and waits for the command.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::args::RunArgs;
use super::environment::Environment;
use super::inside::{CONTROL_VARIABLE, GO, WHERE};
use super::place::Place;
use super::private_dir::{PrivateDir, token_path};
use super::signals::{SignalEvent, Signals};
use crate::cli::client;
use crate::cli::common::CommonArgs;
use crate::cli::error::CliError;
use crate::cli::output::note;
use crate::cli::renewal::{Backoff, renewal_delay};
use crate::clock::{Clock, Timestamp};
use crate::wire::delegate::{DelegateRequest, DelegateResponse};

/// The socket, in the private directory.
const CONTROL_FILE: &str = ".control";
/// How long what the process in the cgroup has written may take to arrive, after its end.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the command in a cgroup of its own, and returns how it ended.
pub(super) async fn run(common: &CommonArgs, arguments: &RunArgs) -> Result<ExitStatus, CliError> {
    arguments.sub_agent()?;
    let mut signals = Signals::listen().map_err(CliError::local)?;
    let mut place = Place::find(arguments.slice.as_deref())?;
    let dir = PrivateDir::create()?;
    let files: Vec<PathBuf> =
        arguments.file.iter().map(|(named, _)| token_path(dir.path(), named)).collect::<Result<_, _>>()?;
    let control = dir.path().join(CONTROL_FILE);
    let listener = UnixListener::bind(&control).map_err(CliError::local)?;
    announce(arguments);

    let words = place.launcher(arguments.slice.as_deref())?;
    if let Place::Below(cgroup) = &mut place {
        cgroup.make()?;
    }
    let mut child = launch(words, common, arguments, &control)?;
    if let Place::Below(cgroup) = &place {
        // It is asked for its cgroup after that.
        cgroup.add(child.id()).inspect_err(|_| {
            let _ = child.kill();
        })?;
    }
    let outcome = supervise(common, arguments, &mut child, &mut signals, &listener).await;
    if outcome.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    // The process in the cgroup removes its files, unless it is killed.
    files.iter().for_each(|file| drop(fs::remove_file(file)));
    if let Place::Below(cgroup) = &mut place
        && cgroup.remove() > 0
    {
        note("hostbadge: the command has ended, and processes that it started run on in its cgroup");
    }
    outcome
}

/// Waits for the process in the cgroup, delegates that, and passes signals on until it ends.
async fn supervise(
    common: &CommonArgs,
    arguments: &RunArgs,
    child: &mut Child,
    signals: &mut Signals,
    listener: &UnixListener,
) -> Result<ExitStatus, CliError> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
    let conversation = converse(common, arguments, listener);
    tokio::pin!(conversation);
    let (mut has_ended, mut reported) = (false, None);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(CliError::local)? {
            break status;
        }
        tokio::select! {
            event = signals.next() => match event.map_err(CliError::local)? {
                // It may have ended.
                SignalEvent::PassOn(signal) => drop(kill(pid, signal)),
                SignalEvent::OfTerminal(_) | SignalEvent::Child => {}
            },
            result = &mut conversation, if !has_ended => {
                has_ended = true;
                reported = result?;
            }
        }
    };
    if !has_ended {
        // What the process wrote before it ended.
        let rest = tokio::time::timeout(REPORT_TIMEOUT, &mut conversation).await;
        reported = rest.ok().and_then(Result::ok).flatten();
    }
    let ended = reported.and_then(|line| line.trim().parse().ok());
    Ok(ended.map_or(status, ExitStatus::from_raw))
}

/// How the command ended, as the process in its cgroup reports it.
async fn converse(
    common: &CommonArgs,
    arguments: &RunArgs,
    listener: &UnixListener,
) -> Result<Option<String>, CliError> {
    let (stream, _) = listener.accept().await.map_err(CliError::local)?;
    let (reader, mut writer) = UnixStream::into_split(stream);
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(format!("{WHERE}\n").as_bytes()).await.map_err(CliError::local)?;
    let Some(cgroup) = lines.next_line().await.map_err(CliError::local)? else { return Ok(None) };
    let Some((name, agent)) = arguments.sub_agent()? else {
        writer.write_all(format!("{GO}\n").as_bytes()).await.map_err(CliError::local)?;
        return lines.next_line().await.map_err(CliError::local);
    };
    let request = DelegateRequest {
        name: name.into(),
        cgroup: cgroup.into(),
        grants: arguments.rights.grants(),
        ttl: arguments.rights.ttl(),
        agent: agent.map(Into::into),
    };
    let expires_at = delegate(common, &request).await?;
    writer.write_all(format!("{GO}\n").as_bytes()).await.map_err(CliError::local)?;
    tokio::select! {
        line = lines.next_line() => line.map_err(CliError::local),
        () = keep_delegated(common, &request, expires_at) => Ok(None),
    }
}

/// Delegates the cgroup, and returns when that ends.
async fn delegate(common: &CommonArgs, request: &DelegateRequest<'_>) -> Result<Timestamp, CliError> {
    let reply = client::post::<DelegateResponse>(&common.socket, "/v1/delegate", request).await?;
    Ok(reply.body.expires_at)
}

/// Delegates the cgroup again at half of each time, until the command has ended. A failure is repeated: the command goes on,
/// and gets nothing after the end.
async fn keep_delegated(common: &CommonArgs, request: &DelegateRequest<'_>, mut expires_at: Timestamp) {
    let mut backoff = Backoff::new();
    loop {
        tokio::time::sleep(renewal_delay(expires_at, Clock::System.now())).await;
        loop {
            match delegate(common, request).await {
                Ok(until) => {
                    (expires_at, backoff) = (until, Backoff::new());
                    break;
                }
                Err(error) => note(format_args!("hostbadge: the sub-agent is not delegated again: {error}")),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

/// Starts this program again in the place where the command is to run.
fn launch(
    mut words: Vec<OsString>,
    common: &CommonArgs,
    arguments: &RunArgs,
    control: &std::path::Path,
) -> Result<Child, CliError> {
    words.push(std::env::current_exe().map_err(CliError::local)?.into_os_string());
    words.extend(["run", "--in-cgroup", "--socket"].map(OsString::from));
    words.push(common.socket.clone().into_os_string());
    words.extend(arguments.inside());
    let (program, rest) =
        words.split_first().ok_or_else(|| CliError::Local("a program is missing".to_owned()))?;
    let mut command = Command::new(program);
    command.args(rest).env(CONTROL_VARIABLE, control);
    for name in &Environment::of(std::env::vars_os(), &arguments.keep).removed {
        command.env_remove(name);
    }
    arguments.restore(&mut command);
    command.spawn().map_err(|e| CliError::Local(format!("{}: {e}", program.display())))
}

/// Says what the command does not get, and what is not renewed.
fn announce(arguments: &RunArgs) {
    if arguments.quiet {
        return;
    }
    let environment = Environment::of(std::env::vars_os(), &arguments.keep);
    if !environment.removed.is_empty() {
        let names: Vec<String> = environment.removed.iter().map(|name| name.display().to_string()).collect();
        note(format_args!(
            "hostbadge: removed from the environment: {} (--keep NAME keeps one)",
            names.join(", ")
        ));
    }
    if let Some((name, _)) = arguments.env.first() {
        note(format_args!(
            "hostbadge: what is in the environment is not renewed: {} is valid for one lifetime of its token; --file is \
             renewed",
            name.display()
        ));
    }
}

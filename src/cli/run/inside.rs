//! The process in the command's cgroup: it gets the tokens, starts the command, renews the files, and passes signals on.
//!
//! It speaks with the process that started it by lines on a socket: it names its cgroup, waits for the message that this
//! is a sub-agent's, and reports how the command ended.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

use super::args::RunArgs;
use super::environment::DIR_VARIABLE;
use super::place::own_path;
use super::private_dir::token_path;
use super::signals::{SignalEvent, Signals};
use crate::cli::client;
use crate::cli::common::CommonArgs;
use crate::cli::error::CliError;
use crate::cli::files::write_file;
use crate::cli::output::note;
use crate::cli::renewal::{Backoff, renewal_delay};
use crate::clock::{Clock, Timestamp};
use crate::wire::agent::{TokenRequest, TokenResponse};

/// Names the socket of the process that started this one.
pub(super) const CONTROL_VARIABLE: &str = "HOSTBADGE_RUN_CONTROL";
/// Asks for the path of the cgroup, in which the process is by now.
pub(super) const WHERE: &str = "cgroup";
/// Says that the cgroup is the sub-agent's, or that none was asked for.
pub(super) const GO: &str = "go";
/// How long the command may take to end once the process that started this one is gone.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A file with a token, which is removed when this is dropped.
struct TokenFile {
    path: PathBuf,
    audience: String,
    /// When it has to be replaced.
    due: Instant,
    backoff: Backoff,
}

/// What the command needs, once the process that started this one has delegated the cgroup.
struct Prepared {
    /// The private directory.
    dir: PathBuf,
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    files: Vec<TokenFile>,
    variables: Vec<(OsString, OsString)>,
}

/// Runs the command.
pub(super) async fn run(common: &CommonArgs, arguments: &RunArgs) -> Result<ExitStatus, CliError> {
    let mut signals = Signals::listen().map_err(CliError::local)?;
    let prepared = tokio::select! {
        prepared = prepare(common, arguments) => prepared?,
        signal = signals.next_of_any_origin() => {
            return Ok(ExitStatus::from_raw(signal.map_err(CliError::local)? as i32));
        }
    };
    let Some(Prepared { dir, mut lines, mut writer, files, variables }) = prepared else {
        return Ok(ExitStatus::from_raw(1 << 8));
    };
    let mut child = start(arguments, variables)?;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
    let mut renewals = Box::pin(keep_renewed(common, arguments, files));
    let (mut is_orphaned, mut kill_at) = (false, None);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(CliError::local)? {
            break status;
        }
        tokio::select! {
            event = signals.next() => match event.map_err(CliError::local)? {
                SignalEvent::PassOn(signal) => pass_on(pid, signal),
                // The command has it too.
                SignalEvent::OfTerminal(_) | SignalEvent::Child => {}
            },
            _ = lines.next_line(), if !is_orphaned => {
                is_orphaned = true;
                kill_at = Some(Instant::now() + STOP_TIMEOUT);
                pass_on(pid, Signal::SIGTERM);
            }
            () = until(kill_at) => {
                kill_at = None;
                pass_on(pid, Signal::SIGKILL);
            }
            () = &mut renewals => {}
        }
    };
    drop(renewals);
    if is_orphaned {
        let _ = fs::remove_dir_all(&dir);
    }
    let _ = writer.write_all(format!("{}\n", status.into_raw()).as_bytes()).await;
    Ok(status)
}

/// Names the cgroup, waits until it is delegated, and gets the tokens; `None` if it is not: the process that started this
/// one has said why.
async fn prepare(common: &CommonArgs, arguments: &RunArgs) -> Result<Option<Prepared>, CliError> {
    let control = std::env::var_os(CONTROL_VARIABLE).map(PathBuf::from).ok_or_else(not_started_here)?;
    let dir = control.parent().map(Path::to_owned).ok_or_else(not_started_here)?;
    let stream = UnixStream::connect(&control).await.map_err(CliError::local)?;
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    if lines.next_line().await.map_err(CliError::local)?.as_deref() != Some(WHERE) {
        return Ok(None);
    }
    writer.write_all(format!("{}\n", own_path()?).as_bytes()).await.map_err(CliError::local)?;
    if lines.next_line().await.map_err(CliError::local)?.as_deref() != Some(GO) {
        return Ok(None);
    }
    let mut files = Vec::new();
    for (named, audience) in &arguments.file {
        let (path, due) = (token_path(&dir, named)?, Instant::now());
        let mut file = TokenFile { path, audience: audience.clone(), due, backoff: Backoff::new() };
        file.renew(common, arguments).await?;
        files.push(file);
    }
    let mut variables = vec![(OsString::from(DIR_VARIABLE), dir.clone().into_os_string())];
    for (name, audience) in &arguments.env {
        let (token, _) = request_token(common, arguments, audience).await?;
        variables.push((name.clone(), OsString::from(token)));
    }
    Ok(Some(Prepared { dir, lines, writer, files, variables }))
}

/// Replaces each token when it is due, until this is dropped.
async fn keep_renewed(common: &CommonArgs, arguments: &RunArgs, mut files: Vec<TokenFile>) {
    loop {
        until(files.iter().map(|file| file.due).min()).await;
        let now = Instant::now();
        for file in files.iter_mut().filter(|file| file.due <= now) {
            file.renew_or_retry(common, arguments).await;
        }
    }
}

impl TokenFile {
    async fn renew(&mut self, common: &CommonArgs, arguments: &RunArgs) -> Result<(), CliError> {
        let requested_at = Clock::System.now().as_secs();
        let (token, expires_in) = request_token(common, arguments, &self.audience).await?;
        write_file(&self.path, format!("{token}\n").as_bytes(), 0o600)?;
        let expires_at = Timestamp::from_secs(requested_at.saturating_add(expires_in));
        self.due = Instant::now() + renewal_delay(expires_at, Clock::System.now());
        Ok(())
    }

    /// The command goes on without a new token, with the old one until that expires.
    async fn renew_or_retry(&mut self, common: &CommonArgs, arguments: &RunArgs) {
        match self.renew(common, arguments).await {
            Ok(()) => self.backoff = Backoff::new(),
            Err(error) => {
                note(format_args!("hostbadge: {}: {error}", self.path.display()));
                self.due = Instant::now() + self.backoff.next_delay();
            }
        }
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn request_token(
    common: &CommonArgs,
    arguments: &RunArgs,
    audience: &str,
) -> Result<(String, u64), CliError> {
    // A sub-agent is one agent, whatever its parent matches.
    let agent = arguments.agent.as_deref().filter(|_| arguments.name.is_none());
    let request = TokenRequest {
        audience: Some(audience.into()),
        agent: agent.map(Into::into),
        ..TokenRequest::default()
    };
    let reply = client::post::<TokenResponse<'static>>(&common.socket, "/v1/token", &request).await?;
    Ok((reply.body.access_token.into_owned(), reply.body.expires_in))
}

/// Starts the command, with the terminal.
fn start(arguments: &RunArgs, variables: Vec<(OsString, OsString)>) -> Result<Child, CliError> {
    let (program, words) =
        arguments.command.split_first().ok_or_else(|| CliError::Local("a command is missing".to_owned()))?;
    let mut command = Command::new(program);
    command.args(words).env_remove(CONTROL_VARIABLE).envs(variables);
    arguments.restore(&mut command);
    command
        .spawn()
        .map_err(|e| CliError::Local(format!("{}: {e}", String::from_utf8_lossy(program.as_bytes()))))
}

/// The command may have ended, or be of another user by now.
fn pass_on(pid: Pid, signal: Signal) {
    if let Err(errno) = kill(pid, signal)
        && errno != nix::errno::Errno::ESRCH
    {
        note(format_args!("hostbadge: cannot send {signal} to process {pid}: {}", errno.desc()));
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn not_started_here() -> CliError {
    CliError::Local("--in-cgroup is for hostbadge run itself".to_owned())
}

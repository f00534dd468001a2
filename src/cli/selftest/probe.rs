//! The process that an attack starts: `hostbadge selftest --probe STEPS`, as another user where the attack needs that.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::cmsg_space;
use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, bind, connect as connect_fd, recvmsg, sendmsg,
};
use nix::unistd::{Gid, Uid, alarm, getppid, setgroups, setresgid, setresuid};
use zeroize::Zeroizing;

use super::super::files::random_suffix;
use super::super::output::print_line;
use super::exchange::{IO_TIMEOUT, connect, read_answer, read_to_close, request, unconnected};
use super::step::{Loaded, Report, Step};
use crate::peer::own_received_fd;

/// The program of this process, also where its file has been replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// A process of an attack ends after this time, in seconds, also where it waits for something that does not come. A
/// process that it starts, and a program that it executes, has this time for itself.
const MAX_TIME: u32 = 30;
/// How often a process looks whether its parent has exited, in milliseconds.
const PARENT_INTERVAL: u16 = 20;
/// A credential has at most 1 MiB, and a failure is longer.
const MAX_CREDENTIAL_LEN: usize = 2 * 1024 * 1024;

/// The command that takes steps as `uid`, with the program `program`.
pub(super) fn command(program: &Path, uid: Option<u32>, steps: &[Step]) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.args(["selftest", "--probe"]).arg(serde_json::to_string(steps)?);
    // std removes the supplementary groups of a process whose user is set.
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    Ok(command)
}

/// The same with this program.
pub(super) fn own_command(uid: Option<u32>, steps: &[Step]) -> io::Result<Command> {
    command(Path::new(THIS_PROGRAM), uid, steps)
}

/// Takes the steps. A failure is reported, and ends them.
pub(super) async fn run(steps: &str) {
    // By SIGALRM, since the process that started this one may not be allowed to end it (CAP_KILL).
    alarm::set(MAX_TIME);
    let taken = match serde_json::from_str::<Vec<Step>>(steps) {
        Ok(steps) => take(&steps).await,
        Err(e) => Err(io::Error::other(e).into()),
    };
    if let Err(StepError { error, denied }) = taken {
        // The parent sees that a report is missing.
        let _ = report(&Report::Failed { why: error.to_string(), denied });
    }
}

/// Why a step failed.
struct StepError {
    error: io::Error,
    /// Whether the mode of a socket does not let this user connect.
    denied: bool,
}

impl StepError {
    /// Of a step that connects. EACCES says that the mode denies it; EPERM is of filters of system calls and of
    /// security modules, which say nothing about the host's sockets.
    fn of_connect(error: io::Error) -> StepError {
        StepError { denied: error.raw_os_error() == Some(libc::EACCES), error }
    }
}

impl From<io::Error> for StepError {
    fn from(error: io::Error) -> StepError {
        StepError { error, denied: false }
    }
}

async fn take(steps: &[Step]) -> Result<(), StepError> {
    let mut connection: Option<UnixStream> = None;
    for (index, step) in steps.iter().enumerate() {
        let rest = &steps[index + 1..];
        match step {
            Step::Connect(socket) => connection = Some(connect(socket).map_err(StepError::of_connect)?),
            Step::Request { method, path, body } => {
                report(&Report::Answer(request(opened(&mut connection)?, method, path, body.as_ref())?))?;
            }
            Step::Write(text) => opened(&mut connection)?.write_all(text.as_bytes())?,
            Step::Read => report(&Report::Answer(read_answer(opened(&mut connection)?)?))?,
            Step::BecomeUser(uid) => become_user(*uid)?,
            Step::Execute(program) => {
                let connection = OwnedFd::from(opened(&mut connection)?.try_clone()?);
                return Err(command(program, None, rest)?.stdin(connection).exec().into());
            }
            Step::LeaveTo(uid) => {
                let connection = OwnedFd::from(opened(&mut connection)?.try_clone()?);
                let own_pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
                let mut steps = vec![Step::TakeConnection, Step::AwaitExitOfParent(own_pid)];
                steps.extend_from_slice(rest);
                own_command(Some(*uid), &steps)?.stdin(connection).spawn()?;
                return Ok(());
            }
            Step::TakeConnection => connection = Some(standard_input()?),
            Step::AwaitExitOfParent(pid) => await_exit_of_parent(*pid)?,
            Step::SendConnection => {
                let fd = opened(&mut connection)?.as_raw_fd();
                send_descriptor(&standard_input()?, fd, b"c")?;
            }
            Step::ReceiveConnection => connection = Some(receive_connection(&standard_input()?)?),
            Step::AwaitEnd => drop(io::stdin().read_to_end(&mut Vec::new())?),
            Step::Call { socket, method, message } => {
                let status = call(socket, method, message).await.map_err(StepError::of_connect)?;
                report(&Report::GrpcStatus(status))?;
            }
            Step::LoadCredential { socket, unit, name } => {
                let loaded = load_credential(socket, unit, name).map_err(StepError::of_connect)?;
                report(&Report::Credential(loaded))?;
            }
        }
    }
    Ok(())
}

fn report(report: &Report) -> io::Result<()> {
    print_line(serde_json::to_string(report)?).map_err(|e| io::Error::other(e.to_string()))
}

fn opened(connection: &mut Option<UnixStream>) -> io::Result<&mut UnixStream> {
    connection.as_mut().ok_or_else(|| io::Error::other("no connection is open"))
}

/// Standard input as a socket.
fn standard_input() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    Ok(stream)
}

fn become_user(uid: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    Ok(())
}

fn await_exit_of_parent(parent: i32) -> io::Result<()> {
    let end = Instant::now() + IO_TIMEOUT;
    while getppid().as_raw() == parent {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the process that connected does not exit"));
        }
        poll(&mut [] as &mut [PollFd<'_>], PollTimeout::from(PARENT_INTERVAL))?;
    }
    Ok(())
}

/// Sends `text` with a descriptor attached.
pub(super) fn send_descriptor(over: &UnixStream, descriptor: i32, text: &[u8]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(&[descriptor])];
    sendmsg::<()>(over.as_raw_fd(), &[IoSlice::new(text)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives a connection that another process sends.
pub(super) fn receive_connection(over: &UnixStream) -> io::Result<UnixStream> {
    let mut byte = [0];
    let mut pieces = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(over.as_raw_fd(), &mut pieces, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(descriptor) = descriptors.first()
        {
            let stream = UnixStream::from(own_received_fd(*descriptor));
            stream.set_read_timeout(Some(IO_TIMEOUT))?;
            stream.set_write_timeout(Some(IO_TIMEOUT))?;
            return Ok(stream);
        }
    }
    Err(io::Error::other("the other process sent no connection"))
}

/// The status of a call; that of a stream's first message counts as 0.
async fn call(socket: &Path, method: &str, message: &str) -> io::Result<Option<u16>> {
    let message = HEXLOWER.decode(message.as_bytes()).map_err(io::Error::other)?;
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    let frame = [&[0][..], &length.to_be_bytes(), &message].concat();
    let exchange = async {
        let stream = tokio::net::UnixStream::connect(socket).await?;
        let io = TokioIo::new(stream);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let request = Request::post(format!("http://localhost/SpiffeWorkloadAPI/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("workload.spiffe.io", "true")
            .body(Full::new(Bytes::from(frame)))
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status_of = |headers: &hyper::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        if let Some(status) = status_of(response.headers()) {
            return Ok(Some(status));
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(io::Error::other)?;
            if frame.data_ref().is_some_and(|data| !data.is_empty()) {
                return Ok(Some(0));
            }
            if let Some(trailers) = frame.trailers_ref() {
                return Ok(status_of(trailers));
            }
        }
        Ok(None)
    };
    match tokio::time::timeout(IO_TIMEOUT, exchange).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the call has no answer")),
    }
}

/// What arrives of a credential until the daemon closes the connection.
fn load_credential(path: &Path, unit: &str, name: &str) -> io::Result<Loaded> {
    let address = format!("{}/unit/{unit}/{name}", random_suffix()?);
    let fd = unconnected()?;
    bind(fd.as_raw_fd(), &UnixAddr::new_abstract(address.as_bytes())?)?;
    connect_fd(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let (received, is_closed) =
        read_to_close(&mut UnixStream::from(fd), MAX_CREDENTIAL_LEN, Instant::now() + IO_TIMEOUT);
    let received = Zeroizing::new(received);
    if !is_closed && received.iter().all(|byte| *byte == 0) {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer arrived"));
    }
    Ok(match received.iter().filter(|byte| **byte != 0).count() {
        0 if received.is_empty() => Loaded::Nothing,
        0 => Loaded::Failure,
        count => Loaded::Value(count),
    })
}

/// What a process reported. A step that failed is the last one.
pub(super) fn reports(mut command: Command) -> Result<Vec<Report>, String> {
    let output =
        command.stderr(Stdio::null()).output().map_err(|e| format!("cannot start a process: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).map_err(|e| format!("a report: {e}"))).collect()
}

/// A copy of this program: another executable, that does the same.
pub(super) fn copy_own_program(to: &Path) -> io::Result<()> {
    fs::copy(THIS_PROGRAM, to)?;
    let mut copy = fs::File::options().append(true).open(to)?;
    // Another digest, and the loader ignores what follows the sections.
    copy.write_all(b"\n")
}

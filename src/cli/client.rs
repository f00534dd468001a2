//! One HTTP request over a Unix socket.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::error::CliError;
use crate::wire::error::{ErrorResponse, NO_SUCH_PATH};

/// Largest accepted response, except for evidence.
const MAX_RESPONSE_SIZE: usize = 4 * 1024 * 1024;
/// Evidence contains the host's boot event log and IMA list.
const MAX_EVIDENCE_RESPONSE_SIZE: usize = crate::verify::eat::MAX_EAT_SIZE;
/// How long the daemon may take to accept the connection, in seconds. It is busy or stopped then.
const CONNECT_TIMEOUT_SECS: i64 = 10;
/// The daemon bounds each of its own waits; this bounds their sum.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest path of a socket in bytes (unix(7)); a zero byte follows it.
const MAX_SOCKET_PATH_LEN: usize = 107;
/// What to check if no daemon listens.
const CHECK_DAEMON: &str = "check that hostbadged is running (systemctl status hostbadged)";
/// Paths that the command requests at the agent socket. The others are those of the admin socket.
const AGENT_PATHS: [&str; 11] = [
    "/.well-known/",
    "/tenant/",
    "/v1/attest",
    "/v1/bundle",
    "/v1/certificate",
    "/v1/delegate",
    "/v1/introspect",
    "/v1/nonce",
    "/v1/status-list",
    "/v1/token",
    "/v1/whoami",
];

/// A response: the daemon's JSON, for `--json`, and its typed form.
pub(super) struct Reply<T> {
    pub(super) raw: Box<RawValue>,
    pub(super) body: T,
}

/// Sends `GET path`.
pub(super) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<Reply<T>, CliError> {
    exchange(socket, Method::GET, path, Zeroizing::default(), MAX_RESPONSE_SIZE).await
}

/// Sends `GET path` for a response that is no JSON.
pub(super) async fn get_text(socket: &Path, path: &str) -> Result<String, CliError> {
    let text = send(socket, Method::GET, path, Zeroizing::default(), MAX_RESPONSE_SIZE).await?;
    String::from_utf8(text.into())
        .map_err(|_| CliError::NoDaemon(format!("{}: the response to {path} is not text", socket.display())))
}

/// Sends `POST path` with a JSON body.
pub(super) async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &impl Serialize,
) -> Result<Reply<T>, CliError> {
    exchange(socket, Method::POST, path, to_json(body)?, MAX_RESPONSE_SIZE).await
}

/// Sends `POST path` without a body.
pub(super) async fn post_empty<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<Reply<T>, CliError> {
    exchange(socket, Method::POST, path, Zeroizing::default(), MAX_RESPONSE_SIZE).await
}

/// Sends `POST path` for a response that may be as large as evidence.
pub(super) async fn post_large<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &impl Serialize,
) -> Result<Reply<T>, CliError> {
    exchange(socket, Method::POST, path, to_json(body)?, MAX_EVIDENCE_RESPONSE_SIZE).await
}

fn to_json(body: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let text = serde_json::to_vec(body).map_err(CliError::local)?;
    Ok(Zeroizing::new(text))
}

async fn exchange<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Zeroizing<Vec<u8>>,
    max_size: usize,
) -> Result<Reply<T>, CliError> {
    let text = send(socket, method, path, body, max_size).await?;
    let invalid = |e: serde_json::Error| {
        CliError::NoDaemon(format!("{}: cannot parse the response to {path}: {e}", socket.display()))
    };
    let raw: Box<RawValue> = serde_json::from_slice(&text).map_err(invalid)?;
    let body = serde_json::from_str(raw.get()).map_err(invalid)?;
    Ok(Reply { raw, body })
}

/// The body of a successful response.
async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Zeroizing<Vec<u8>>,
    max_size: usize,
) -> Result<Bytes, CliError> {
    let no_daemon = |e: &dyn std::fmt::Display| CliError::NoDaemon(format!("{}: {e}", socket.display()));
    let stream = connect(socket).map_err(|e| connect_error(socket, &e))?;
    let round_trip = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| no_daemon(&e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(&body)))
            .map_err(|e| no_daemon(&e))?;
        let response = sender.send_request(request).await.map_err(|e| match e.is_parse() {
            true => no_daemon(
                &"the response is not HTTP/1.1; if this is the workload socket, it serves gRPC to SPIFFE clients",
            ),
            false => no_daemon(&e),
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max_size).collect().await.map_err(|e| no_daemon(&e))?;
        Ok((status, body.to_bytes()))
    };
    let (status, text) = match tokio::time::timeout(REQUEST_TIMEOUT, round_trip).await {
        Ok(result) => result?,
        Err(_) => return Err(no_daemon(&"no response within 30 s")),
    };
    if status.is_success() {
        return Ok(text);
    }
    let error: ErrorResponse = serde_json::from_slice(&text).map_err(|_| {
        no_daemon(&format!("the response to {path} is HTTP status {status} without a description"))
    })?;
    if status == StatusCode::NOT_FOUND && error.error_description == NO_SUCH_PATH {
        return Err(CliError::Refused(Box::new(ErrorResponse::new(error.error, wrong_socket(socket, path)))));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return Err(CliError::Unavailable(Box::new(error)));
    }
    Err(CliError::Refused(Box::new(error)))
}

/// Connects, and waits while the socket's backlog is full. A connect(2) that does not block fails with EAGAIN
/// then, so this one blocks, with the timeout of SO_SNDTIMEO (unix(7)); the command does nothing else.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(CONNECT_TIMEOUT_SECS))?;
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(socket)?)?;
    let stream = StdStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Names what is wrong with the socket: nothing there, something else, or a socket on which no process
/// listens.
fn connect_error(socket: &Path, error: &io::Error) -> CliError {
    let path = socket.display();
    let is_other_file = fs::metadata(socket).is_ok_and(|found| !found.file_type().is_socket());
    let reason = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            return CliError::Local(format!(
                "{path}: permission denied: this user may not connect; the admin socket is for root and members of \
                 the admin group, metrics.sock also for those of the metrics group"
            ));
        }
        _ if socket.as_os_str().len() > MAX_SOCKET_PATH_LEN => {
            format!("the path is too long for a socket, which may have {MAX_SOCKET_PATH_LEN} bytes")
        }
        _ if is_other_file => "this is not a socket".to_owned(),
        io::ErrorKind::NotFound => format!("there is no socket here; {CHECK_DAEMON}, and the path"),
        io::ErrorKind::ConnectionRefused => format!("no process listens on the socket; {CHECK_DAEMON}"),
        io::ErrorKind::WouldBlock => format!(
            "the daemon has not accepted the connection within {CONNECT_TIMEOUT_SECS} s; check that hostbadged \
             responds (systemctl status hostbadged)"
        ),
        _ => error.to_string(),
    };
    CliError::NoDaemon(format!("{path}: {reason}"))
}

/// Each socket has requests of its own. A daemon of another release may also lack one.
fn wrong_socket(socket: &Path, path: &str) -> String {
    let is_for_agents = AGENT_PATHS.iter().any(|prefix| path.starts_with(prefix));
    let (name, option) = match is_for_agents {
        true => ("agent socket", "--socket or HOSTBADGE_SOCKET"),
        false => ("admin socket", "--admin-socket or HOSTBADGE_ADMIN_SOCKET"),
    };
    let socket = socket.display();
    format!("{socket} does not serve {path}; if this is another socket, name the {name} with {option}")
}

//! One HTTP request over a Unix socket.

use std::io;
use std::os::fd::AsRawFd;
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
use crate::wire::error::ErrorResponse;

/// Largest accepted response, except for evidence.
const MAX_RESPONSE_SIZE: usize = 4 * 1024 * 1024;
/// Evidence contains the host's boot event log and IMA list.
const MAX_EVIDENCE_RESPONSE_SIZE: usize = crate::verify::eat::MAX_EAT_SIZE;
/// How long the daemon may take to accept the connection, in seconds. It is busy or stopped then.
const CONNECT_TIMEOUT_SECS: i64 = 10;
/// The daemon bounds each of its own waits; this bounds their sum.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A response: the daemon's JSON, for `--json`, and its typed form.
pub(super) struct Reply<T> {
    pub(super) raw: Box<RawValue>,
    pub(super) body: T,
}

/// Sends `GET path`.
pub(super) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<Reply<T>, CliError> {
    exchange(socket, Method::GET, path, Zeroizing::default(), MAX_RESPONSE_SIZE).await
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
        let response = sender.send_request(request).await.map_err(|e| no_daemon(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max_size).collect().await.map_err(|e| no_daemon(&e))?;
        Ok((status, body.to_bytes()))
    };
    let (status, text) = match tokio::time::timeout(REQUEST_TIMEOUT, round_trip).await {
        Ok(result) => result?,
        Err(_) => return Err(no_daemon(&"no response within 30 s")),
    };
    if status.is_success() {
        let invalid = |e: serde_json::Error| no_daemon(&format!("cannot parse the response to {path}: {e}"));
        let raw: Box<RawValue> = serde_json::from_slice(&text).map_err(invalid)?;
        let body = serde_json::from_str(raw.get()).map_err(invalid)?;
        return Ok(Reply { raw, body });
    }
    let error: ErrorResponse = serde_json::from_slice(&text).map_err(|_| {
        no_daemon(&format!("the response to {path} is HTTP status {status} without a description"))
    })?;
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

fn connect_error(socket: &Path, error: &io::Error) -> CliError {
    let path = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => CliError::NoDaemon(format!(
            "{path}: the socket does not exist; check that hostbadged is running \
             (systemctl status hostbadged)"
        )),
        io::ErrorKind::ConnectionRefused => CliError::NoDaemon(format!(
            "{path}: no process listens on the socket; check that hostbadged is running \
             (systemctl status hostbadged)"
        )),
        io::ErrorKind::WouldBlock => CliError::NoDaemon(format!(
            "{path}: the daemon has not accepted the connection within {CONNECT_TIMEOUT_SECS} s; \
             check that hostbadged responds (systemctl status hostbadged)"
        )),
        io::ErrorKind::PermissionDenied => CliError::Local(format!(
            "{path}: permission denied; the admin socket is for root and members of the admin group"
        )),
        _ => CliError::NoDaemon(format!("{path}: {error}")),
    }
}

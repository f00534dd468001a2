//! One request over a Unix socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::CliError;

/// Largest answer taken, but for evidence.
const MAX_RESPONSE_SIZE: usize = 4 * 1024 * 1024;
/// Evidence has the host's logs in it.
const MAX_EVIDENCE_RESPONSE_SIZE: usize = crate::verify::eat::MAX_EAT_SIZE;
/// The daemon bounds each of its own waits; this bounds their sum.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// `GET path`.
pub async fn get(socket: &Path, path: &str) -> Result<Value, CliError> {
    exchange(socket, Method::GET, path, None, MAX_RESPONSE_SIZE).await
}

/// `POST path` with a JSON body.
pub async fn post(socket: &Path, path: &str, body: &Value) -> Result<Value, CliError> {
    exchange(socket, Method::POST, path, Some(body), MAX_RESPONSE_SIZE).await
}

/// The same for an answer that may be large.
pub async fn post_large(socket: &Path, path: &str, body: &Value) -> Result<Value, CliError> {
    exchange(socket, Method::POST, path, Some(body), MAX_EVIDENCE_RESPONSE_SIZE).await
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
    max_size: usize,
) -> Result<Value, CliError> {
    let stream = UnixStream::connect(socket).await.map_err(|e| connect_error(socket, &e))?;
    let no_daemon = |e: &dyn std::fmt::Display| CliError::NoDaemon(format!("{}: {e}", socket.display()));
    let round_trip = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| no_daemon(&e))?;
        tokio::spawn(connection);
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text)))
            .map_err(|e| no_daemon(&e))?;
        let response = sender.send_request(request).await.map_err(|e| no_daemon(&e))?;
        let status = response.status();
        let text = Limited::new(response.into_body(), max_size)
            .collect()
            .await
            .map_err(|e| no_daemon(&e))?
            .to_bytes();
        let value =
            serde_json::from_slice(&text).map_err(|e| no_daemon(&format!("the answer is not JSON: {e}")))?;
        Ok((status, value))
    };
    let (status, value) = match tokio::time::timeout(REQUEST_TIMEOUT, round_trip).await {
        Ok(result) => result?,
        Err(_) => return Err(CliError::NoDaemon(format!("{}: no answer within 30 s", socket.display()))),
    };
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Err(CliError::Unavailable(value)),
        status if status.is_success() => Ok(value),
        _ => Err(CliError::Refused(value)),
    }
}

fn connect_error(socket: &Path, error: &io::Error) -> CliError {
    let path = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => CliError::NoDaemon(format!(
            "{path}: there is no socket; is hostbadged running? (systemctl status hostbadged)"
        )),
        io::ErrorKind::ConnectionRefused => CliError::NoDaemon(format!(
            "{path}: nobody listens; is hostbadged running? (systemctl status hostbadged)"
        )),
        io::ErrorKind::PermissionDenied => CliError::Local(format!(
            "{path}: this user may not open the socket; the admin socket is for root and the admin group"
        )),
        _ => CliError::NoDaemon(format!("{path}: {error}")),
    }
}

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

use super::Failure;

/// Largest answer taken, but for evidence.
const MOST: usize = 4 * 1024 * 1024;
/// Evidence has the host's logs in it.
const MUCH: usize = crate::verify::eat::LARGEST;
/// The daemon bounds each of its own waits; this bounds their sum.
const PATIENCE: Duration = Duration::from_secs(30);

/// `GET path`.
pub async fn get(socket: &Path, path: &str) -> Result<Value, Failure> {
    exchange(socket, Method::GET, path, None, MOST).await
}

/// `POST path` with a JSON body.
pub async fn post(socket: &Path, path: &str, body: &Value) -> Result<Value, Failure> {
    exchange(socket, Method::POST, path, Some(body), MOST).await
}

/// The same for an answer that may be large.
pub async fn post_for_much(socket: &Path, path: &str, body: &Value) -> Result<Value, Failure> {
    exchange(socket, Method::POST, path, Some(body), MUCH).await
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
    most: usize,
) -> Result<Value, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|e| unreachable_socket(socket, &e))?;
    let broken = |e: &dyn std::fmt::Display| Failure::NoDaemon(format!("{}: {e}", socket.display()));
    let talk = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        tokio::spawn(connection);
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text)))
            .map_err(|e| broken(&e))?;
        let reply = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = reply.status();
        let text = Limited::new(reply.into_body(), most).collect().await.map_err(|e| broken(&e))?.to_bytes();
        let value =
            serde_json::from_slice(&text).map_err(|e| broken(&format!("the answer is not JSON: {e}")))?;
        Ok((status, value))
    };
    let (status, value) = match tokio::time::timeout(PATIENCE, talk).await {
        Ok(done) => done?,
        Err(_) => return Err(Failure::NoDaemon(format!("{}: no answer within 30 s", socket.display()))),
    };
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Err(Failure::NotNow(value)),
        status if status.is_success() => Ok(value),
        _ => Err(Failure::Refused(value)),
    }
}

fn unreachable_socket(socket: &Path, error: &io::Error) -> Failure {
    let path = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NoDaemon(format!(
            "{path}: there is no socket; is hostbadged running? (systemctl status hostbadged)"
        )),
        io::ErrorKind::ConnectionRefused => Failure::NoDaemon(format!(
            "{path}: nobody listens; is hostbadged running? (systemctl status hostbadged)"
        )),
        io::ErrorKind::PermissionDenied => Failure::Local(format!(
            "{path}: this user may not open the socket; the admin socket is for root and the admin group"
        )),
        _ => Failure::NoDaemon(format!("{path}: {error}")),
    }
}

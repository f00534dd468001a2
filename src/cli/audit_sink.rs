//! Where an export goes: standard output, a file, or a collector at a Unix socket.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::fcntl::OFlag;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::audit_output::cut_half_line;
use super::error::CliError;
use super::files::file_error;
use super::output::{note, print_bytes};
use crate::config::escape_unprintable;

/// How long a collector may take to accept and answer one batch.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest response of a collector that is read, in bytes.
const MAX_RESPONSE: usize = 64 * 1024;

/// An open destination.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    File(PathBuf, File),
    /// A collector, and the number of records that it rejected.
    Collector(PathBuf, u64),
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Delivery {
    /// It is written, or the collector has it.
    Done,
    /// It can be delivered later.
    Later(String),
}

/// The part of an ExportLogsServiceResponse that says what was rejected. A number of 64 bits may be a text.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ExportResponse {
    partial_success: Option<PartialSuccess>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    rejected_log_records: serde_json::Value,
    error_message: String,
}

impl Sink {
    /// Opens the destination; standard output without one.
    pub(super) fn open(collector: Option<&Path>, file: Option<&Path>) -> Result<Sink, CliError> {
        match (collector, file) {
            (Some(socket), _) => Ok(Sink::Collector(socket.to_owned(), 0)),
            (None, Some(path)) if path != Path::new("-") => {
                let options = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .custom_flags(OFlag::O_NOFOLLOW.bits())
                    .open(path);
                Ok(Sink::File(path.to_owned(), options.map_err(|e| file_error(path, &e))?))
            }
            _ => Ok(Sink::Stdout),
        }
    }

    /// Delivers one batch. It is on disk, or a collector has it, when this returns [`Delivery::Done`].
    ///
    /// # Errors
    /// The batch cannot be delivered later either.
    pub(super) async fn deliver(&mut self, text: &[u8]) -> Result<Delivery, CliError> {
        match self {
            Sink::Stdout => print_bytes(text).map(|()| Delivery::Done),
            Sink::File(path, file) => {
                append(file, text).map_err(|e| file_error(path, &e))?;
                Ok(Delivery::Done)
            }
            Sink::Collector(socket, rejected) => {
                let answer = tokio::time::timeout(DELIVERY_TIMEOUT, post(socket, text)).await;
                let (status, body) = match answer {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(problem)) => {
                        return Ok(Delivery::Later(format!("{}: {problem}", socket.display())));
                    }
                    Err(_) => {
                        let problem = format!("{}: no answer within 10 s", socket.display());
                        return Ok(Delivery::Later(problem));
                    }
                };
                let delivery = judge(status, &body, rejected);
                delivery.map_err(|problem| CliError::Local(format!("{}: {problem}", socket.display())))
            }
        }
    }

    /// Cuts half a line that a power loss has left at the end of a file, and returns the last whole line there. Other
    /// destinations have none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn last_line(&self) -> Result<Option<String>, CliError> {
        let Sink::File(path, file) = self else { return Ok(None) };
        let (cut, last) = cut_half_line(path, file).map_err(|e| file_error(path, &e))?;
        if cut > 0 {
            note(format_args!(
                "hostbadge: {}: removed {cut} bytes of a line that was not written completely; it is written again",
                path.display()
            ));
        }
        Ok(last)
    }

    /// The exit status of a complete export: 1 where a collector rejected records.
    pub(super) fn finish(&self) -> Result<ExitCode, CliError> {
        match self {
            Sink::Collector(_, rejected) if *rejected > 0 => Ok(ExitCode::FAILURE),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

/// Appends all or nothing, and waits for the disk.
fn append(file: &mut File, text: &[u8]) -> io::Result<()> {
    let metadata = file.metadata()?;
    if let Err(e) = file.write_all(text) {
        if metadata.is_file() {
            let _ = file.set_len(metadata.len());
        }
        return Err(e);
    }
    // A FIFO or a character device cannot be synced.
    if metadata.is_file() { file.sync_data() } else { Ok(()) }
}

/// What an answer of a collector means (OTLP specification, "OTLP/HTTP Response").
fn judge(status: StatusCode, body: &[u8], rejected: &mut u64) -> Result<Delivery, String> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    match status {
        StatusCode::OK => {
            // An answer that is no JSON is one of a collector that answers in protobuf; it has the records.
            let response: ExportResponse = crate::json::from_object(body).unwrap_or_default();
            let Some(partial) = response.partial_success else { return Ok(Delivery::Done) };
            let value = &partial.rejected_log_records;
            let count = value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default();
            if count > 0 {
                *rejected += count;
                note(format_args!(
                    "hostbadge: the collector rejected {count} records: {}",
                    escape_unprintable(&partial.error_message)
                ));
            }
            Ok(Delivery::Done)
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Ok(Delivery::Later(format!("status {status}: {text:.200}"))),
        status => Err(format!("the collector refuses the records with status {status}: {text:.200}")),
    }
}

/// Sends one batch as OTLP/HTTP in JSON.
async fn post(socket: &Path, text: &[u8]) -> Result<(StatusCode, Bytes), String> {
    let stream = UnixStream::connect(socket).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let exchange = async {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/logs")
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(text)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
    };
    let guard = AbortOnDrop(connection);
    let result = exchange.await;
    drop(guard);
    result
}

/// Ends the connection's task, also where the answer is no longer waited for.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> (Result<Delivery, String>, u64) {
        let mut rejected = 0;
        let delivery = judge(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &mut rejected);
        (delivery, rejected)
    }

    #[test]
    fn answers_are_judged_as_the_protocol_says() {
        for body in [
            "{}",
            "",
            "{\"partialSuccess\":{}}",
            "\u{1}binary",
            "{\"partialSuccess\":{\"rejectedLogRecords\":\"0\"}}",
        ] {
            assert!(matches!(judged(200, body), (Ok(Delivery::Done), 0)), "{body}");
        }
        for count in ["3", "\"3\""] {
            let body =
                format!("{{\"partialSuccess\":{{\"rejectedLogRecords\":{count},\"errorMessage\":\"x\"}}}}");
            assert!(matches!(judged(200, &body), (Ok(Delivery::Done), 3)), "{body}");
        }
        for status in [429, 502, 503, 504] {
            assert!(matches!(judged(status, ""), (Ok(Delivery::Later(_)), 0)), "{status}");
        }
        for status in [201, 400, 401, 404, 413, 500] {
            assert!(matches!(judged(status, "\u{1b}"), (Err(_), 0)), "{status}");
        }
    }
}

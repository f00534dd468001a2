//! HTTP/1.1 over a Unix socket, byte by byte: hyper's client would send no request that an attack needs.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long the daemon may take for one read or write. It bounds each of its own waits.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest accepted head of a response.
const MAX_HEAD_LEN: usize = 32 * 1024;
/// Largest accepted body: evidence has the boot event log and the IMA list.
const MAX_BODY_LEN: usize = crate::verify::eat::MAX_EAT_SIZE;

/// A response.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `null` where the body is not JSON.
    pub(super) body: Value,
}

impl Answer {
    /// The error code of a refusal; empty where there is none.
    pub(super) fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }

    /// Status and error code, for a detail.
    pub(super) fn summary(&self) -> String {
        format!("{} {}", self.status, self.error()).trim_end().to_owned()
    }

    /// Why nothing follows from this answer: the daemon limits the caller's rate, or cannot answer now.
    pub(super) fn says_nothing(&self) -> Option<String> {
        matches!(self.status, 429 | 500 | 503).then(|| format!("the daemon answered {}", self.summary()))
    }
}

pub(super) fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    Ok(stream)
}

/// Sends one request and reads its answer.
pub(super) fn request(
    stream: &mut UnixStream,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> io::Result<Answer> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    // At once: the daemon answers some requests before it has read their body, and then closes the connection.
    let written = stream.write_all(format!("{head}{body}").as_bytes());
    read_answer(stream).map_err(|e| written.err().unwrap_or(e))
}

/// Sends one request on a new connection.
pub(super) fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
    request(&mut connect(socket)?, method, path, body)
}

/// Reads one answer, and not a byte of the next.
pub(super) fn read_answer(stream: &mut UnixStream) -> io::Result<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > MAX_HEAD_LEN {
            return Err(invalid("a response with a head of more than 32 KiB"));
        }
    }
    let head = String::from_utf8(head).map_err(|_| invalid("a response whose head is not text"))?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| invalid("a response that is not HTTP/1.1"))?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| invalid("a response without a length"))?;
    if length > MAX_BODY_LEN {
        return Err(invalid("a response that is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() })
}

/// Everything that the other end sends until it closes the connection, at most `max_len` bytes. The second value says
/// whether it has closed it.
pub(super) fn read_to_close(stream: &mut UnixStream, max_len: usize) -> (Vec<u8>, bool) {
    let mut received = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (received, true),
            Ok(count) => received.extend_from_slice(&piece[..count]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (received, e.kind() != io::ErrorKind::WouldBlock),
        }
        if received.len() > max_len {
            return (received, false);
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

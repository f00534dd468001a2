//! HTTP/1.1 over a Unix socket, byte by byte: hyper's client would send no request that an attack needs.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long the daemon may take for one connection, one request and one answer, each as a whole. It bounds each of its
/// own waits.
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
    let fd = unconnected()?;
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(socket)?)?;
    Ok(UnixStream::from(fd))
}

/// A socket whose reads, writes and connection end after [`IO_TIMEOUT`]: a connect(2) waits while the queue of the
/// other end is full, for at most SO_SNDTIMEO (unix(7)).
pub(super) fn unconnected() -> io::Result<OwnedFd> {
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = TimeVal::seconds(IO_TIMEOUT.as_secs().cast_signed());
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
    Ok(fd)
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
    let end = Instant::now() + IO_TIMEOUT;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        read_exact(stream, &mut byte, end)?;
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
    read_exact(stream, &mut body, end)?;
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() })
}

/// Everything that the other end sends until it closes the connection, at most `max_len` bytes and until `end`. The
/// second value says whether it has closed it.
pub(super) fn read_to_close(stream: &mut UnixStream, max_len: usize, end: Instant) -> (Vec<u8>, bool) {
    let mut received = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match read(stream, &mut piece, end) {
            Ok(0) => return (received, true),
            Ok(count) => received.extend_from_slice(&piece[..count]),
            Err(e) => return (received, e.kind() != io::ErrorKind::TimedOut),
        }
        if received.len() > max_len {
            return (received, false);
        }
    }
}

/// Fills the buffer, until `end`.
pub(super) fn read_exact(stream: &mut UnixStream, mut buffer: &mut [u8], end: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        match read(stream, buffer, end)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => buffer = &mut buffer[count..],
        }
    }
    Ok(())
}

/// One read, until `end`: an answer that arrives byte by byte does not take longer than another.
fn read(stream: &mut UnixStream, buffer: &mut [u8], end: Instant) -> io::Result<usize> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no whole answer arrived in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            result => return result,
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_does_not_arrive_is_no_closed_connection() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let (past, later) = (Instant::now(), Instant::now() + IO_TIMEOUT);
        assert_eq!(read_to_close(&mut ours, 9, past), (Vec::new(), false));
        assert_eq!(read_exact(&mut ours, &mut [0], past).unwrap_err().kind(), io::ErrorKind::TimedOut);
        theirs.write_all(b"b").unwrap();
        drop(theirs);
        assert_eq!(read_to_close(&mut ours, 9, later), (b"b".to_vec(), true));
        assert_eq!(read_exact(&mut ours, &mut [0], later).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

//! Requests whose end can be read in two ways, with another request behind them; and calls with forbidden fields.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::attempts::{Attempts, Outcome};
use super::context::Context;
use super::exchange::{IO_TIMEOUT, connect, read_exact, read_to_close};

/// The request that no attempt may get an answer to, and what an answer to it has.
const HIDDEN: &str = "GET /v1/health HTTP/1.1\r\nhost: l\r\n\r\n";
const HIDDEN_ANSWER: &str = "\"posture\"";
/// The rest of the head of a request to `POST /v1/token`, and what is ambiguous in it.
const SHAPES: [(&str, &str); 14] = [
    (
        "Content-Length and Transfer-Encoding",
        "content-length: 40\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two lengths", "content-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
    ("a list of lengths", "content-length: 5, 5\r\n\r\nhello"),
    ("a length with a sign", "content-length: +5\r\n\r\nhello"),
    ("a length of 23 digits", "content-length: 99999999999999999999999\r\n\r\nhello"),
    ("another transfer coding", "transfer-encoding: gzip\r\n\r\nhello"),
    ("two transfer codings", "transfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n"),
    ("a chunk of no length", "transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
    ("a chunk that ends in a bare LF", "transfer-encoding: chunked\r\n\r\n5\nhello\n0\n\n"),
    ("a bare CR in a field", "x: a\rcontent-length: 5\r\n\r\nhello"),
    ("a space before the colon", "content-length : 5\r\n\r\nhello"),
    ("a folded field", "x: a\r\n b\r\ncontent-length: 5\r\n\r\nhello"),
    ("a zero byte in a field", "x: a\0b\r\n\r\n"),
    ("two hosts", "host: m\r\n\r\n"),
];
/// How long the daemon may take to close the connection by itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes that are read of one connection.
const MAX_RECEIVED: usize = 256 * 1024;

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The fields of a call of the health service, which answers every caller.
const CALL: [(&str, &str); 6] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/grpc.health.v1.Health/Check"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
];
/// Fields that are added to a call, and why it is malformed then (RFC 9113 section 8.2 and 8.3).
const FORBIDDEN_FIELDS: [(&str, (&str, &str)); 8] = [
    ("a second :path", (":path", "/grpc.health.v1.Health/Watch")),
    ("a pseudo-header that does not exist", (":smuggled", "x")),
    ("the pseudo-header of a response", (":status", "200")),
    ("a field name in upper case", ("X-Smuggled", "x")),
    ("Connection", ("connection", "keep-alive")),
    ("Transfer-Encoding", ("transfer-encoding", "chunked")),
    ("a line break in a field", ("x", "a\r\nb: c")),
    ("another length than that of the body", ("content-length", "99")),
];

pub(super) fn run(context: &Context, attempts: &mut Attempts) {
    over_http1(&context.agent_socket, attempts);
    if context.workload_socket.exists() {
        over_http2(&context.workload_socket, attempts);
    } else {
        attempts.skipped("HTTP/2", format!("there is no {}", context.workload_socket.display()));
    }
}

fn over_http1(socket: &Path, attempts: &mut Attempts) {
    // Two requests of which each ends where it says: the second answer has to be there, or nothing would be seen.
    match send(socket, format!("{HIDDEN}{HIDDEN}").as_bytes()) {
        Err(e) => return attempts.skipped("HTTP/1.1", e.to_string()),
        Ok(received) if received.matches(HIDDEN_ANSWER).count() != 2 => {
            return attempts.skipped("HTTP/1.1", "two requests at once are not answered");
        }
        Ok(_) => {}
    }
    for (what, rest) in SHAPES {
        if !attempts.has_time(what) {
            continue;
        }
        let bytes = format!("POST /v1/token HTTP/1.1\r\nhost: l\r\n{rest}{HIDDEN}");
        match send(socket, bytes.as_bytes()) {
            Err(e) => attempts.skipped(what, e.to_string()),
            Ok(received) => {
                let (outcome, detail) = judge_received(&received);
                attempts.add(what, outcome, detail);
            }
        }
    }
}

/// One refusal at most is an answer to the request itself, and not to the hidden one.
fn judge_received(received: &str) -> (Outcome, String) {
    let Some(status) = received.get(9..12) else { return (Outcome::Skipped, "no answer arrived".to_owned()) };
    let count = received.matches("HTTP/1.1 ").count();
    if matches!(status, "429" | "500" | "503") && count == 1 {
        return (Outcome::Skipped, format!("the daemon answered {status}"));
    }
    if received.starts_with("HTTP/1.1 4") && count == 1 && !received.contains(HIDDEN_ANSWER) {
        return (Outcome::Held, status.to_owned());
    }
    (Outcome::Hole, format!("{count} answers, the first {status}"))
}

/// What the daemon sends until it closes the connection, or this end says that no request follows.
fn send(socket: &Path, bytes: &[u8]) -> io::Result<String> {
    let mut stream = connect(socket)?;
    // The daemon may close the connection before it has read everything.
    let _ = stream.write_all(bytes);
    let (mut received, is_closed) = read_to_close(&mut stream, MAX_RECEIVED, Instant::now() + CLOSE_TIMEOUT);
    if !is_closed {
        stream.shutdown(Shutdown::Write)?;
        received.extend(read_to_close(&mut stream, MAX_RECEIVED, Instant::now() + IO_TIMEOUT).0);
    }
    Ok(String::from_utf8_lossy(&received).into_owned())
}

fn over_http2(socket: &Path, attempts: &mut Attempts) {
    match call(socket, &CALL) {
        Err(e) => return attempts.skipped("HTTP/2", e.to_string()),
        Ok(CallEnd::Answered) => {}
        Ok(CallEnd::Refused | CallEnd::Closed) => {
            return attempts.skipped("HTTP/2", "a regular call of the health service is not answered");
        }
    }
    for (what, field) in FORBIDDEN_FIELDS {
        judge_call(socket, attempts, what, &[&CALL[..], &[field]].concat());
    }
    let mut late = CALL.to_vec();
    late.swap(2, 5);
    judge_call(socket, attempts, "a pseudo-header after a field", &late);
    let without: Vec<_> = CALL.into_iter().filter(|(name, _)| *name != ":path").collect();
    judge_call(socket, attempts, "no :path", &without);
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallEnd {
    /// With a message.
    Answered,
    /// With an error of the stream or of the connection, or with a status alone.
    Refused,
    /// With the end of the connection, and no frame that says why.
    Closed,
}

fn judge_call(socket: &Path, attempts: &mut Attempts, what: &str, fields: &[(&str, &str)]) {
    let attempt = format!("HTTP/2: {what}");
    if !attempts.has_time(&attempt) {
        return;
    }
    match call(socket, fields) {
        Err(e) => attempts.skipped(attempt, e.to_string()),
        Ok(CallEnd::Answered) => attempts.judge(attempt, false, "the call is answered"),
        Ok(CallEnd::Refused) => attempts.judge(attempt, true, "the call is refused"),
        // A daemon that ended closes its connections too.
        Ok(CallEnd::Closed) => match call(socket, &CALL) {
            Ok(CallEnd::Answered) => {
                attempts.judge(attempt, true, "the connection is closed, and another one is served");
            }
            _ => attempts.skipped(attempt, "the connection is closed, and another one is not served"),
        },
    }
}

/// Calls with these fields and an empty message. Fails where the daemon neither answers nor closes the connection.
fn call(socket: &Path, fields: &[(&str, &str)]) -> io::Result<CallEnd> {
    let mut stream = connect(socket)?;
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &block));
    bytes.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
    // The daemon may close the connection before it has read everything.
    let _ = stream.write_all(&bytes);
    call_end(&mut stream, Instant::now() + IO_TIMEOUT)
}

fn call_end(stream: &mut UnixStream, end: Instant) -> io::Result<CallEnd> {
    let mut total = 0;
    while total < MAX_RECEIVED {
        let (kind, flags, stream_id, payload) = match read_frame(stream, end) {
            Ok(frame) => frame,
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return Ok(CallEnd::Closed);
            }
            Err(e) => return Err(e),
        };
        total += payload + 9;
        match kind {
            DATA if stream_id == 1 && payload > 0 => return Ok(CallEnd::Answered),
            RST_STREAM | GOAWAY => return Ok(CallEnd::Refused),
            HEADERS | DATA if flags & END_STREAM != 0 => return Ok(CallEnd::Refused),
            _ => {}
        }
    }
    Err(io::Error::other("more frames than an answer has"))
}

/// Type, flags, stream and length of the next frame, whose payload is passed over.
fn read_frame(stream: &mut UnixStream, end: Instant) -> io::Result<(u8, u8, u32, usize)> {
    let mut head = [0; 9];
    read_exact(stream, &mut head, end)?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > MAX_RECEIVED {
        return Err(io::Error::other("a frame that is too long"));
    }
    read_exact(stream, &mut vec![0; length], end)?;
    Ok((kind, flags, u32::from_be_bytes(id) & (u32::MAX >> 1), length))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field without indexing (RFC 7541 section 6.2.2); name and value have less than 127 bytes.
fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_alone_is_held_and_no_answer_shows_nothing() {
        let hidden = format!("HTTP/1.1 200 OK\r\n\r\n{{{HIDDEN_ANSWER}: \"ok\"}}");
        for (received, outcome) in [
            ("HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(), Outcome::Held),
            (format!("HTTP/1.1 400 Bad Request\r\n\r\n{hidden}"), Outcome::Hole),
            (hidden, Outcome::Hole),
            (String::new(), Outcome::Skipped),
            ("HTTP/1.1 429 Too Many Requests\r\n\r\n".to_owned(), Outcome::Skipped),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n".to_owned(), Outcome::Skipped),
        ] {
            assert_eq!(judge_received(&received).0, outcome, "{received}");
        }
    }

    #[test]
    fn without_time_nothing_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let mut attempts = Attempts::without_time();
        judge_call(&dir.path().join("none.sock"), &mut attempts, "no :path", &CALL);
        let attempts = attempts.into_list();
        assert_eq!(attempts[0].result, Outcome::Skipped);
        assert!(attempts[0].detail.contains("120 s"), "{}", attempts[0].detail);
    }

    #[test]
    fn a_call_without_an_answer_is_not_refused() {
        let later = || Instant::now() + IO_TIMEOUT;
        let ends = |bytes: &[u8]| {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&[&frame(SETTINGS, 0, 0, &[])[..], bytes].concat()).unwrap();
            drop(theirs);
            call_end(&mut ours, later()).unwrap()
        };
        assert_eq!(ends(&frame(DATA, 0, 1, &[0; 5])), CallEnd::Answered);
        assert_eq!(ends(&frame(RST_STREAM, 0, 1, &[0; 4])), CallEnd::Refused);
        assert_eq!(ends(&frame(GOAWAY, 0, 0, &[0; 8])), CallEnd::Refused);
        assert_eq!(ends(&frame(HEADERS, END_STREAM, 1, &[0])), CallEnd::Refused);
        assert_eq!(ends(&[]), CallEnd::Closed);
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(call_end(&mut ours, Instant::now()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}

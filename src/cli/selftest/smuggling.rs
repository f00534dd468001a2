//! Requests whose end can be read in two ways, with another request behind them; and calls with forbidden fields.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::attempts::Attempts;
use super::context::Context;
use super::exchange::{IO_TIMEOUT, connect, read_to_close};

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
        let bytes = format!("POST /v1/token HTTP/1.1\r\nhost: l\r\n{rest}{HIDDEN}");
        match send(socket, bytes.as_bytes()) {
            Err(e) => attempts.skipped(what, e.to_string()),
            Ok(received) => {
                let count = received.matches("HTTP/1.1 ").count();
                let is_refused = received.is_empty() || received.starts_with("HTTP/1.1 4");
                let withstood = is_refused && count <= 1 && !received.contains(HIDDEN_ANSWER);
                let status = received.get(9..12).unwrap_or("no answer").to_owned();
                let detail = if withstood { status } else { format!("{count} answers, the first {status}") };
                attempts.judge(what, withstood, detail);
            }
        }
    }
}

/// What the daemon sends until it closes the connection, or this end says that no request follows.
fn send(socket: &Path, bytes: &[u8]) -> io::Result<String> {
    let mut stream = connect(socket)?;
    // The daemon may close the connection before it has read everything.
    let _ = stream.write_all(bytes);
    stream.set_read_timeout(Some(CLOSE_TIMEOUT))?;
    let (mut received, is_closed) = read_to_close(&mut stream, MAX_RECEIVED);
    if !is_closed {
        stream.shutdown(Shutdown::Write)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        received.extend(read_to_close(&mut stream, MAX_RECEIVED).0);
    }
    Ok(String::from_utf8_lossy(&received).into_owned())
}

fn over_http2(socket: &Path, attempts: &mut Attempts) {
    match is_answered(socket, &CALL) {
        Err(e) => return attempts.skipped("HTTP/2", e.to_string()),
        Ok(false) => {
            return attempts.skipped("HTTP/2", "a regular call of the health service is not answered");
        }
        Ok(true) => {}
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

fn judge_call(socket: &Path, attempts: &mut Attempts, what: &str, fields: &[(&str, &str)]) {
    let attempt = format!("HTTP/2: {what}");
    match is_answered(socket, fields) {
        Err(e) => attempts.skipped(attempt, e.to_string()),
        Ok(answered) => {
            let detail = if answered { "the call is answered" } else { "the call is refused" };
            attempts.judge(attempt, !answered, detail);
        }
    }
}

/// Whether a call with these fields and an empty message gets a message back.
fn is_answered(socket: &Path, fields: &[(&str, &str)]) -> io::Result<bool> {
    let mut stream = connect(socket)?;
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &block));
    bytes.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
    // The daemon may close the connection before it has read everything.
    let _ = stream.write_all(&bytes);
    let mut total = 0;
    while total < MAX_RECEIVED {
        let Ok((kind, flags, stream_id, payload)) = read_frame(&mut stream) else { return Ok(false) };
        total += payload + 9;
        match kind {
            DATA if stream_id == 1 && payload > 0 => return Ok(true),
            RST_STREAM | GOAWAY => return Ok(false),
            HEADERS | DATA if flags & END_STREAM != 0 => return Ok(false),
            _ => {}
        }
    }
    Ok(false)
}

/// Type, flags, stream and length of the next frame, whose payload is passed over.
fn read_frame(stream: &mut UnixStream) -> io::Result<(u8, u8, u32, usize)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > MAX_RECEIVED {
        return Err(io::Error::other("a frame that is too long"));
    }
    stream.read_exact(&mut vec![0; length])?;
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

//! Bytes of HTTP/2 connections with calls that never end.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
/// The largest frame that a peer accepts unless it says otherwise (RFC 9113 section 4.2).
const MAX_FRAME_SIZE: usize = 16_384;

/// What each call of a connection sends after its headers.
pub enum Body<'a> {
    /// One whole message; the call is complete.
    Whole(&'a [u8]),
    /// Messages, after which more could follow.
    Open(&'a [&'a [u8]]),
    /// The head of a message of 60,000 bytes, and this many bytes of it.
    Unfinished(usize),
}

/// A connection that opens `calls` calls of `path`, and accepts `window` bytes on each.
pub fn connection(path: &str, calls: u32, body: &Body<'_>, window: u32, extra_header: usize) -> Vec<u8> {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat();
    let headers = header_block(path, extra_header);
    for stream in (0..calls).map(|call| call * 2 + 1) {
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &headers));
        match body {
            Body::Whole(message) => bytes.extend(frame(DATA, END_STREAM, stream, &length_prefixed(message))),
            Body::Open(messages) => {
                for message in *messages {
                    bytes.extend(frame(DATA, 0, stream, &length_prefixed(message)));
                }
            }
            Body::Unfinished(length) => {
                let data = [&[0][..], &60_000_u32.to_be_bytes(), &vec![b'x'; *length]].concat();
                for piece in data.chunks(MAX_FRAME_SIZE) {
                    bytes.extend(frame(DATA, 0, stream, piece));
                }
            }
        }
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn length_prefixed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

/// The header block of a call, with one more header of about `extra` bytes.
fn header_block(path: &str, extra: usize) -> Vec<u8> {
    let mut block = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ];
    for (name, value) in fields {
        append_field(&mut block, name, value);
    }
    // Values of at most 126 bytes, whose length is one byte.
    for _ in 0..extra / 130 {
        append_field(&mut block, "a", &"x".repeat(126));
    }
    block
}

/// A literal field without indexing (RFC 7541 section 6.2.2).
fn append_field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.extend([0, name.len() as u8]);
    block.extend(name.as_bytes());
    block.push(value.len() as u8);
    block.extend(value.as_bytes());
}

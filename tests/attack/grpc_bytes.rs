//! Bytes of HTTP/2 connections with calls that never end.

use crate::common::http2::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, call_of, field, frame, window_setting,
};

/// The largest frame that a peer accepts unless it says otherwise (RFC 9113 section 4.2).
const MAX_FRAME_SIZE: usize = 16_384;

/// What each call of a connection sends after its headers.
pub enum Body<'a> {
    /// One whole message; the call is complete.
    Whole(&'a [u8]),
    /// Messages, after which more could follow.
    Open(&'a [&'a [u8]]),
    /// The head of a message of 20,000 bytes, and this many bytes of it.
    Unfinished(usize),
}

/// A connection that opens `calls` calls of `path`, each with further headers of about `extra_header` bytes,
/// and accepts `window` bytes on each.
pub fn connection(path: &str, calls: u32, body: &Body<'_>, window: u32, extra_header: usize) -> Vec<u8> {
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &window_setting(window))].concat();
    // Values of at most 126 bytes, whose length is one byte.
    let padding = field("a", &"x".repeat(126)).repeat(extra_header / 130);
    let headers = [call_of(path), padding].concat();
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
                let data = [&[0][..], &20_000_u32.to_be_bytes(), &vec![b'x'; *length]].concat();
                for piece in data.chunks(MAX_FRAME_SIZE) {
                    bytes.extend(frame(DATA, 0, stream, piece));
                }
            }
        }
    }
    bytes
}

fn length_prefixed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

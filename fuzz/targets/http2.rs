//! The rewriter of HTTP/2 headers that runs before the HTTP/2 library on the workload socket.
//!
//! The first byte of the input is the size of the pieces in which the rest arrives. The output must not
//! depend on it, and a second rewriter must not change the output.
#![no_main]

use bytes::BytesMut;
use hostbadge::api::http2::{HeaderRewriter, Malformed};
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The rewriter's output for `input` in pieces of `step` bytes, read whenever there is some.
fn rewritten(input: &[u8], step: usize) -> (Vec<u8>, Result<(), Malformed>) {
    let (mut rewriter, mut rest, mut output) = (HeaderRewriter::default(), BytesMut::new(), BytesMut::new());
    let mut all = Vec::new();
    for piece in input.chunks(step.max(1)) {
        rest.extend_from_slice(piece);
        loop {
            let before = rest.len();
            let fed = rewriter.feed(&mut rest, &mut output);
            let has_output = !output.is_empty();
            all.extend_from_slice(&output.split());
            if fed.is_err() {
                return (all, fed);
            }
            if !has_output && rest.len() == before {
                break;
            }
        }
    }
    (all, Ok(()))
}

fuzz_target!(|input: &[u8]| {
    let Some((step, rest)) = input.split_first() else { return };
    let input = [PREFACE, rest].concat();
    let (whole, end) = rewritten(&input, input.len());
    let (cut, end_cut) = rewritten(&input, usize::from(*step));
    assert_eq!((&whole, end), (&cut, end_cut));
    let (again, end) = rewritten(&whole, whole.len());
    assert!(end.is_ok());
    assert_eq!(again, whole);
});

//! What clients of the workload socket send: the filter before the HTTP/2 library, which is fed what it makes of it.
//!
//! The first byte says how the rest is cut on its way. However that is, the same comes out, and what comes out is taken
//! as it is by a second filter.
#![no_main]

use bytes::BytesMut;
use hostbadge::api::http2::{Filter, Malformed};
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a filter makes of `input` that comes in pieces of `step` bytes, and is read whenever there is something.
fn filtered(input: &[u8], step: usize) -> (Vec<u8>, Result<(), Malformed>) {
    let (mut filter, mut rest, mut output) = (Filter::default(), BytesMut::new(), BytesMut::new());
    let mut all = Vec::new();
    for piece in input.chunks(step.max(1)) {
        rest.extend_from_slice(piece);
        loop {
            let before = rest.len();
            let fed = filter.feed(&mut rest, &mut output);
            let made = !output.is_empty();
            all.extend_from_slice(&output.split());
            if fed.is_err() {
                return (all, fed);
            }
            if !made && rest.len() == before {
                break;
            }
        }
    }
    (all, Ok(()))
}

fuzz_target!(|input: &[u8]| {
    let Some((step, rest)) = input.split_first() else { return };
    let input = [PREFACE, rest].concat();
    let (whole, end) = filtered(&input, input.len());
    let (cut, end_cut) = filtered(&input, usize::from(*step));
    assert_eq!((&whole, end), (&cut, end_cut));
    let (again, end) = filtered(&whole, whole.len());
    assert!(end.is_ok());
    assert_eq!(again, whole);
});

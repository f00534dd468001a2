//! The whole workload socket: a connection sends any bytes to the daemon's server, on a host whose TPM has
//! not responded yet. The server must close each connection once the client has shut down its side.
//!
//! The lowest bit of the first byte omits the preface and SETTINGS; its other bits are where the rest is
//! split into two writes.
#![no_main]

#[path = "../support/workload_server.rs"]
mod workload_server;

use libfuzzer_sys::fuzz_target;

/// The preface and an empty SETTINGS frame.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let hello = if how & 1 == 0 { HELLO } else { &[] };
    let cut = rest.len() * usize::from(how >> 1) / 128;
    workload_server::send(&[hello, &rest[..cut], &rest[cut..]]);
});

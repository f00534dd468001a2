//! Whole gRPC calls: a connection to the daemon's server with any number of calls of any method, whose
//! messages, resets, windows and ends come in the order that the input gives. The frames are well formed, so
//! the server must close the connection only once the client has shut down its side, and without a panic.
#![no_main]

#[path = "../support/workload_server.rs"]
mod workload_server;

use libfuzzer_sys::fuzz_target;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MAX_CALLS: u32 = 64;
const PATHS: [&str; 12] = [
    "/SpiffeWorkloadAPI/FetchX509SVID",
    "/SpiffeWorkloadAPI/FetchX509Bundles",
    "/SpiffeWorkloadAPI/FetchJWTSVID",
    "/SpiffeWorkloadAPI/FetchJWTBundles",
    "/SpiffeWorkloadAPI/ValidateJWTSVID",
    "/SpiffeWorkloadAPI/FetchWITSVID",
    "/SpiffeWorkloadAPI/FetchWITBundles",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/SpiffeWorkloadAPI/Unknown",
];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field without indexing (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

fn head(path: &str, has_security_header: bool) -> Vec<u8> {
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    if has_security_header {
        fields.push(("workload.spiffe.io", "true"));
    }
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// The frames that the input describes: an operation, a parameter and, for messages, so many bytes.
fn frames(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = vec![[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()];
    let mut calls: u32 = 0;
    while let [operation, parameter, rest @ ..] = input {
        input = rest;
        // An open call, most often the latest.
        let stream = calls.saturating_sub(u32::from(parameter >> 6)).max(1) * 2 - 1;
        match operation % 8 {
            0 if calls < MAX_CALLS => {
                calls += 1;
                let path = PATHS[usize::from(*parameter) % PATHS.len()];
                frames.push(frame(HEADERS, END_HEADERS, calls * 2 - 1, &head(path, parameter & 0x80 == 0)));
            }
            1 | 2 if calls > 0 => {
                let (message, rest) = input.split_at(input.len().min(usize::from(*parameter % 64)));
                input = rest;
                let flags = if operation & 0x80 == 0 { 0 } else { END_STREAM };
                let length = (message.len() as u32).to_be_bytes();
                // A message in one frame or in two.
                let data = [&[0][..], &length, message].concat();
                let cut = if operation & 0x40 == 0 { data.len() } else { data.len() / 2 };
                frames.push(frame(DATA, if cut == data.len() { flags } else { 0 }, stream, &data[..cut]));
                if cut < data.len() {
                    frames.push(frame(DATA, flags, stream, &data[cut..]));
                }
            }
            3 if calls > 0 => frames.push(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])),
            4 => {
                let increment = u32::from(*parameter) + 1;
                let stream = if calls > 0 && operation & 0x80 != 0 { stream } else { 0 };
                frames.push(frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes()));
            }
            5 => {
                let window = u32::from(*parameter) * 256;
                frames.push(frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat()));
            }
            6 => frames.push(frame(PING, 0, 0, &[*parameter; 8])),
            7 if calls > 0 => frames.push(frame(DATA, END_STREAM, stream, &[])),
            _ => {}
        }
    }
    frames
}

fuzz_target!(|input: &[u8]| {
    let frames = frames(input);
    let pieces: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    workload_server::send(&pieces);
});

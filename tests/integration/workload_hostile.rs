//! What no honest client sends to the workload socket. Each ends with the connection or in a bound, takes no more memory
//! than that, and leaves the others served.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::common::grpc::Grpc;
use crate::common::{API, Host, until_true};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// More than this no single caller may cost, in bytes.
const MUCH: u64 = 48 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field without indexing, by name and value (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// The header block of a call.
fn call(method: &str) -> Vec<u8> {
    [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", &format!("/SpiffeWorkloadAPI/{method}")),
        field(":authority", "localhost"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("workload.spiffe.io", "true"),
    ]
    .concat()
}

/// A whole call of FetchJWTBundles.
fn whole(stream: u32) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &call("FetchJWTBundles"));
    [head, frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

/// A connection that has said its first words.
fn open(host: &Host, settings: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(host.workload_socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).unwrap();
    stream
}

/// Everything until the daemon hangs up.
fn to_the_end(stream: &mut UnixStream) {
    let mut heard = [0; 65536];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(e) => panic!("the daemon does not hang up: {e}"),
        }
    }
}

fn resident(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Does `what` to a host, and sees that it cost little and that another is served in the middle of it and after.
#[track_caller]
fn is_borne(what: impl FnOnce(&Host) -> Vec<UnixStream>) {
    let mut host = Host::new();
    // It is not the rates that are tried here.
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    host.agent("root", "user = 0");
    host.start();
    let serves = || assert_eq!(Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap().len(), 1);
    serves();
    let before = resident(&host);
    let held = what(&host);
    serves();
    let cost = resident(&host).saturating_sub(before);
    assert!(cost < MUCH, "{cost} bytes");
    drop(held);
    until_true("nobody is connected any more", || host.status()["connections"].as_u64() <= Some(0));
    serves();
}

#[test]
fn another_protocol_is_hung_up_on() {
    is_borne(|host| {
        for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 0], &[0; 24]] {
            let mut stream = UnixStream::connect(host.workload_socket()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(words).unwrap();
            to_the_end(&mut stream);
        }
        // One that begins well and then says nothing is held for a while, like an idle one.
        let mut silent = UnixStream::connect(host.workload_socket()).unwrap();
        silent.write_all(&PREFACE[..10]).unwrap();
        vec![silent]
    });
}

#[test]
fn a_few_bytes_that_stand_for_many_are_not_unpacked() {
    is_borne(|host| {
        let mut stream = open(host, &[]);
        // 4,000 bytes into the table, and then by number, again and again (RFC 7541 section 6.2.1).
        let large = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
        let bomb = [call("FetchJWTBundles"), large, vec![0xbe; 12_000]].concat();
        for piece in 0..20 {
            // Whoever is hung up on cannot write any more.
            if stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * piece, &bomb)).is_err() {
                break;
            }
        }
        to_the_end(&mut stream);
        vec![]
    });
}

#[test]
fn a_header_block_without_end_is_hung_up_on() {
    is_borne(|host| {
        for piece in [&[][..], &[0; 16_000]] {
            let mut stream = open(host, &[]);
            let mut wrote = stream.write_all(&frame(HEADERS, 0, 1, &call("FetchJWTBundles")));
            for _ in 0..10_000 {
                if wrote.is_err() {
                    break;
                }
                wrote = stream.write_all(&frame(CONTINUATION, 0, 1, piece));
            }
            assert!(wrote.is_err(), "all of it was taken");
        }
        vec![]
    });
}

#[test]
fn calls_that_are_taken_back_at_once_end_the_connection() {
    is_borne(|host| {
        let mut stream = open(host, &[]);
        let mut ended = false;
        for number in 0..20_000 {
            let id = 1 + 2 * number;
            let taken_back = [whole(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat();
            if stream.write_all(&taken_back).is_err() {
                ended = true;
                break;
            }
        }
        if !ended {
            // It had answered them all as fast as they came: then all that is left is bounded.
            return vec![stream];
        }
        vec![]
    });
}

#[test]
fn a_thousand_calls_at_once_on_one_connection_are_bounded() {
    is_borne(|host| {
        let mut stream = open(host, &[]);
        for number in 0..1000 {
            if stream.write_all(&whole(1 + 2 * number)).is_err() {
                break;
            }
        }
        vec![stream]
    });
}

#[test]
fn windows_that_are_never_opened_hold_nothing_up() {
    is_borne(|host| {
        // SETTINGS_INITIAL_WINDOW_SIZE of zero, on many connections.
        (0..20)
            .map(|_| {
                let mut stream = open(host, &[0, 4, 0, 0, 0, 0]);
                for number in 0..100 {
                    stream.write_all(&whole(1 + 2 * number)).unwrap();
                }
                stream
            })
            .collect()
    });
}

#[test]
fn pings_and_settings_whose_answers_nobody_reads_are_bounded() {
    is_borne(|host| {
        let mut held = Vec::new();
        for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
            let mut stream = open(host, &[]);
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let flood = flood.repeat(1000);
            for _ in 0..1000 {
                // The daemon reads no more once it cannot write, or hangs up.
                if stream.write_all(&flood).is_err() {
                    break;
                }
            }
            held.push(stream);
        }
        held
    });
}

#[test]
fn a_body_without_end_and_a_goaway_anywhere_are_borne() {
    is_borne(|host| {
        let goaway = frame(GOAWAY, 0, 0, &[0; 8]);
        let mut held = Vec::new();
        // Between calls, in the middle of one, and in the middle of a stream.
        for before in [vec![], frame(HEADERS, END_HEADERS, 1, &call("FetchJWTSVID")), whole(1)] {
            let mut stream = open(host, &[]);
            stream.write_all(&[before, goaway.clone()].concat()).unwrap();
            held.push(stream);
        }
        // A message that says it is 4 GB, of which nothing comes.
        let mut stream = open(host, &[]);
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &call("FetchJWTSVID"))).unwrap();
        stream.write_all(&frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff])).unwrap();
        held.push(stream);
        held
    });
}

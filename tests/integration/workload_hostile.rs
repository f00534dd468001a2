//! Hostile clients of the workload socket: each is disconnected or limited, costs bounded memory, and does
//! not affect other callers.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::common::grpc::Grpc;
use crate::common::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, call,
    call_of, frame, open,
};
use crate::common::{API, Host, pause, until_true};

/// How much memory one caller may cost, in bytes.
const MAX_MEMORY: u64 = 48 << 20;

/// A whole call of FetchJWTBundles.
fn whole(stream: u32) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &call("FetchJWTBundles"));
    [head, frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

/// Reads until the daemon closes the connection.
fn read_to_end(stream: &mut UnixStream) {
    let mut received = [0; 65536];
    loop {
        match stream.read(&mut received) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(e) => panic!("the daemon does not close the connection: {e}"),
        }
    }
}

fn resident(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Runs `attack`, and checks its memory and that another caller is served during and after it.
#[track_caller]
fn assert_harmless(attack: impl FnOnce(&Host) -> Vec<UnixStream>) {
    let mut host = Host::new();
    // Without rate limits, which are not under test.
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    host.agent("root", "user = 0");
    host.start();
    let serves = || assert_eq!(Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap().len(), 1);
    serves();
    let before = resident(&host);
    let held = attack(&host);
    serves();
    let cost = resident(&host).saturating_sub(before);
    assert!(cost < MAX_MEMORY, "{cost} bytes");
    drop(held);
    until_true("all connections are closed", || host.status()["connections"].as_u64() <= Some(0));
    serves();
}

#[test]
fn other_protocols_are_disconnected() {
    assert_harmless(|host| {
        for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 0], &[0; 24]] {
            let mut stream = UnixStream::connect(host.workload_socket()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(words).unwrap();
            read_to_end(&mut stream);
        }
        // A connection with an incomplete preface is closed like an idle one.
        let mut silent = UnixStream::connect(host.workload_socket()).unwrap();
        silent.write_all(&PREFACE[..10]).unwrap();
        vec![silent]
    });
}

#[test]
fn hpack_bombs_are_refused() {
    assert_harmless(|host| {
        let mut stream = open(host, &[]);
        // A field of 4,000 bytes in the dynamic table, referenced many times (RFC 7541 section 6.2.1).
        let large = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
        let bomb = [call("FetchJWTBundles"), large, vec![0xbe; 12_000]].concat();
        for piece in 0..20 {
            // Fails once the daemon has closed the connection.
            if stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * piece, &bomb)).is_err() {
                break;
            }
        }
        read_to_end(&mut stream);
        vec![]
    });
}

#[test]
fn an_endless_header_block_is_disconnected() {
    assert_harmless(|host| {
        for piece in [&[][..], &[0; 16_000]] {
            let mut stream = open(host, &[]);
            let mut wrote = stream.write_all(&frame(HEADERS, 0, 1, &call("FetchJWTBundles")));
            for _ in 0..10_000 {
                if wrote.is_err() {
                    break;
                }
                wrote = stream.write_all(&frame(CONTINUATION, 0, 1, piece));
            }
            assert!(wrote.is_err(), "the daemon read all of it");
        }
        vec![]
    });
}

#[test]
fn a_rapid_reset_attack_is_disconnected() {
    assert_harmless(|host| {
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
            // The daemon answered all calls as fast as they arrived; what remains is bounded.
            return vec![stream];
        }
        vec![]
    });
}

#[test]
fn a_thousand_calls_at_once_on_one_connection_are_bounded() {
    assert_harmless(|host| {
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
fn closed_flow_control_windows_do_not_block_others() {
    assert_harmless(|host| {
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
fn unread_ping_and_settings_responses_are_bounded() {
    assert_harmless(|host| {
        let mut held = Vec::new();
        for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
            let mut stream = open(host, &[]);
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let flood = flood.repeat(1000);
            for _ in 0..1000 {
                // The daemon stops reading when it cannot write, or closes the connection.
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
fn endless_bodies_and_goaway_frames_are_harmless() {
    assert_harmless(|host| {
        let goaway = frame(GOAWAY, 0, 0, &[0; 8]);
        let mut held = Vec::new();
        // GOAWAY between calls, within a call, and within a stream.
        for before in [vec![], frame(HEADERS, END_HEADERS, 1, &call("FetchJWTSVID")), whole(1)] {
            let mut stream = open(host, &[]);
            stream.write_all(&[before, goaway.clone()].concat()).unwrap();
            held.push(stream);
        }
        // A message with a length of 4 GB and no data.
        let mut stream = open(host, &[]);
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &call("FetchJWTSVID"))).unwrap();
        stream.write_all(&frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff])).unwrap();
        held.push(stream);
        held
    });
}

/// A stream that is answered before its request has ended is reset, which curl 7.88 reports as an error in place of
/// the status.
#[test]
fn a_refused_call_whose_end_arrives_a_little_later_is_not_reset() {
    let host = Host::new();
    host.agent("other", "user = 4711");
    let mut host = host;
    host.start();
    let message = frame(DATA, END_STREAM, 1, &[0; 5]);
    for (path, ends) in [
        ("/SpiffeWorkloadAPI/FetchJWTSVID", true),
        ("/unknown.Service/Method", true),
        ("/SpiffeWorkloadAPI/FetchJWTSVID", false),
    ] {
        let mut stream = open(&host, &[]);
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &call_of(path))).unwrap();
        pause(Duration::from_millis(50));
        if ends {
            stream.write_all(&message).unwrap();
        }
        let frames = frames_of_stream(&mut stream, 1);
        let kinds: Vec<u8> = frames.iter().map(|(kind, _)| *kind).collect();
        assert!(kinds.contains(&HEADERS), "{path}: {kinds:?}");
        assert_eq!(kinds.contains(&RST_STREAM), !ends, "{path}: {kinds:?}");
    }
}

/// The kinds and flags of the frames of a stream, until its end and half a second after.
fn frames_of_stream(stream: &mut UnixStream, id: u32) -> Vec<(u8, u8)> {
    let mut frames = Vec::new();
    loop {
        let has_ended = frames.iter().any(|(_, flags)| flags & END_STREAM != 0);
        let wait = if has_ended { Duration::from_millis(500) } else { Duration::from_secs(20) };
        stream.set_read_timeout(Some(wait)).unwrap();
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            assert!(has_ended, "the stream does not end: {frames:?}");
            return frames;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        if u32::from_be_bytes([head[5], head[6], head[7], head[8]]) == id {
            frames.push((head[3], head[4] & if head[3] <= HEADERS { 0xff } else { 0 }));
        }
    }
}

//! What any local process may cost on the workload socket: memory and places are bounded for its user, the
//! daemon survives whatever it does in the middle of a call, and agents are served meanwhile.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::callers::Credentials;
use crate::common::grpc::{Call, Empty, Grpc, MESSAGE_TIMEOUT, METHODS, Status, UNAVAILABLE};
use crate::common::http2::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE, call_of, frame, open,
    window_setting,
};
use crate::common::processes::Running;
use crate::common::{API, Host, until_true};

/// A user who is no agent.
const STRANGER: u32 = 12_002;
/// How much memory one stranger may cost, in bytes.
const MAX_MEMORY: u64 = 64 << 20;
/// How much of it may remain after it has gone, in bytes: fragments between what is in use.
const MAX_REMAINS: u64 = 8 << 20;
const FLOOD: &str = include_str!("../clients/flood.py");
const KINDS: [&str; 8] = ["idle", "heads", "bodies", "pieces", "fields", "watch", "reflection", "starved"];
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Open calls of one user's strangers.
const STRANGERS_CALLS: usize = 64;

/// A host without rate limits, which are not under test, whose agent is uid 0.
fn host() -> Host {
    let mut host = Host::new();
    let unlimited = "rate = 1000000\nburst = 1000000\nunknown_rate = 1000000\nunknown_burst = 1000000\n";
    host.configure(&format!("[limits]\n{unlimited}"));
    host.agent("root", "user = 0");
    host.start();
    host
}

#[track_caller]
fn assert_serves(host: &Host) {
    assert_eq!(Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap().len(), 1);
}

fn resident(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A stranger that has sent everything, until it is dropped.
fn flood(host: &Host, kind: &str, connections: usize, calls: usize) -> Running {
    let mut command = Command::new("python3");
    command.args(["-c", FLOOD]).arg(host.workload_socket()).arg(kind);
    command.args([connections, calls].map(|number| number.to_string()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Credentials::user(STRANGER).apply_to(&mut command);
    let mut stranger = Running::start(command);
    let mut line = String::new();
    BufReader::new(stranger.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "sent\n", "{kind}");
    stranger
}

#[test]
fn a_stranger_costs_at_most_64_mb_and_leaves_nothing() {
    let host = host();
    // The code is read from the disk before the measurement begins.
    for kind in KINDS {
        drop(flood(&host, kind, 2, 2));
    }
    assert_serves(&host);
    let idle = resident(&host);
    for kind in KINDS {
        // The blocks of many fields cost the daemon's processor most, and are as large in small numbers.
        let stranger = flood(&host, kind, 300, if kind == "fields" { 10 } else { 100 });
        assert_serves(&host);
        let cost = resident(&host).saturating_sub(idle);
        println!("{kind}: {} KiB", cost / 1024);
        assert!(cost < MAX_MEMORY, "{kind}: {cost} bytes");
        drop(stranger);
        until_true("the stranger's connections are closed", || {
            host.status()["connections"].as_u64() <= Some(0)
        });
    }
    // With swap the daemon keeps the memory, because it would have to unlock it.
    if fs::read_to_string("/proc/swaps").unwrap().lines().count() == 1 {
        until_true("the memory is given back", || resident(&host) < idle + MAX_REMAINS);
    }
    println!("remains: {} KiB", resident(&host).saturating_sub(idle) / 1024);
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

fn watch(client: &Grpc) -> Result<Call, Status> {
    let mut call = client.start(WATCH, &[], &Empty {})?;
    client.next::<Empty>(&mut call, MESSAGE_TIMEOUT).unwrap().map(|_| call)
}

#[test]
fn open_calls_of_the_public_services_are_bounded_for_a_user() {
    let host = host();
    let clients = [Grpc::connect(&host.workload_socket()), Grpc::connect(&host.workload_socket())];
    let mut open: Vec<Call> =
        (0..STRANGERS_CALLS).map(|number| watch(&clients[number % 2]).unwrap()).collect();
    assert_eq!(watch(&clients[0]).err().map(|status| status.code), Some(UNAVAILABLE));
    // An agent of the same user has places of its own, also on the same connection.
    assert_eq!(clients[0].jwt(&[API], "").unwrap().len(), 1);
    assert_serves(&host);
    open.pop();
    until_true("a place is free", || watch(&clients[0]).is_ok());
}

/// The path, and a message, of each method of each service.
fn methods() -> Vec<(String, Vec<u8>)> {
    let audience = [&[0x0a, API.len() as u8], API.as_bytes()].concat();
    let question = b"\x22\x11SpiffeWorkloadAPI".to_vec();
    let api = METHODS.map(|method| {
        let message = if method.contains("JWTSVID") { audience.clone() } else { vec![] };
        (format!("/SpiffeWorkloadAPI/{method}"), message)
    });
    let health = ["Check", "Watch"].map(|method| (format!("/grpc.health.v1.Health/{method}"), vec![]));
    let reflection = ["v1", "v1alpha"].map(|version| {
        (format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"), question.clone())
    });
    api.into_iter().chain(health).chain(reflection).collect()
}

/// How a client ends its calls, in the middle of them.
const ENDINGS: [fn(&mut UnixStream, u32) -> std::io::Result<()>; 5] = [
    |stream, id| stream.write_all(&frame(RST_STREAM, 0, id, &[0, 0, 0, 8])),
    |stream, id| stream.write_all(&frame(DATA, END_STREAM, id, &[])),
    |stream, id| {
        let more = frame(WINDOW_UPDATE, 0, id, &[0, 0, 0, 9]);
        stream.write_all(&[more, frame(RST_STREAM, 0, id, &[0, 0, 0, 0])].concat())
    },
    |stream, _| stream.write_all(&frame(GOAWAY, 0, 0, &[0; 8])),
    |stream, _| stream.shutdown(std::net::Shutdown::Both),
];

/// `HOSTBADGE_ATTACK_SECONDS` sets how long it lasts; 3 s is the default, and at least one round is made.
#[test]
fn calls_that_end_in_their_middle_end_nothing_else() {
    let host = host();
    let pid = host.pid();
    let seconds = std::env::var("HOSTBADGE_ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
    let deadline = Instant::now() + Duration::from_secs(seconds.unwrap_or(3));
    let methods = methods();
    let mut round = 0;
    while round == 0 || Instant::now() < deadline {
        for window in [0, 1, 65_535] {
            for end in ENDINGS {
                let mut stream = open(&host, &window_setting(window));
                for (number, (path, message)) in methods.iter().enumerate() {
                    let id = 1 + 2 * number as u32;
                    let message = [&[0, 0, 0, 0, message.len() as u8][..], message].concat();
                    // In one round the calls have ended before they are answered, in the next they have not.
                    let messages = frame(DATA, 0, id, &message).repeat(8);
                    let _ = stream
                        .write_all(&[frame(HEADERS, END_HEADERS, id, &call_of(path)), messages].concat());
                }
                if round % 2 == 0 {
                    read_available(&mut stream);
                }
                for number in 0..methods.len() as u32 {
                    // Fails once the connection has ended.
                    let _ = end(&mut stream, 1 + 2 * number);
                }
            }
        }
        round += 1;
    }
    println!("{round} rounds");
    assert_serves(&host);
    assert_eq!(host.pid(), pid);
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

/// Reads until nothing has come for 20 ms.
fn read_available(stream: &mut UnixStream) {
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut received = [0; 65536];
    while matches!(stream.read(&mut received), Ok(1..)) {}
}

#[test]
fn a_reflection_stream_ends_by_itself() {
    let host = host();
    let mut stream = open(&host, &[]);
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &call_of(path))).unwrap();
    // The trailers have grpc-status 4, DEADLINE_EXCEEDED.
    let mut received = Vec::new();
    until_true("the stream ends", || {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(count) => received.extend_from_slice(&bytes[..count]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        last_headers(&received).is_some_and(|flags| flags & END_STREAM != 0)
    });
    assert_serves(&host);
}

/// The flags of the last complete HEADERS frame of stream 1.
fn last_headers(mut frames: &[u8]) -> Option<u8> {
    let mut flags = None;
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let (_, rest) = rest.split_at_checked(length)?;
        if head[3] == HEADERS && head[8] == 1 {
            flags = Some(head[4]);
        }
        frames = rest;
    }
    flags
}

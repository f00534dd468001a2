//! Malformed, oversized and slow requests are refused, and other callers are served.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::common::callers::Credentials;
use crate::common::http::{Connection, request};
use crate::common::{API, Host, until_true};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

const TOKEN: &str = "/v1/token";

/// Everything that the daemon sends until it closes the connection.
fn raw(host: &Host, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(host.agent_socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The daemon may close the connection before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    String::from_utf8_lossy(&received).into_owned()
}

fn post(body: &[u8]) -> Vec<u8> {
    request("POST", TOKEN, Some("application/json"), body)
}

#[test]
fn malformed_token_requests_are_refused_with_a_reason_and_audited() {
    let host = Host::started();
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        br#"{"audience":7}"#,
        br#"{"audience":["https://api.example.com"]}"#,
        br#"{"audience":"a","audience":"b"}"#,
        br#"{"audience":"a","scpoe":"x"}"#,
        b"{\"audience\":\"a\0b\"}",
        br#"{"audience":"a\u0000b"}"#,
        b"{\"audience\":\"\xff\xfe\"}",
        br#"{"audience":"a","ttl":-1}"#,
        br#"{"audience":"a","ttl":1e99}"#,
    ] {
        let answer = host.connect().exchange(&post(body));
        let shown = String::from_utf8_lossy(body);
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{shown}");
        assert!(!answer.json()["error_description"].as_str().unwrap().is_empty(), "{shown}");
    }
    assert!(!host.token().is_empty());
    let refused = host.audit().iter().filter(|line| line["reason"] == "invalid_request").count();
    assert_eq!(refused, 13);
}

#[test]
fn oversized_requests_are_refused_and_release_their_memory() {
    let host = Host::started();
    for size in [64 * 1024 + 1, 1_000_000, 10_000_000] {
        let body = format!(r#"{{"audience":"{}"}}"#, "a".repeat(size));
        let answer = host.connect().exchange(&post(body.as_bytes()));
        assert_eq!(answer.status, 413, "{size}");
    }
    let head = format!("GET /v1/health HTTP/1.1\r\nhost: l\r\nx: {}\r\n\r\n", "a".repeat(17 * 1024));
    assert!(raw(&host, head.as_bytes()).starts_with("HTTP/1.1 431 "));
    assert!(!host.token().is_empty());
}

#[test]
fn a_request_in_single_bytes_and_pipelined_requests_are_answered_in_order() {
    let host = Host::started();
    let mut connection = host.connect();
    for byte in post(json!({ "audience": API }).to_string().as_bytes()) {
        connection.send(&[byte]).unwrap();
    }
    assert_eq!(connection.read_response().unwrap().status, 200);
    let mut many = Vec::new();
    for body in [json!({ "audience": API }), json!({ "audience": "x" }), json!({ "audience": API })] {
        many.extend(post(body.to_string().as_bytes()));
    }
    connection.send(&many).unwrap();
    let statuses: Vec<u16> = (0..3).map(|_| connection.read_response().unwrap().status).collect();
    assert_eq!(statuses, [200, 400, 200]);
}

#[test]
fn ambiguous_request_framing_gets_one_response_and_a_closed_connection() {
    let host = Host::started();
    // A second request follows each head and must not get a response.
    let hidden = "GET /v1/health HTTP/1.1\r\nhost: l\r\n\r\n";
    let shapes = [
        ("both lengths", "content-length: 40\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", "content-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
        ("signed length", "content-length: +5\r\n\r\nhello"),
        ("listed length", "content-length: 5, 5\r\n\r\nhello"),
        ("endless length", "content-length: 99999999999999999999999\r\n\r\nhello"),
        ("other coding", "transfer-encoding: gzip\r\n\r\nhello"),
        ("coding behind", "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("odd coding", "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("bad chunk", "transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
        ("huge chunk", "transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("space before colon", "content-length : 5\r\n\r\nhello"),
        ("folded", "x: a\r\n b\r\ncontent-length: 5\r\n\r\nhello"),
        ("NUL in a value", "x: a\0b\r\n\r\n"),
        ("two hosts", "host: m\r\n\r\n"),
    ];
    for (name, rest) in shapes {
        let bytes = format!("POST /v1/token HTTP/1.1\r\nhost: l\r\n{rest}{hidden}");
        let received = raw(&host, bytes.as_bytes());
        let answers = received.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{name}: {received}");
        assert!(!received.contains("\"posture\""), "{name}: the hidden request was answered: {received}");
        assert!(received.is_empty() || received.starts_with("HTTP/1.1 4"), "{name}: {received}");
    }
    assert!(!host.token().is_empty());
}

#[test]
fn other_http_versions_and_paths_are_refused() {
    let host = Host::started();
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\0\0\0\0",
        b"GET /v1/health\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\n\r\n",
        b"GET /v1/health HTTP/9.9\r\nhost: l\r\n\r\n",
    ] {
        let received = raw(&host, bytes);
        assert!(received.is_empty() || received.starts_with("HTTP/1.1 4"), "{bytes:?}: {received}");
    }
    for target in ["/v1/token/", "//v1/token", "/v1/../v1/token", "/v1/token%00", "/"] {
        assert_eq!(host.connect().get(target).status, 404, "{target}");
    }
    assert!(!host.token().is_empty());
}

#[test]
fn ten_thousand_idle_connections_do_not_block_other_callers() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
    let host = Host::started();
    let open: Vec<UnixStream> =
        (0..10_000).map(|_| UnixStream::connect(host.agent_socket()).unwrap()).collect();
    // A caller with the UID of the idle connections, and one with another.
    assert!(!host.token().is_empty());
    let unknown = Credentials::user(65_534).curl(&host, "/v1/health", &[]);
    assert_eq!(unknown.status, 200);
    let bound = 2_000;
    until_true("connections are within the limit", || {
        host.status()["connections"].as_u64().unwrap() <= bound
    });
    drop(open);
    until_true("the connections are closed", || host.status()["connections"].as_u64().unwrap() < 10);
}

#[test]
fn connections_with_incomplete_bodies_do_not_block_other_callers() {
    let mut host = Host::new();
    host.configure("[limits]\nconnections = 64\nconnections_per_uid = 60\n");
    host.agent("root", "user = 0");
    host.start();
    let head = b"POST /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{";
    let open: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = UnixStream::connect(host.agent_socket()).unwrap();
            // A connection that was evicted cannot be written to.
            let _ = stream.write_all(head);
            stream
        })
        .collect();
    for _ in 0..20 {
        assert!(!host.token().is_empty());
    }
    drop(open);
}

/// Of one uid 512 connections may wait for the rest of a request.
#[test]
fn the_connection_that_waits_longest_for_the_rest_of_a_request_is_closed() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
    let host = Host::started();
    let connected = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(host.agent_socket()).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let unfinished = |count: usize| -> Vec<_> {
        let parts: [&[u8]; 2] = [
            b"GET /v1/health HTTP/1.1\r\nA: ",
            b"POST /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
        ];
        (0..count).map(|index| connected(parts[index % 2])).collect()
    };
    let mut waiting = unfinished(601 - 512);
    // Each worker reads what arrived first, so that these wait longest when later requests have replies.
    let mut idle: Vec<_> = (0..64).map(|_| Connection::open(&host.agent_socket())).collect();
    idle.iter_mut().for_each(|connection| assert_eq!(connection.get("/v1/health").status, 200));
    waiting.extend(unfinished(511));
    let body = format!("{{\"audience\":\"{API}\"}}");
    let bytes = request("POST", "/v1/token", Some("application/json"), body.as_bytes());
    // Its own request arrives in two pieces.
    let mut honest = Connection::new(connected(&bytes[..bytes.len() - 5]));
    let is_open = |stream: &UnixStream| {
        stream.set_nonblocking(true).unwrap();
        matches!((&*stream).read(&mut [0; 1]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    };
    let open = || -> Vec<bool> { waiting.iter().map(is_open).collect() };
    until_true("89 are closed", || open().iter().filter(|open| !**open).count() == 601 - 512);
    honest.send(&bytes[bytes.len() - 5..]).unwrap();
    assert_eq!(honest.read_response().unwrap().status, 200);
    let open = open();
    assert!(open[..89].iter().all(|open| !open) && open[89..].iter().all(|open| *open), "{open:?}");
    idle.iter_mut().for_each(|connection| assert_eq!(connection.get("/v1/health").status, 200));
}

#[test]
fn a_rate_limited_caller_gets_429_while_others_are_served() {
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1\nburst = 5\nunknown_rate = 1\nunknown_burst = 5\n");
    host.agent("busy", "user = 0");
    host.agent("calm", "user = 65534");
    host.start();
    let mut connection = host.connect();
    let began = std::time::Instant::now();
    let answers: Vec<_> = (0..40).map(|_| connection.post(TOKEN, &json!({ "audience": API }))).collect();
    // On a busy machine the requests take seconds, each of which allows one more.
    let allowed = 5 + began.elapsed().as_secs() as usize + 1;
    let limited: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(
        limited.len() >= 40_usize.saturating_sub(allowed).max(1),
        "{} limited, {allowed} allowed",
        limited.len()
    );
    assert_eq!(limited[0].error(), "slow_down");
    assert_eq!(limited[0].header("retry-after"), Some("1"));
    assert_eq!(Credentials::user(65_534).token(&host).status, 200);

    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(Credentials::user(65_533).curl(&host, "/v1/whoami", &[]).status);
    }
    assert!(flood.contains(&401) && flood.contains(&429), "{flood:?}");
    let written = host.audit().iter().filter(|line| line["reason"] == "slow_down").count();
    assert!(written < 15, "refusals are summed up: {written} records");
}

#[test]
fn a_slow_sender_gets_408_and_does_not_block_others() {
    let host = Host::started();
    let mut slow = Connection::open(&host.agent_socket());
    slow.send(b"POST /v1/token HTTP/1.1\r\nhost: l\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        .unwrap();
    assert!(!host.token().is_empty());
    assert_eq!(slow.read_response().unwrap().status, 408);
}

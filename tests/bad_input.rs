//! What hostile or clumsy callers get, and that the next honest one is served.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::callers::Who;
use common::http::{Connection, request};
use common::{API, Host, until_true};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

const TOKEN: &str = "/v1/token";

/// Everything that comes back until the daemon closes, or nothing more comes for a while.
fn raw(host: &Host, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(host.agent_socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // The daemon may hang up in the middle, which is an answer as well.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

fn post(body: &[u8]) -> Vec<u8> {
    request("POST", TOKEN, Some("application/json"), body)
}

#[test]
fn bodies_that_are_no_token_request_are_named_and_recorded() {
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
        let answer = host.connect().say(&post(body));
        let shown = String::from_utf8_lossy(body);
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{shown}");
        assert!(!answer.json()["error_description"].as_str().unwrap().is_empty(), "{shown}");
    }
    assert!(!host.token().is_empty());
    let refused = host.audit().iter().filter(|line| line["reason"] == "invalid_request").count();
    assert_eq!(refused, 13);
}

#[test]
fn what_is_too_large_is_told_so_and_leaves_nothing_behind() {
    let host = Host::started();
    for size in [64 * 1024 + 1, 1_000_000, 10_000_000] {
        let body = format!(r#"{{"audience":"{}"}}"#, "a".repeat(size));
        let answer = host.connect().say(&post(body.as_bytes()));
        assert_eq!(answer.status, 413, "{size}");
    }
    let head = format!("GET /v1/health HTTP/1.1\r\nhost: l\r\nx: {}\r\n\r\n", "a".repeat(17 * 1024));
    assert!(raw(&host, head.as_bytes()).starts_with("HTTP/1.1 431 "));
    assert!(!host.token().is_empty());
}

#[test]
fn a_request_in_single_bytes_and_a_pipeline_are_answered_in_order() {
    let host = Host::started();
    let mut connection = host.connect();
    for byte in post(json!({ "audience": API }).to_string().as_bytes()) {
        connection.send(&[byte]).unwrap();
    }
    assert_eq!(connection.hear().unwrap().status, 200);
    let mut many = Vec::new();
    for body in [json!({ "audience": API }), json!({ "audience": "x" }), json!({ "audience": API })] {
        many.extend(post(body.to_string().as_bytes()));
    }
    connection.send(&many).unwrap();
    let statuses: Vec<u16> = (0..3).map(|_| connection.hear().unwrap().status).collect();
    assert_eq!(statuses, [200, 400, 200]);
}

#[test]
fn shapes_that_two_servers_would_read_differently_are_answered_once_and_the_connection_ends() {
    let host = Host::started();
    // Behind each head is a second request, which must never be answered as one.
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
        let heard = raw(&host, bytes.as_bytes());
        let answers = heard.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{name}: {heard}");
        assert!(!heard.contains("\"posture\""), "{name}: the hidden request was answered: {heard}");
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 4"), "{name}: {heard}");
    }
    assert!(!host.token().is_empty());
}

#[test]
fn what_is_no_http_of_ours_is_refused() {
    let host = Host::started();
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\0\0\0\0",
        b"GET /v1/health\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\n\r\n",
        b"GET /v1/health HTTP/9.9\r\nhost: l\r\n\r\n",
    ] {
        let heard = raw(&host, bytes);
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 4"), "{bytes:?}: {heard}");
    }
    for target in ["/v1/token/", "//v1/token", "/v1/../v1/token", "/v1/token%00", "/"] {
        assert_eq!(host.connect().get(target).status, 404, "{target}");
    }
    assert!(!host.token().is_empty());
}

#[test]
fn a_crowd_of_idle_connections_keeps_nobody_out() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
    let host = Host::started();
    let crowd: Vec<UnixStream> =
        (0..10_000).map(|_| UnixStream::connect(host.agent_socket()).unwrap()).collect();
    // One of the same user as the crowd, and one of another.
    assert!(!host.token().is_empty());
    let stranger = Who::user(65_534).curl(&host, "/v1/health", &[]);
    assert_eq!(stranger.status, 200);
    let bound = 2_000;
    until_true("the crowd is held to its bound", || host.status()["connections"].as_u64().unwrap() <= bound);
    drop(crowd);
    until_true("the crowd has gone", || host.status()["connections"].as_u64().unwrap() < 10);
}

#[test]
fn a_crowd_that_dawdles_in_its_bodies_keeps_nobody_out() {
    let mut host = Host::new();
    host.configure("[limits]\nconnections = 64\nconnections_per_uid = 60\n");
    host.agent("root", "user = 0");
    host.start();
    let head = b"POST /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{";
    let crowd: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = UnixStream::connect(host.agent_socket()).unwrap();
            // Those who had to make room cannot be written to any more.
            let _ = stream.write_all(head);
            stream
        })
        .collect();
    for _ in 0..20 {
        assert!(!host.token().is_empty());
    }
    drop(crowd);
}

#[test]
fn who_asks_too_often_waits_while_others_are_served() {
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1\nburst = 5\nunknown_rate = 1\nunknown_burst = 5\n");
    host.agent("busy", "user = 0");
    host.agent("calm", "user = 65534");
    host.start();
    let mut connection = host.connect();
    let answers: Vec<_> = (0..40).map(|_| connection.post(TOKEN, &json!({ "audience": API }))).collect();
    let limited: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(limited.len() >= 30, "{}", limited.len());
    assert_eq!(limited[0].error(), "slow_down");
    assert_eq!(limited[0].header("retry-after"), Some("1"));
    assert_eq!(Who::user(65_534).token(&host).status, 200);

    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(Who::user(65_533).curl(&host, "/v1/whoami", &[]).status);
    }
    assert!(flood.contains(&401) && flood.contains(&429), "{flood:?}");
    let written = host.audit().iter().filter(|line| line["reason"] == "slow_down").count();
    assert!(written < 15, "a flood is summed up, not written down {written} times");
}

#[test]
fn a_sender_that_dawdles_is_cut_off_and_holds_up_nobody() {
    let host = Host::started();
    let mut slow = Connection::open(&host.agent_socket());
    slow.send(b"POST /v1/token HTTP/1.1\r\nhost: l\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        .unwrap();
    assert!(!host.token().is_empty());
    assert_eq!(slow.hear().unwrap().status, 408);
}

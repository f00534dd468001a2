//! What one uid cannot take from others on the HTTP sockets: evidence, room for bodies, answers, connections.

use std::fs;
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::http::{Connection, Response, request};
use crate::common::processes::Running;
use crate::common::{self, API, Host, require_root, until, until_true};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use serde_json::json;

/// Neither root nor `nobody`.
const THIRD: u32 = 65533;
/// "a nonce of 18 bytes"
const NONCE: &str = "YSBub25jZSBvZiAxOCBieXRlcw";
/// More than a body may have without a place.
const LARGE: usize = 5000;

/// A host with the agents `root` and `calm`, which is every process of `nobody`.
fn host() -> Host {
    require_root();
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.agent("calm", &format!("user = {NOBODY}"));
    host.start();
    host
}

fn calm() -> Credentials {
    Credentials::user(NOBODY)
}

fn allow_many_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
}

/// Connects without waiting, as an asynchronous client does.
fn connect_nonblocking(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).map(|()| fd)
}

/// Connects without waiting until the backlog is full, at most `most` times.
fn fill_backlog(path: &Path, most: usize) -> Vec<OwnedFd> {
    (0..most).map_while(|_| connect_nonblocking(path).ok()).collect()
}

#[test]
fn evidence_that_one_agent_does_not_read_keeps_none_from_others() {
    let host = host();
    // Longer than what the kernel buffers of a reply.
    fs::write(host.path("run/ima-list"), vec![b'x'; 2 << 20]).unwrap();
    let body = json!({ "nonce": NONCE }).to_string();
    let head =
        "POST /v1/attest HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let ask = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    // The requests of one agent wait for its one slot, so one by one; the limit of quotes is 5 at once.
    let mut unread: Vec<Connection> = (0..5)
        .map(|_| {
            let mut connection = host.connect();
            connection.send(ask.as_bytes()).unwrap();
            connection
        })
        .collect();
    until_true("evidence is made", || !common::audit_log::with_event(&host.audit(), "attested").is_empty());
    let nonce = format!("nonce={NONCE}");
    for _ in 0..3 {
        let answer = calm().curl(&host, "/v1/attest", &["-d", &nonce]);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // A later request of the same agent takes the slot of an unread reply, whose connection ends; those that
    // do not get it in time are refused. Where making evidence takes seconds, all four may be refused.
    until_true("a slot is taken and a request is refused", || {
        let audit = host.audit();
        let attested = common::audit_log::with_event(&audit, "attested");
        let has_taken = attested.iter().filter(|line| line["agent"] == "root").count() >= 2;
        let is_refused = audit.iter().any(|line| line["reason"] == "temporarily_unavailable");
        if !has_taken && is_refused {
            let mut connection = host.connect();
            connection.send(ask.as_bytes()).unwrap();
            unread.push(connection);
            std::thread::park_timeout(std::time::Duration::from_secs(1));
        }
        has_taken && is_refused
    });
    let replies: Vec<String> = unread.iter_mut().map(read_to_end).collect();
    assert!(replies.iter().any(|reply| is_cut(reply)), "no reply was ended before its end");
    let refused = replies.iter().find(|reply| reply.starts_with("HTTP/1.1 503 ")).expect("a refusal");
    assert!(refused.contains("\r\nretry-after: 5\r\n"), "{refused}");
}

fn read_to_end(connection: &mut Connection) -> String {
    let mut received = Vec::new();
    // A connection that the daemon ended may report an error after what it received.
    let _ = connection.stream.read_to_end(&mut received);
    String::from_utf8(received).unwrap()
}

/// Whether a reply with status 200 ended before the end of its body.
fn is_cut(reply: &str) -> bool {
    reply.starts_with("HTTP/1.1 200 ") && Response::parse(reply.as_bytes(), false).is_none()
}

#[test]
fn unfinished_bodies_of_one_uid_leave_room_for_those_of_others() {
    let host = host();
    let head = b"POST /v1/introspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                 Content-Length: 60000\r\n\r\n";
    let mut unfinished: Vec<Connection> = (0..256)
        .map(|_| {
            let mut connection = host.connect();
            connection.send(head).unwrap();
            connection.send(&[b'x'; LARGE]).unwrap();
            connection
        })
        .collect();
    // The last one was read and found no room, so all before it hold what they may.
    let refused = unfinished.pop().unwrap().read_response().unwrap();
    assert_eq!((refused.status, refused.error().as_str()), (503, "temporarily_unavailable"));
    let large = format!("token={}", "x".repeat(LARGE));
    let answer = calm().curl(&host, "/v1/introspect", &["-d", &large]);
    assert_eq!((answer.status, answer.json()["active"].as_bool()), (200, Some(false)), "{}", answer.text());
    drop(unfinished);
    until_true("the places are free", || {
        host.post("/v1/introspect", json!({ "token": "x".repeat(LARGE) })).status == 200
    });
}

#[test]
fn documents_and_errors_have_a_rate_for_each_uid() {
    allow_many_descriptors();
    let mut host = Host::new();
    require_root();
    host.configure("[limits]\npublic_rate = 10\npublic_burst = 50\n");
    host.agent("root", "user = 0");
    host.agent("calm", &format!("user = {NOBODY}"));
    host.start();
    let third = Credentials::user(THIRD);
    assert_eq!(third.curl(&host, "/v1/bundle", &[]).status, 200);
    for target in ["/v1/bundle", "/v1/nothing"] {
        let flood: Vec<Connection> = (0..200)
            .map(|_| {
                let mut connection = host.connect();
                connection.send(&request("GET", target, None, b"")).unwrap();
                connection
            })
            .collect();
        let answers: Vec<_> =
            flood.into_iter().map(|mut connection| connection.read_response().unwrap()).collect();
        let limited = answers.iter().filter(|answer| answer.status == 429).collect::<Vec<_>>();
        assert!(!limited.is_empty(), "{target}: nothing was limited");
        let answer = limited[0];
        assert_eq!((answer.error().as_str(), answer.header("retry-after")), ("slow_down", Some("2")));
        assert_eq!(answer.header("connection"), Some("close"));
        // Neither other uids nor the results of the agent itself are limited.
        assert_eq!(third.curl(&host, "/v1/health", &[]).status, 200);
        assert_eq!(calm().token(&host).status, 200);
        assert!(!host.token().is_empty());
    }
}

#[test]
fn a_thousand_connections_wait_to_be_accepted() {
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    if limit.trim().parse::<u32>().unwrap() < 1000 {
        return eprintln!("net.core.somaxconn is {limit}: not tested");
    }
    allow_many_descriptors();
    let host = host();
    host.signal(Signal::SIGSTOP);
    for path in [host.agent_socket(), host.workload_socket(), host.admin_socket()] {
        assert_eq!(fill_backlog(&path, 1000).len(), 1000, "{}", path.display());
    }
    host.signal(Signal::SIGCONT);
    until_true("tokens are issued", || calm().token(&host).status == 200);
}

#[test]
fn the_command_waits_while_the_backlog_is_full() {
    allow_many_descriptors();
    let host = host();
    host.signal(Signal::SIGSTOP);
    let waiting = fill_backlog(&host.agent_socket(), 10_000);
    assert!(matches!(connect_nonblocking(&host.agent_socket()), Err(Errno::EAGAIN)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostbadge"));
    command.args(["token", API]).env("HOSTBADGE_SOCKET", host.agent_socket());
    calm().apply_to(&mut command);
    let mut command = Running::start({
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    });
    let call = format!("/proc/{}/syscall", command.pid());
    until_true("the command waits in connect(2)", || {
        let in_connect = format!("{} ", libc::SYS_connect);
        // A kernel may not have the file.
        let waits = fs::read_to_string(&call).map_or(true, |number| number.starts_with(&in_connect));
        waits || command.exited().is_some()
    });
    assert!(command.exited().is_none(), "it did not wait");
    host.signal(Signal::SIGCONT);
    let status = until("the command ends", || command.exited());
    assert!(status.success(), "{status}");
    drop(waiting);
}

#[test]
fn the_bundle_is_rebuilt_when_the_keys_change() {
    let host = host();
    let key_ids = || -> Vec<String> {
        let bundle = host.get("/v1/bundle").json();
        let keys = bundle["keys"].as_array().unwrap();
        keys.iter().filter_map(|key| Some(key["kid"].as_str()?.to_owned())).collect()
    };
    let before = key_ids();
    assert_eq!(before, key_ids());
    let rotated = host.admin().post("/v1/keys/rotate", &json!({}));
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    let kid = rotated.json()["kid"].as_str().unwrap().to_owned();
    assert!(!before.contains(&kid) && key_ids().contains(&kid), "{kid}");
}

/// The last close of some descriptors waits for as long as their owner chose.
#[test]
fn clients_cannot_attach_descriptors() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    let host = Host::started();
    for socket in [host.agent_socket(), host.workload_socket(), host.admin_socket()] {
        let stream = UnixStream::connect(socket).unwrap();
        let file = fs::File::open("/dev/null").unwrap();
        let descriptors = [file.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        let sent =
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"G")], &message, MsgFlags::empty(), None);
        // Older kernels cannot refuse them.
        let expected = if version >= (6, 16) { Err(Errno::EPERM) } else { Ok(1) };
        assert_eq!(sent, expected, "Linux {release}");
    }
}

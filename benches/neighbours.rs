//! What the floods of one uid cost other agents: the latency of a token while the flood is aimed at the
//! daemon, beside the latency while the same flood is aimed at a server that only answers.
//!
//! `cargo bench --bench neighbours` as root (or `make bench`): the flood runs as another uid. Each latency
//! includes a new connection. After `--`, a number sets the seconds of each flood (10
//! by default), and names of floods choose some of them.

mod support;

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use support::{Client, Host, Journald, median, percentile};

/// The uid of the flood, which no agent matches.
const STRANGER: u32 = 65_533;
const CONNECTIONS: usize = 200;
const TOKEN: &str = r#"{"audience":"https://api.example.com"}"#;
/// Time between two requests whose latency is measured.
const PAUSE: Duration = Duration::from_millis(5);

/// The name of a flood, the method and path of its requests, and how many of them a connection has sent
/// ahead; 0 has it connect and close in a loop.
const FLOODS: &[(&str, &str, &str, usize)] = &[
    ("documents", "GET", "/v1/bundle", 1),
    ("documents, pipelined", "GET", "/v1/bundle", 32),
    ("unknown paths", "GET", "/v1/none", 1),
    ("refused tokens", "POST", "/v1/token", 1),
    ("connections", "", "", 0),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [_, "serve", socket] => serve(Path::new(socket)),
        [_, "flood", name, socket] => flood(name, Path::new(socket)),
        _ => measure(&words),
    }
}

fn measure(words: &[&str]) {
    let seconds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(10);
    let chosen = |name: &str| words.contains(&name);
    let all = !FLOODS.iter().any(|(name, ..)| chosen(name));
    assert!(nix::unistd::geteuid().is_root(), "run this as root: the flood runs as another uid");
    let _journald = Journald::ensure();
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
    let host_dir = dir.path().join("host");
    std::fs::create_dir_all(host_dir.join("etc/agents.d")).expect("a directory");
    let agent = "name = \"root\"\n[match]\nuser = 0\n[[grant]]\naudience = \"https://api.example.com\"\n";
    std::fs::write(host_dir.join("etc/agents.d/root.toml"), agent).expect("a file");
    // The limits of strangers are the defaults.
    let host = Host::start_with_limits(&host_dir, "rate = 10000000\nburst = 10000000\n");
    let other = dir.path().join("other.sock");
    // A copy that the other uid can execute: the directory of the build may be closed to it.
    let program = dir.path().join("neighbours");
    std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
    let _server = Running::start(&program, 0, &["serve", path_text(&other)]);
    while UnixStream::connect(&other).is_err() {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let for_seconds = Duration::from_secs(seconds);
    let idle = latencies(host.socket(), for_seconds);
    println!("latency of a token, in ms: median, p99     no flood {:>7.2} {:>7.2}", p50(&idle), p99(&idle));
    for (name, ..) in FLOODS.iter().filter(|(name, ..)| all || chosen(name)) {
        let beside = |socket: &Path| {
            let _flood = Running::start(&program, STRANGER, &["flood", name, path_text(socket)]);
            std::thread::park_timeout(Duration::from_secs(1));
            let before = host.cpu();
            let times = latencies(host.socket(), for_seconds);
            (times, (host.cpu() - before).as_secs_f64() / seconds as f64, host.resident() as f64 / 1e6)
        };
        let (server, ..) = beside(&other);
        let (daemon, cpu, memory) = beside(host.socket());
        println!(
            "{name:<24} at a server {:>7.2} {:>7.2}   at the daemon {:>7.2} {:>7.2}   p99 {:+.2} ms, {:.2}   \
             daemon: {cpu:.2} processors, {memory:.0} MB",
            p50(&server),
            p99(&server),
            p50(&daemon),
            p99(&daemon),
            p99(&daemon) - p99(&server),
            p99(&daemon) / p99(&server),
        );
    }
}

/// Latencies of tokens, each on a new connection.
fn latencies(socket: &Path, time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    let mut times = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        Client::connect(socket).ask("POST", "/v1/token", TOKEN);
        times.push(started.elapsed());
        std::thread::park_timeout(PAUSE);
    }
    times
}

fn p50(times: &[Duration]) -> f64 {
    median(times).as_secs_f64() * 1e3
}

fn p99(times: &[Duration]) -> f64 {
    percentile(times, 99).as_secs_f64() * 1e3
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A copy of this program as another uid, killed on drop.
struct Running(Child);

impl Running {
    fn start(program: &Path, uid: u32, arguments: &[&str]) -> Running {
        let mut command = Command::new(program);
        Running(command.args(arguments).uid(uid).gid(uid).stdin(Stdio::null()).spawn().expect("this program"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that answers each request with 1,000 bytes, on two threads.
fn serve(socket: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
        std::fs::set_permissions(socket, PermissionsExt::from_mode(0o666)).expect("permissions");
        let body = Bytes::from(vec![b'x'; 1000]);
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let body = body.clone();
            tokio::spawn(async move {
                let answer = service_fn(|_: Request<hyper::body::Incoming>| {
                    let reply = Response::new(Full::new(body.clone()));
                    async { Ok::<_, Infallible>(reply) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
}

/// Floods until it is killed.
fn flood(name: &str, socket: &Path) {
    let (_, method, path, ahead) = FLOODS.iter().find(|(known, ..)| *known == name).expect("a flood");
    if *ahead == 0 {
        loop {
            drop(UnixStream::connect(socket));
        }
    }
    let body = if *method == "POST" { TOKEN } else { "" };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: l\r\ncontent-type: application/json\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes();
    let connect = || {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_nonblocking(true).ok()?;
        (&stream).write_all(&request.repeat(*ahead)).ok()?;
        Some(stream)
    };
    let mut connections: Vec<Option<UnixStream>> = (0..CONNECTIONS).map(|_| connect()).collect();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let open: Vec<usize> = (0..CONNECTIONS).filter(|at| connections[*at].is_some()).collect();
        let mut polled: Vec<PollFd> = open
            .iter()
            .map(|at| PollFd::new(connections[*at].as_ref().expect("open").as_fd(), PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut polled, PollTimeout::from(100u16));
        let ready: Vec<usize> = polled
            .iter()
            .zip(&open)
            .filter(|(polled, _)| polled.revents().is_some_and(|events| !events.is_empty()))
            .map(|(_, at)| *at)
            .collect();
        for at in ready {
            let alive = connections[at].as_mut().is_some_and(|stream| match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(length) => {
                    let answers = buffer[..length].windows(9).filter(|text| *text == b"HTTP/1.1 ").count();
                    stream.write_all(&request.repeat(answers)).is_ok()
                }
                Err(e) => e.kind() == ErrorKind::WouldBlock,
            });
            if !alive {
                connections[at] = None;
            }
        }
        for connection in &mut connections {
            if connection.is_none() {
                *connection = connect();
            }
        }
    }
}

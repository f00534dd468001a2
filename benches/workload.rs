//! The cost of JWT-SVIDs over the Workload API, beside a bare call and a raw signature in this run, and of
//! open streams.
//!
//! `cargo bench --bench workload` (or `make bench`). The time of the client, hyper's HTTP/2 on its own
//! thread, is in each number, also of the bare call.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use support::{Host, Journald, median, micros, percentile, ratio, raw_signature};

const SERIAL: usize = 10_000;
const FRESH: usize = 2_000;
const CONCURRENT: usize = 16;
const EACH: usize = 1_500;
const OPEN: usize = 1_000;
const TOKEN: &str = "FetchJWTSVID";
/// A method that does not exist.
const BARE: &str = "FetchNothing";

fn main() {
    let _journald = Journald::ensure();
    let raw = raw_signature();
    println!("raw ring P-256 signature    {:8.1} us", micros(raw));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let host = Host::start(dir.path());
    let socket = host.socket().with_file_name("workload.sock");

    let bare = report("bare call, serial", &host, raw, None, || serial(&socket, BARE, SERIAL));
    report("JWT-SVID, serial", &host, raw, Some(bare), || serial(&socket, TOKEN, SERIAL));
    report("a connection for each call", &host, raw, Some(bare), || {
        let timed = |_| {
            let started = Instant::now();
            Client::connect(&socket).call(TOKEN);
            started.elapsed()
        };
        (0..FRESH).map(timed).collect()
    });
    for method in [BARE, TOKEN] {
        let (before, started) = (host.cpu(), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..CONCURRENT {
                scope.spawn(|| serial(&socket, method, EACH));
            }
        });
        let (took, count) = (started.elapsed(), CONCURRENT * EACH);
        println!("{method}, {CONCURRENT} connections  {:8.0} a second", count as f64 / took.as_secs_f64());
        let each = (host.cpu() - before) / count as u32;
        println!(
            "  daemon's CPU for each     {:8.1} us   {:.2} raw signatures",
            micros(each),
            ratio(each, raw)
        );
    }

    let idle = host.resident();
    let runtime = runtime();
    let first = Instant::now();
    let open: Vec<_> = (0..OPEN).map(|_| runtime.block_on(follow(&socket))).collect();
    let first = first.elapsed() / OPEN as u32;
    println!("first X509-SVID of a stream {:8.1} us   with its connection", micros(first));
    let full = host.resident();
    println!(
        "memory, {OPEN} streams       {:8.1} MB   {:.1} KB each, idle {:.1} MB",
        full as f64 / 1e6,
        full.saturating_sub(idle) as f64 / 1e3 / OPEN as f64,
        idle as f64 / 1e6
    );
    let before = host.cpu();
    // Idle streams cost the checks that their callers still exist.
    runtime.block_on(async { tokio::time::sleep(Duration::from_secs(5)).await });
    println!("CPU, {OPEN} streams at rest   {:8.2} %", (host.cpu() - before).as_secs_f64() / 5.0 * 100.0);
    drop(open);
}

/// Measures and prints the cost of a call. Returns the median time.
fn report(
    name: &str,
    host: &Host,
    raw: Duration,
    bare: Option<Duration>,
    run: impl FnOnce() -> Vec<Duration>,
) -> Duration {
    let before = host.cpu();
    let times = run();
    let each = (host.cpu() - before) / times.len() as u32;
    let p50 = median(&times);
    let beside = bare.map(|bare| format!("   {:.2} bare calls", ratio(p50, bare))).unwrap_or_default();
    println!("{name:<27} {:8.1} us   p99 {:.1} us{beside}", micros(p50), micros(percentile(&times, 99)));
    println!("  daemon's CPU for each     {:8.1} us   {:.2} raw signatures", micros(each), ratio(each, raw));
    p50
}

fn serial(socket: &Path, method: &str, count: usize) -> Vec<Duration> {
    let mut client = Client::connect(socket);
    for _ in 0..200 {
        client.call(method);
    }
    let timed = |_| {
        let started = Instant::now();
        client.call(method);
        started.elapsed()
    };
    (0..count).map(timed).collect()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// One connection, whose runtime is on the caller's thread.
struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    fn connect(socket: &Path) -> Client {
        let runtime = runtime();
        let sender = runtime.block_on(connect(socket.to_owned()));
        Client { runtime, sender }
    }

    /// Makes a call and reads its response; a denied token ends the benchmark.
    fn call(&mut self, method: &str) {
        let sender = &mut self.sender;
        self.runtime.block_on(async {
            let answer = sender.send_request(request(method)).await.expect("an answer");
            let length = answer.into_body().collect().await.expect("a body").to_bytes().len();
            assert!(method != TOKEN || length > 500, "refused");
        });
    }
}

async fn connect(socket: PathBuf) -> SendRequest<Full<Bytes>> {
    let stream = UnixStream::connect(socket).await.expect("the socket");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn request(method: &str) -> Request<Full<Bytes>> {
    // A JWTSVIDRequest with one audience; other methods ignore its field.
    let audience = "https://api.example.com";
    let message = [&[0x0a, audience.len() as u8], audience.as_bytes()].concat();
    let frame = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
    Request::post(format!("http://localhost/SpiffeWorkloadAPI/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("workload.spiffe.io", "true")
        .body(Full::from(Bytes::from(frame)))
        .expect("a request")
}

/// An open stream of certificates whose first message has arrived.
async fn follow(socket: &Path) -> (SendRequest<Full<Bytes>>, Incoming) {
    let mut sender = connect(socket.to_owned()).await;
    let mut body = sender.send_request(request("FetchX509SVID")).await.expect("an answer").into_body();
    body.frame().await.expect("a message").expect("a frame");
    (sender, body)
}

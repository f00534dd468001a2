//! Measures an attack: the daemon's memory, and the latency of an agent's tokens.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::callers::Credentials;
use crate::common::http::{Connection, request};
use crate::common::{API, Host};
use crate::load::{Load, STRANGER};
use crate::sink;

/// The uid of an agent that attacks.
pub const NEIGHBOUR: u32 = 12_003;
/// What one uid may cost the daemon, in bytes.
const MAX_MEMORY: u64 = 64 << 20;
/// What remains of that half a minute after its clients have gone.
const MAX_MEMORY_AFTER: u64 = 16 << 20;
/// By how much an agent's 99th percentile may exceed that beside the server that only answers: the larger of
/// both.
const MAX_RATIO: f64 = 1.10;
const MAX_EXCESS: Duration = Duration::from_millis(1);
/// The agent's pause between two tokens: 200 a second would be the most that it asks for.
const PAUSE: Duration = Duration::from_millis(5);

/// Which form of the attacks runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Short,
    Long,
}

impl Form {
    fn current() -> Form {
        if std::env::var_os("HOSTBADGE_ATTACK").is_some_and(|form| form == "long") {
            Form::Long
        } else {
            Form::Short
        }
    }

    fn rounds(self) -> u32 {
        match self {
            Form::Short => 1,
            Form::Long => 3,
        }
    }

    fn round(self) -> Duration {
        match self {
            Form::Short => Duration::from_secs(1),
            Form::Long => Duration::from_secs(4),
        }
    }
}

/// One attack at a time, since each measures latency.
static TURN: Mutex<()> = Mutex::new(());

/// The sockets of the daemon.
#[derive(Clone, Copy)]
pub enum Socket {
    Agent,
    Workload,
}

/// Runs `load` as a stranger against the daemon and holds the limits.
#[track_caller]
pub fn hold(name: &str, socket: Socket, load: &Load) {
    hold_as(name, socket, load, &Credentials::user(STRANGER));
}

/// Runs `load` as `who`.
#[track_caller]
pub fn hold_as(name: &str, socket: Socket, load: &Load, who: &Credentials) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let form = Form::current();
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n[log]\nto = \"stderr\"\nlevel = \"warn\"\n");
    host.agent("root", "user = 0");
    host.agent("neighbour", &format!("user = {NEIGHBOUR}"));
    host.start();
    let idle = resident(&host);
    let dummy = host.path("run/sink.sock");
    let attacked = match socket {
        Socket::Agent => host.agent_socket(),
        Socket::Workload => host.workload_socket(),
    };
    let (mut quiet, mut beside_dummy, mut beside_attack) = (Vec::new(), Vec::new(), Vec::new());
    let mut peak = 0;
    for _ in 0..form.rounds() {
        if form == Form::Long {
            tokens(&host, form.round(), &mut quiet);
            let _server = sink::start(&dummy);
            under_load(load, &dummy, who, || tokens(&host, form.round(), &mut beside_dummy));
            fs::remove_file(&dummy).unwrap();
        }
        peak = under_load(load, &attacked, who, || {
            let during = tokens(&host, form.round(), &mut beside_attack);
            during.max(resident(&host))
        })
        .max(peak);
    }
    let cost = peak.saturating_sub(idle);
    let after = settled(&host, idle).saturating_sub(idle);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{name:28} memory idle {:5.1}, attacked +{:6.1}, after +{:5.1} MiB; token p50/p99 ms: quiet {}, beside \
         a server that only answers {}, attacked {}",
        mib(idle),
        mib(cost),
        mib(after),
        Percentiles::of(&mut quiet),
        Percentiles::of(&mut beside_dummy),
        Percentiles::of(&mut beside_attack),
    );
    assert!(cost <= MAX_MEMORY, "{name}: {cost} bytes of memory");
    assert!(after <= MAX_MEMORY_AFTER, "{name}: {after} bytes of memory after the clients have gone");
    assert!(!host.log().contains("panicked"), "{name}: a panic");
    if form == Form::Long {
        let (limit, p99) = (Percentiles::of(&mut beside_dummy).p99, Percentiles::of(&mut beside_attack).p99);
        assert!(
            p99 <= limit.mul_f64(MAX_RATIO).max(limit + MAX_EXCESS),
            "{name}: the 99th percentile is {p99:?}, beside a server that only answers {limit:?}"
        );
    }
}

/// Runs `measured` while the clients run, a moment after they have started.
fn under_load<T>(load: &Load, socket: &Path, who: &Credentials, measured: impl FnOnce() -> T) -> T {
    let mut clients = load.start(socket, who);
    std::thread::park_timeout(Duration::from_millis(500));
    let result = measured();
    clients.assert_running();
    result
}

/// Gets tokens for `time`, each on a connection of its own, and adds their latencies. Returns the most memory
/// that the daemon had.
#[track_caller]
fn tokens(host: &Host, time: Duration, latencies: &mut Vec<Duration>) -> u64 {
    let body = format!("{{\"audience\":\"{API}\"}}");
    let bytes = request("POST", "/v1/token", Some("application/json"), body.as_bytes());
    let (end, mut peak) = (Instant::now() + time, 0);
    while Instant::now() < end {
        let start = Instant::now();
        let response = Connection::open(&host.agent_socket()).exchange(&bytes);
        latencies.push(start.elapsed());
        assert_eq!(response.status, 200, "{}", response.text());
        peak = resident(host).max(peak);
        std::thread::park_timeout(PAUSE);
    }
    peak
}

/// The daemon's resident memory in bytes, once it is near `idle` again, or after half a minute.
fn settled(host: &Host, idle: u64) -> u64 {
    for _ in 0..300 {
        if resident(host) <= idle + MAX_MEMORY_AFTER / 2 {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    resident(host)
}

/// The daemon's resident memory, in bytes.
fn resident(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

struct Percentiles {
    p50: Duration,
    p99: Duration,
}

impl Percentiles {
    fn of(latencies: &mut [Duration]) -> Percentiles {
        latencies.sort_unstable();
        let at = |part: f64| {
            let index = (latencies.len() as f64 * part) as usize;
            latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Percentiles { p50: at(0.50), p99: at(0.99) }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "{:.2}/{:.2}", ms(self.p50), ms(self.p99))
    }
}

//! The cost of tokens, beside a raw signature and a bare round trip on this machine in this run.
//!
//! `cargo bench --bench tokens` (or `make bench`). Starts a daemon in release mode, with audit log and
//! journal, and calls it over its socket. Root can start journald where it does not run.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use support::{Client, Host, Journald, median, micros, percentile, ratio, raw_signature, thread_cpu};

const SERIAL: usize = 20_000;
const CERTIFICATES: usize = 3_500;
const CONCURRENT: usize = 16;
const EACH: usize = 4_000;
const OPEN: usize = 1_000;

fn main() {
    let journald = Journald::ensure();
    let raw = raw_signature();
    println!("raw ring P-256 signature    {:8.1} us   {:8.0} a second", micros(raw), 1.0 / raw.as_secs_f64());

    let dir = tempfile::tempdir().expect("a temporary directory");
    // The first start provisions the host, which is not measured.
    drop(Host::start(dir.path()));
    let ready: Vec<Duration> = (0..5).map(|_| Host::start(dir.path()).ready_after()).collect();
    println!(
        "start to ready              {:8.1} ms   with the software TPM's own start",
        micros(median(&ready)) / 1e3
    );
    let host = Host::start(dir.path());
    // Long enough for a probe of the TPM.
    std::thread::park_timeout(Duration::from_secs(12));
    println!("memory idle                 {:8.1} MB", host.resident() as f64 / 1e6);
    println!(
        "journal                     {}",
        if journald.running() { "journald" } else { "standard error" }
    );
    let before = host.cpu();
    let bare = serial(&host, "GET", "/v1/none", "");
    let bare_cpu = (host.cpu() - before) / bare.len() as u32;
    println!(
        "bare round trip, serial     {:8.1} us   p99 {:.1} us",
        micros(median(&bare)),
        micros(percentile(&bare, 99))
    );
    report_cpu(bare_cpu, raw);

    let before = host.cpu();
    let tokens = serial(&host, "POST", "/v1/token", TOKEN);
    let used = host.cpu() - before;
    report_serial(&tokens, &bare, used, raw);

    // The daemon keeps each unexpired certificate, at most 4,096 of one agent.
    let before = host.cpu();
    let certificates = ask_often(&host, CERTIFICATES, "POST", "/v1/certificate", "{}");
    let used = host.cpu() - before;
    report_certificates(&certificates, used, raw);

    for (name, method, path, body) in
        [("bare", "GET", "/v1/none", ""), ("tokens", "POST", "/v1/token", TOKEN)]
    {
        // Measured before and after, because the clock of the processor follows the load.
        let raw_before = raw_signature();
        let before = host.cpu();
        let took = concurrent(&host, method, path, body);
        let (used, count) = (host.cpu() - before, CONCURRENT * EACH);
        let raw = (raw_before + raw_signature()) / 2;
        println!(
            "{name:<6} over {CONCURRENT} connections  {:8.0} a second",
            count as f64 / took.as_secs_f64()
        );
        report_cpu(used / count as u32, raw);
    }

    let idle = host.resident();
    let open: Vec<Client> = (0..OPEN)
        .map(|_| {
            let mut client = Client::connect(host.socket());
            client.ask("POST", "/v1/token", TOKEN);
            client
        })
        .collect();
    let full = host.resident();
    println!(
        "memory, {OPEN} connections   {:8.1} MB   {:.1} KB each",
        full as f64 / 1e6,
        (full.saturating_sub(idle)) as f64 / 1e3 / OPEN as f64
    );
    drop(open);
    report_many_agents(raw);
    report_policies(raw);
}

/// What tokens cost with more and more policies: those that name other agents must not count, and those that
/// concern all agents cost in proportion to their number.
fn report_policies(raw: Duration) {
    for (count, is_scoped) in
        [(0, true), (10, true), (1_000, true), (5_000, true), (10, false), (1_000, false), (5_000, false)]
    {
        let (kind, policy) = match is_scoped {
            true => ("for one agent each", scoped as fn(usize) -> String),
            false => ("for all agents", unscoped as fn(usize) -> String),
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        drop(Host::start(dir.path()));
        let host = Host::start(dir.path());
        let before = host.resident();
        if count > 0 {
            let policies = dir.path().join("etc/policies");
            std::fs::create_dir(&policies).expect("a directory");
            let text: String = (0..count).map(policy).collect();
            std::fs::write(policies.join("all.cedar"), text).expect("a file");
        }
        let (reload, worst) = reload(&host, dir.path());
        println!("policies {kind}: {count}");
        println!(
            "  reload                    {:8.1} ms   longest token meanwhile {:.1} ms",
            micros(reload) / 1e3,
            micros(worst) / 1e3
        );
        println!(
            "  memory for them           {:8.1} MB",
            host.resident().saturating_sub(before) as f64 / 1e6
        );
        let used = host.cpu();
        let mut client = Client::connect(host.socket());
        for _ in 0..EACH {
            client.ask("POST", "/v1/token", TOKEN);
        }
        println!("  token");
        report_cpu((host.cpu() - used) / EACH as u32, raw);
    }
}

/// A policy for an agent; the first one is for the agent of the benchmark.
fn scoped(n: usize) -> String {
    let agent = if n == 0 { "example".to_owned() } else { format!("a{n}") };
    format!(
        "forbid (principal == Agent::\"{agent}\", action == Action::\"token\", resource)\n\
         when {{ context.ttl > 3600 || context.posture == \"changed\" }};\n"
    )
}

fn unscoped(n: usize) -> String {
    format!(
        "forbid (principal, action == Action::\"token\", resource)\n\
         when {{ context.ttl > {} || context.posture == \"changed\" }};\n",
        3600 + n
    )
}

/// What tokens and a reload cost with more and more agents. The cost of tokens must not grow.
fn report_many_agents(raw: Duration) {
    for agents in [1, 100, 10_000] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        drop(Host::start(dir.path()));
        let host = Host::start(dir.path());
        let before = host.resident();
        for n in 1..agents {
            let text = format!(
                "name = \"a{n}\"\nowner = \"team@example.com\"\n[match]\nuser = {}\nunit = \"a{n}.service\"\n\
                 [[grant]]\naudience = \"https://api.example.com\"\nscopes = [\"docs.read\"]\n",
                100_000 + n
            );
            std::fs::write(dir.path().join(format!("etc/agents.d/a{n}.toml")), text).expect("a file");
        }
        let (reload, worst) = reload(&host, dir.path());
        println!("agents: {agents}");
        println!(
            "  reload                    {:8.1} ms   longest token meanwhile {:.1} ms",
            micros(reload) / 1e3,
            micros(worst) / 1e3
        );
        println!(
            "  memory for them           {:8.1} MB",
            host.resident().saturating_sub(before) as f64 / 1e6
        );
        // The daemon serves a burst of new connections of one user, and delays more.
        for (name, times, is_new) in [("token", 4 * EACH, false), ("token, new connection", EACH, true)] {
            let used = host.cpu();
            let mut client = Client::connect(host.socket());
            for _ in 0..times {
                if is_new {
                    client = Client::connect(host.socket());
                }
                client.ask("POST", "/v1/token", TOKEN);
            }
            println!("  {name}");
            report_cpu((host.cpu() - used) / times as u32, raw);
        }
    }
}

/// The time of a reload, and of the longest request during it.
fn reload(host: &Host, dir: &Path) -> (Duration, Duration) {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut client = Client::connect(host.socket());
            let mut longest = Duration::ZERO;
            while !is_done.load(Ordering::Relaxed) {
                let started = Instant::now();
                client.ask("POST", "/v1/token", TOKEN);
                longest = longest.max(started.elapsed());
                std::thread::park_timeout(Duration::from_millis(1));
            }
            longest
        });
        let mut admin = Client::connect(&dir.join("run/admin.sock"));
        let started = Instant::now();
        admin.ask("POST", "/v1/agents/reload", "{}");
        let took = started.elapsed();
        is_done.store(true, Ordering::Relaxed);
        (took, asker.join().expect("the requests"))
    })
}

const TOKEN: &str = r#"{"audience":"https://api.example.com"}"#;

fn report_serial(tokens: &[Duration], bare: &[Duration], used: Duration, raw: Duration) {
    let (p50, p99) = (median(tokens), percentile(tokens, 99));
    println!(
        "token, serial               {:8.1} us   p99 {:.1} us   {:.2} bare round trips",
        micros(p50),
        micros(p99),
        ratio(p50, median(bare))
    );
    println!(
        "tokens over one connection  {:8.0} a second",
        tokens.len() as f64 / tokens.iter().sum::<Duration>().as_secs_f64()
    );
    report_cpu(used / tokens.len() as u32, raw);
}

/// Beside a raw signature, and beside a raw signature with a new key, which each certificate has.
fn report_certificates(certificates: &[Duration], used: Duration, raw: Duration) {
    let (p50, key) = (median(certificates), raw_key());
    println!(
        "certificate, serial         {:8.1} us   p99 {:.1} us   {:.2} raw signatures, {:.2} with a raw key",
        micros(p50),
        micros(percentile(certificates, 99)),
        ratio(p50, raw),
        ratio(p50, raw + key)
    );
    println!(
        "certificates, one connection{:8.0} a second",
        certificates.len() as f64 / certificates.iter().sum::<Duration>().as_secs_f64()
    );
    report_cpu(used / certificates.len() as u32, raw);
}

/// The processor time to create a P-256 key.
fn raw_key() -> Duration {
    let random = SystemRandom::new();
    let made: Vec<Duration> = (0..500)
        .map(|_| {
            let started = thread_cpu();
            let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
            std::hint::black_box(key.expect("a key"));
            thread_cpu() - started
        })
        .collect();
    median(&made)
}

/// User and system time of the daemon per request, with journal and audit log.
fn report_cpu(each: Duration, raw: Duration) {
    println!("  daemon's CPU for each     {:8.1} us   {:.2} raw signatures", micros(each), ratio(each, raw));
}

/// The time of all requests over concurrent connections, each of which sends a request after each response.
fn concurrent(host: &Host, method: &str, path: &str, body: &str) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT {
            scope.spawn(|| {
                let mut client = Client::connect(host.socket());
                for _ in 0..EACH {
                    client.ask(method, path, body);
                }
            });
        }
    });
    started.elapsed()
}

fn serial(host: &Host, method: &str, path: &str, body: &str) -> Vec<Duration> {
    ask_often(host, SERIAL, method, path, body)
}

fn ask_often(host: &Host, times: usize, method: &str, path: &str, body: &str) -> Vec<Duration> {
    let mut client = Client::connect(host.socket());
    for _ in 0..200 {
        client.ask(method, path, body);
    }
    (0..times)
        .map(|_| {
            let started = Instant::now();
            client.ask(method, path, body);
            started.elapsed()
        })
        .collect()
}

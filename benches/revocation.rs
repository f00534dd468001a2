//! The cost of revocation: from the request to the first refusal, a token's CPU with many revocations, and
//! introspections a second.
//!
//! `cargo bench --bench revocation` (or `make bench`). Starts a daemon in release mode, with audit log and journal,
//! and calls it over its sockets.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Host, Journald, median, micros, percentile, ratio, raw_signature};

const TOKEN: &str = r#"{"audience":"https://api.example.com"}"#;
/// Revocations of an agent, each of which is lifted again: an administrator has 120 such commands an hour.
const AGENTS: usize = 50;
const SINGLE_TOKENS: usize = 1_000;
const MANY: usize = 100_000;
const CONNECTIONS: usize = 16;
const REQUESTS: usize = 20_000;
/// Rounds of the comparison with a host without revocations: the processor's clock rate drifts, so both hosts are
/// measured in turn.
const ROUNDS: usize = 7;

fn main() {
    let _journald = Journald::ensure();
    let (plain_dir, revoked_dir) = (tempfile::tempdir(), tempfile::tempdir());
    let (plain_dir, dir) = (plain_dir.expect("a directory"), revoked_dir.expect("a directory"));
    let (plain, host) = (start(plain_dir.path()), start(dir.path()));
    let admin = dir.path().join("run/admin.sock");

    let raw = raw_signature();
    println!("raw ring P-256 signature    {:8.1} us", micros(raw));
    let bare = cost(&host, "GET", "/v1/none", "");
    println!("bare round trip             {:8.1} us of CPU", micros(bare));
    println!("\nrevoke to refused");
    report("an agent, until refused", &agent_revocations(&host, &admin));
    report("a token, until acknowledged", &token_revocations(&host, &admin));
    report("an agent, by hostbadge", &command_revocations(dir.path(), &admin));

    println!("\nwith revocations");
    let memory = host.resident();
    let started = Instant::now();
    revoke_many(&admin);
    let elapsed = started.elapsed().as_secs_f64();
    println!("{MANY} revocations in {elapsed:.1} s: {:.0} a second", MANY as f64 / elapsed);
    println!(
        "memory                      {:8.1} MB more, {:.1} MB in all",
        (host.resident() as f64 - memory as f64) / 1e6,
        host.resident() as f64 / 1e6
    );
    compare("token", [&plain, &host], |host| cost(host, "POST", "/v1/token", TOKEN));
    let [introspection, _] = compare("introspection", [&plain, &host], introspections);
    println!("  {:.0} a second of one processor", 1.0 / introspection.as_secs_f64());
    println!("  {:.2} bare round trips", ratio(introspection, bare));
}

/// A host with one agent.
fn start(dir: &Path) -> Host {
    drop(Host::start(dir));
    let text = format!(
        "name = \"example\"\n[match]\nuser = {}\n[[grant]]\naudience = \"https://api.example.com\"\n",
        nix::unistd::geteuid()
    );
    std::fs::write(dir.join("etc/agents.d/example.toml"), text).expect("a file");
    Host::start(dir)
}

/// Measures the host without revocations and the one with them in turn. Prints and returns the medians.
fn compare(name: &str, hosts: [&Host; 2], measure: impl Fn(&Host) -> Duration) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (host, times) in hosts.iter().zip(&mut times) {
            times.push(measure(host));
        }
    }
    let medians = times.map(|times| median(&times));
    println!(
        "{name:<28}{:8.1} us of CPU with none, {:.1} us with {MANY}: {:+.1} % (aim for tokens: at most 5)",
        micros(medians[0]),
        micros(medians[1]),
        (ratio(medians[1], medians[0]) - 1.0) * 100.0
    );
    medians
}

/// From the request until the first token is refused, on another connection that asks without a pause.
fn agent_revocations(host: &Host, admin: &Path) -> Vec<Duration> {
    let mut control = Client::connect(admin);
    let rounds = (0..AGENTS / 2).map(|_| {
        let (refused_at, started) = (Mutex::new(None), Mutex::new(None));
        let is_polling = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = Client::connect(host.socket());
                while client.exchange("POST", "/v1/token", TOKEN).0 == 200 {
                    is_polling.store(true, Ordering::Relaxed);
                }
                *refused_at.lock().unwrap() = Some(Instant::now());
            });
            while !is_polling.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            *started.lock().unwrap() = Some(Instant::now());
            control.ask("POST", "/v1/revocations/revoke", r#"{"agent":"example"}"#);
        });
        control.ask("POST", "/v1/revocations/lift", r#"{"agent":"example"}"#);
        refused_at.into_inner().unwrap().unwrap() - started.into_inner().unwrap().unwrap()
    });
    rounds.collect()
}

/// From the request until the acknowledgment: the revocation is in effect and on disk.
fn token_revocations(host: &Host, admin: &Path) -> Vec<Duration> {
    let (mut control, mut client) = (Client::connect(admin), Client::connect(host.socket()));
    let rounds = (0..SINGLE_TOKENS).map(|_| {
        let token = token(&mut client);
        let body = format!("{{\"token\":\"{token}\"}}");
        let started = Instant::now();
        control.ask("POST", "/v1/revocations/revoke", &body);
        let elapsed = started.elapsed();
        let (_, answer) = client.exchange("POST", "/v1/introspect", &body);
        assert_eq!(answer, b"{\"active\":false}");
        elapsed
    });
    rounds.collect()
}

/// The whole command, with the start of its process.
fn command_revocations(dir: &Path, admin: &Path) -> Vec<Duration> {
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostbadge"));
        command.args(words).env("HOSTBADGE_ADMIN_SOCKET", admin).current_dir(dir);
        let started = Instant::now();
        assert!(command.output().expect("hostbadge runs").status.success(), "{words:?}");
        started.elapsed()
    };
    let rounds = (0..AGENTS / 5).map(|_| {
        let elapsed = run(&["revoke", "agent", "example"]);
        run(&["revoke", "lift", "agent", "example"]);
        elapsed
    });
    rounds.collect()
}

fn revoke_many(admin: &Path) {
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut control = Client::connect(admin);
                for n in 0..MANY.div_ceil(CONNECTIONS) {
                    let body = format!("{{\"jti\":\"{connection}-{n}\"}}");
                    control.ask("POST", "/v1/revocations/revoke", &body);
                }
            });
        }
    });
}

fn introspections(host: &Host) -> Duration {
    let token = token(&mut Client::connect(host.socket()));
    cost(host, "POST", "/v1/introspect", &format!("{{\"token\":\"{token}\"}}"))
}

fn token(client: &mut Client) -> String {
    let (status, body) = client.exchange("POST", "/v1/token", TOKEN);
    assert_eq!(status, 200);
    let answer: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    answer["access_token"].as_str().expect("a token").to_owned()
}

/// The daemon's processor time for a request.
fn cost(host: &Host, method: &str, path: &str, body: &str) -> Duration {
    let mut client = Client::connect(host.socket());
    let mut ask = |times: usize| {
        for _ in 0..times {
            client.exchange(method, path, body);
        }
    };
    ask(200);
    let before = host.cpu();
    ask(REQUESTS);
    (host.cpu() - before) / REQUESTS as u32
}

fn report(name: &str, times: &[Duration]) {
    println!(
        "{name:<28}{:8.2} ms   p99 {:.2} ms   (of {}; aim: 100 ms)",
        micros(median(times)) / 1e3,
        micros(percentile(times, 99)) / 1e3,
        times.len()
    );
}

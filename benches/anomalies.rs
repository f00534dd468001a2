//! What the rules for anomalies cost for a token: the time that they add after its record is written.
//!
//! `cargo bench --bench anomalies` (or `make bench`). Needs no daemon and no TPM. The limit is 2 us for a token, with
//! one thread. Of several threads, which take turns at one lock, there are two figures without a limit: how long one of
//! them takes for a token, waiting included, and the time for each token of all together.

use std::path::Path;
use std::time::{Duration, Instant};

use hostbadge::anomaly::{Act, Anomalies, Executable, Observation};
use hostbadge::clock::{Clock, Zone};

const AGENTS: usize = 1_000;
const TOKENS: usize = 1_000_000;
const LIMIT: Duration = Duration::from_micros(2);
const WORKERS: usize = 8;

fn main() {
    let names: Vec<String> = (0..AGENTS).map(|n| format!("agent-{n}")).collect();
    let anomalies = Anomalies::new(Clock::System, Zone::utc(), Duration::from_secs(7 * 24 * 3600));
    anomalies.restore(None);
    let jtis: Vec<String> = (0..1024).map(|n| format!("0198f0a2-3c4d-7e5f-8a6b-{n:012}")).collect();
    // Half of the agents have tokens that are introspected, so that each of them is followed.
    observe(&anomalies, &names, &jtis, AGENTS);
    for name in names.iter().step_by(2) {
        anomalies.note_token_use(name, "https://api.example.com", &jtis[0]);
    }
    let one = observe(&anomalies, &names, &jtis, TOKENS);
    println!("rules for one token         {:8.2} us   limit {LIMIT:?}", one.as_secs_f64() * 1e6);
    let started = Instant::now();
    let of_workers: Duration = std::thread::scope(|scope| {
        let worker = || observe(&anomalies, &names, &jtis, TOKENS / WORKERS);
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).sum()
    });
    let all = started.elapsed() / TOKENS as u32;
    let in_worker = of_workers / WORKERS as u32;
    println!("  in each of {WORKERS} threads      {:8.2} us", in_worker.as_secs_f64() * 1e6);
    println!("  of all {WORKERS} threads together {:8.2} us", all.as_secs_f64() * 1e6);
    if one > LIMIT {
        println!("  above the limit");
        std::process::exit(1);
    }
}

/// The time for one of so many tokens.
fn observe(anomalies: &Anomalies, names: &[String], jtis: &[String], tokens: usize) -> Duration {
    let started = Instant::now();
    for n in 0..tokens {
        // As the audit path reads the clocks.
        let (time, boot) = (anomalies.clock().now(), anomalies.clock().boot_time());
        anomalies.observe(&Observation {
            time,
            boot,
            agent: &names[n % names.len()],
            tenant: None,
            act: Act::Token {
                audiences: "https://api.example.com",
                jti: &jtis[n % jtis.len()],
                lifetime: Duration::from_secs(300),
                is_longest: Some(n % 3 == 0),
            },
            exe: Some(Executable { path: Path::new("/usr/bin/python3.13"), version: [7; 8], file: [7; 8] }),
            stated_hours: None,
        });
    }
    started.elapsed() / tokens as u32
}

//! What the audit log costs: the part of a token's processor time that its record takes, and the records a second with
//! `[audit] sync = "interval"` and `"always"`, beside the syncs that the disk can do.
//!
//! `cargo bench --bench audit_sync` (or `make bench`). Nothing is issued without a record, so a token without one cannot
//! be measured: its processor time is that with a record, less that of a record.

mod support;

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use hostbadge::audit::Event;

use support::{Client, Host, Journald, inline_audit, median, micros, thread_cpu};

const TOKEN: &str = r#"{"audience":"https://api.example.com"}"#;
const CONNECTIONS: [usize; 3] = [1, 16, 128];
const ROUND: Duration = Duration::from_secs(4);
const SYNCS: usize = 300;
const RECORDS: u32 = 20_000;
const ROUNDS: usize = 5;

fn main() {
    let _journald = Journald::ensure();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sync = median(&syncs(dir.path()));
    println!(
        "fdatasync of one line       {:8.1} us   {:8.0} a second",
        micros(sync),
        1.0 / sync.as_secs_f64()
    );
    let token = report_modes();
    let record = record_cpu();
    println!(
        "record of an event          {:8.1} us   CPU: {:.0} % more than a token without it ({:.1} us)",
        micros(record),
        100.0 * record.as_secs_f64() / (token - record.min(token)).as_secs_f64(),
        micros(token - record.min(token))
    );
}

/// Both modes in turn, with each number of connections. Returns the processor time of a token with records that are
/// synced at intervals.
fn report_modes() -> Duration {
    let mut of_interval = Vec::new();
    for mode in ["interval", "always"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let host = Host::start_with(dir.path(), &format!("[audit]\nsync = \"{mode}\"\n"));
        // Until the keys are there.
        Client::connect(host.socket()).ask("POST", "/v1/token", TOKEN);
        for connections in CONNECTIONS {
            let before = host.cpu();
            let (count, took) = tokens(&host, connections);
            let each = (host.cpu() - before) / count;
            println!(
                "sync = {:<10} {connections:>4} connections {:8.0} tokens and records a second, {:6.1} us of CPU each",
                format!("\"{mode}\""),
                f64::from(count) / took.as_secs_f64(),
                micros(each)
            );
            if mode == "interval" && connections > 1 {
                of_interval.push(each);
            }
        }
    }
    median(&of_interval)
}

/// How many tokens concurrent connections get in a round.
fn tokens(host: &Host, connections: usize) -> (u32, Duration) {
    let started = Instant::now();
    let count = std::thread::scope(|scope| {
        let ask = || {
            let mut client = Client::connect(host.socket());
            let mut count = 0;
            while started.elapsed() < ROUND {
                client.ask("POST", "/v1/token", TOKEN);
                count += 1;
            }
            count
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client")).sum()
    });
    (count, started.elapsed())
}

/// The time of a sync of the disk after each line.
fn syncs(dir: &std::path::Path) -> Vec<Duration> {
    let mut file = File::create(dir.join("lines")).expect("a file");
    let line = [b'x'; 900];
    (0..SYNCS)
        .map(|_| {
            file.write_all(&line).expect("a line");
            let started = Instant::now();
            file.sync_data().expect("a sync");
            started.elapsed()
        })
        .collect()
}

/// The processor time of a record that its caller writes, without the thread of the journal.
fn record_cpu() -> Duration {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let audit = inline_audit(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let each = RECORDS / ROUNDS as u32;
    let times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let started = thread_cpu();
            runtime.block_on(async {
                for _ in 0..each {
                    audit
                        .record_key_event(Event::KeyPublished, "kid", None, "measured")
                        .await
                        .expect("a record");
                }
            });
            (thread_cpu() - started) / each
        })
        .collect();
    median(&times)
}

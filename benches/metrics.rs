//! The cost of metrics: of counting a request, beside a raw signature, and of the text with all metrics.
//!
//! `cargo bench --bench metrics` (or `make bench`). Threads count on the same counters, as workers do; the daemon is
//! started in release mode.

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use hostbadge::metrics::{Counter, Histogram};

use support::{Client, Host, Journald, median, micros, percentile, ratio, raw_signature, thread_cpu};

/// Requests that are counted by each thread.
const REQUESTS: u32 = 5_000_000;
/// Texts that are asked for.
const TEXTS: usize = 500;

fn main() {
    let raw = raw_signature();
    println!("raw ring P-256 signature    {:8.1} us", micros(raw));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    for number in [1, threads.max(2)] {
        let each = count_on(number);
        println!(
            "count a request, {number} thread(s)  {:6.1} ns, {:.4} signatures (aim: at most 100 ns)",
            each.as_secs_f64() * 1e9,
            ratio(each, raw)
        );
    }
    text_of_all();
}

/// The processor time that a thread takes to count one request, while all count on the same counters.
fn count_on(threads: usize) -> Duration {
    let (granted, duration) = (Counter::default(), Histogram::default());
    let count = || {
        let started = thread_cpu();
        for _ in 0..REQUESTS {
            // As `IdentityService::measured` does.
            let begun = Instant::now();
            let elapsed = black_box(begun).elapsed();
            duration.observe(elapsed);
            granted.increment();
        }
        (thread_cpu() - started) / REQUESTS
    };
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        running.into_iter().map(|thread| thread.join().expect("the thread ends")).collect()
    });
    assert_eq!(granted.get(), u64::from(REQUESTS) * threads as u64);
    median(&times)
}

fn text_of_all() {
    let _journald = Journald::ensure();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let host = Host::start(dir.path());
    let before = host.resident();
    let mut client = Client::connect(&dir.path().join("run/admin.sock"));
    let times: Vec<Duration> = (0..TEXTS)
        .map(|_| {
            let started = Instant::now();
            client.ask("GET", "/v1/metrics", "");
            started.elapsed()
        })
        .collect();
    println!(
        "text of all metrics         {:8.1} us   p99 {:.1} us",
        micros(median(&times)),
        micros(percentile(&times, 99))
    );
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("memory before {:.1} MiB, after {TEXTS} texts {:.1} MiB", mib(before), mib(host.resident()));
}

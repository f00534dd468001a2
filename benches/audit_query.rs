//! Searches of a log of a million records: one agent's last day, by the index and without it, and what an index costs.
//! The cost of one record on the way to the log.
//!
//! `cargo bench --bench audit_query` (or `make bench`). Makes the log in a temporary directory, about 1 GB.

mod support;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hostbadge::audit::{AuditQuery, Event, IndexUse, search_last};
use hostbadge::clock::Timestamp;
use hostbadge::verify::audit::log_file_name;
use ring::digest::{SHA256, digest};

use support::{inline_audit, micros};

const RECORDS: u64 = 1_000_000;
const RECORDS_OF_A_FILE: u64 = 60_000;
/// The newest record is of this time.
const END: u64 = 1_795_700_000;
const DAY: u64 = 24 * 3600;
const ROUNDS: usize = 9;
/// Records that are written to measure the cost of one.
const WRITTEN: u32 = 200_000;

fn main() {
    for (agents, days) in [(100, 30), (100, 1)] {
        search(agents, days);
    }
    write_records();
}

/// Measures searches in a log of so many agents and days.
fn search(agents: u64, days: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let started = Instant::now();
    let bytes = make_log(dir.path(), agents, days);
    println!(
        "{RECORDS} records of {agents} agents in {days} days, {} MB, made in {:.1} s",
        bytes / 1_000_000,
        started.elapsed().as_secs_f64()
    );
    let query = AuditQuery {
        agent: Some(name(agents / 2)),
        since: Some(Timestamp::from_secs(END - DAY)),
        ..AuditQuery::default()
    };
    let count = |by: IndexUse| {
        let started = Instant::now();
        let found = search_last(dir.path(), &query, 1_000_000, by).expect("a search");
        assert!(!found.has_more, "the bench counts all of them");
        (found.lines.len(), started.elapsed())
    };
    let (expected, without) = count(IndexUse::None);
    let (found, first) = count(IndexUse::Beside);
    assert_eq!(found, expected);
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| count(IndexUse::Beside).1).collect();
    times.sort();
    let index: u64 = fs::read_dir(dir.path())
        .expect("a directory")
        .map(|item| item.expect("an entry"))
        .filter(|item| item.path().extension().is_some_and(|extension| extension == "index"))
        .map(|item| item.metadata().expect("a file").len())
        .sum();
    println!("  one agent's last day, {expected} records, by the index {:8.1} ms", millis(times[ROUNDS / 2]));
    println!("  without an index                                     {:8.1} ms", millis(without));
    println!("  the first search, which makes the indices            {:8.1} ms", millis(first));
    println!(
        "  the indices have {} MB, {:.1} % of the log",
        index / 1_000_000,
        100.0 * index as f64 / bytes as f64
    );
    let id = AuditQuery { jti: Some(token_id(RECORDS / 3)), ..AuditQuery::default() };
    let started = Instant::now();
    let found = search_last(dir.path(), &id, 10, IndexUse::Beside).expect("a search");
    assert_eq!(found.lines.len(), 1);
    println!("  one token id in all days                             {:8.1} ms", millis(started.elapsed()));
}

fn name(agent: u64) -> String {
    format!("agent-{agent:03}")
}

fn token_id(n: u64) -> String {
    format!("{n:022}")
}

/// Writes the files of a log as the daemon does, and returns their bytes.
fn make_log(dir: &Path, agents: u64, days: u64) -> u64 {
    let (mut prev, mut bytes) = ("0".repeat(64), 0);
    let mut file = None;
    for seq in 1..=RECORDS {
        if (seq - 1).is_multiple_of(RECORDS_OF_A_FILE) {
            let path = dir.join(log_file_name(seq));
            file = Some(BufWriter::with_capacity(1 << 20, File::create(path).expect("a file")));
        }
        let time = Timestamp::from_secs(END - days * DAY + seq * days * DAY / RECORDS);
        // Agents in no particular order, as they ask.
        let agent = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) % agents;
        let line = format!(
            "{{\"v\":1,\"seq\":{seq},\"prev\":\"{prev}\",\"boot_id\":\"0f2a77a8-5f4b-4a8e-9f0a-3f2f0f0f0f0f\",\
             \"monotonic_us\":{seq},\"clock_error_us\":1500,\"correlation_id\":\"{seq:032x}\",\
             \"request\":\"POST /v1/token\",\"time\":\"{time}\",\"event\":\"token-issued\",\"outcome\":\"granted\",\
             \"agent\":\"{}\",\"owner\":\"team-{}@example.com\",\"audience\":\"https://api.example.com\",\
             \"scope\":\"docs.read docs.write\",\"jti\":\"{}\",\"kid\":\"{prev:.43}\",\"fingerprint\":\"{prev}\",\
             \"exp\":{END},\"verdicts\":{{\"identity\":\"pass\",\"privilege\":\"pass\",\"context\":\"pass\"}},\
             \"posture\":\"accepted\",\"peer\":{{\"pid\":{},\"uid\":1000,\"gid\":1000,\"unit\":\"a{agent}.service\",\
             \"invocation\":\"{:032x}\",\"exe\":\"/usr/bin/python3.13\",\"exe_sha256\":\"{prev}\",\"pinned\":true}}}}",
            name(agent),
            agent % 7,
            token_id(seq),
            1000 + agent,
            agent,
        );
        prev = HEXLOWER.encode(digest(&SHA256, line.as_bytes()).as_ref());
        bytes += line.len() as u64 + 1;
        let file = file.as_mut().expect("a file");
        file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n")).expect("a write");
    }
    bytes
}

/// Measures records of events, from the call until the kernel has the line.
fn write_records() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let audit = inline_audit(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        runtime.block_on(async {
            for _ in 0..WRITTEN / ROUNDS as u32 {
                audit.record_key_event(Event::KeyPublished, "kid", None, "measured").await.expect("a record");
            }
        });
        times.push(started.elapsed() / (WRITTEN / ROUNDS as u32));
    }
    times.sort();
    println!("one record of an event                                 {:8.2} us", micros(times[ROUNDS / 2]));
}

fn millis(time: Duration) -> f64 {
    micros(time) / 1e3
}

use std::fs;

use super::*;
use crate::audit::chain::open as open_log;
use crate::audit::event::Event;
use crate::audit::files::log_file;
use crate::audit::line::{LineId, append_line};
use crate::clock::Timestamp;

/// Reads all records forwards, and the ranges that are missing.
fn read_all(dir: &Path, query: &AuditQuery, limit: usize) -> (Vec<u64>, Vec<SeqRange>) {
    let (mut seqs, mut missing, mut last) = (Vec::new(), Vec::new(), 0);
    loop {
        let query = AuditQuery { start: PageStart::After(last), ..query.clone() };
        let page = read_page(dir, &query, limit).unwrap();
        assert!(page.records.len() <= limit);
        seqs.extend(seqs_of(&page));
        missing.extend(page.missing);
        last = page.last.unwrap_or(last);
        if !page.has_more {
            return (seqs, missing);
        }
    }
}

/// Reads all records backwards, oldest first.
fn read_all_backwards(dir: &Path, query: &AuditQuery, limit: usize) -> (Vec<u64>, Vec<SeqRange>) {
    let (mut seqs, mut missing, mut start) = (Vec::new(), Vec::new(), PageStart::End);
    loop {
        let page = read_page(dir, &AuditQuery { start, ..query.clone() }, limit).unwrap();
        seqs.splice(0..0, seqs_of(&page));
        missing.splice(0..0, page.missing.iter().copied());
        if !page.has_more {
            return (seqs, missing);
        }
        start = PageStart::Before(page.first.unwrap());
    }
}

fn seqs_of(page: &AuditPage) -> Vec<u64> {
    let seq = |text: &RawValue| parse(text.get().as_bytes()).unwrap().seq;
    page.records.iter().map(|text| seq(text)).collect()
}

fn body(agent: &str, event: Event, time: u64) -> Vec<u8> {
    let (time, event) = (Timestamp::from_secs(time), event.name());
    format!("\"time\":\"{time}\",\"event\":\"{event}\",\"agent\":\"{agent}\"}}").into_bytes()
}

/// A log of 30 lines in three files, whose times are 1000, 2000, ...
fn log_of_three_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open_log(dir.path());
    for n in 1..=30_u64 {
        let event = if n % 3 == 0 { Event::RequestRefused } else { Event::TokenIssued };
        let line = body(if n % 2 == 0 { "even" } else { "odd" }, event, n * 1000);
        log.append([&*line].into_iter()).unwrap();
        if n == 10 || n == 20 {
            log.start_file().unwrap();
        }
    }
    dir
}

#[test]
fn pages_have_every_record_once_also_across_files() {
    let dir = log_of_three_files();
    let all: Vec<u64> = (1..=30).collect();
    for limit in [1, 7, 10, 29, 30, 1000] {
        assert_eq!(read_all(dir.path(), &AuditQuery::default(), limit), (all.clone(), vec![]));
        assert_eq!(read_all_backwards(dir.path(), &AuditQuery::default(), limit), (all.clone(), vec![]));
    }
    let page = read_page(dir.path(), &AuditQuery::default(), 4).unwrap();
    assert_eq!((seqs_of(&page), page.has_more), ((27..=30).collect(), true));
    assert_eq!((page.first, page.last), (Some(27), Some(30)));
    let beyond = AuditQuery { start: PageStart::After(u64::MAX), ..AuditQuery::default() };
    assert!(read_page(dir.path(), &beyond, 10).unwrap().records.is_empty());
    let end = AuditQuery { start: PageStart::After(30), ..AuditQuery::default() };
    let page = read_page(dir.path(), &end, 4).unwrap();
    assert!(page.records.is_empty() && !page.has_more && page.last.is_none());
}

#[test]
fn filters_hold_in_both_directions() {
    let dir = log_of_three_files();
    let even = AuditQuery { agent: Some("even".into()), ..AuditQuery::default() };
    let refused = AuditQuery { event: Some(Event::RequestRefused), ..even.clone() };
    let times = AuditQuery {
        since: Some(Timestamp::from_secs(12_000)),
        until: Some(Timestamp::from_secs(24_000)),
        ..refused.clone()
    };
    for (query, expected) in [
        (even, (1..=15).map(|n| 2 * n).collect::<Vec<u64>>()),
        (refused, vec![6, 12, 18, 24, 30]),
        (times, vec![12, 18, 24]),
    ] {
        for limit in [1, 2, 1000] {
            assert_eq!(read_all(dir.path(), &query, limit).0, expected);
            assert_eq!(read_all_backwards(dir.path(), &query, limit).0, expected);
        }
    }
}

#[test]
fn a_search_by_time_ends_an_hour_beyond_its_bound() {
    let dir = log_of_three_files();
    let since = AuditQuery { since: Some(Timestamp::from_secs(29_000)), ..AuditQuery::default() };
    assert_eq!(read_page(dir.path(), &since, 100).unwrap().first, Some(26));
    let until = Some(Timestamp::from_secs(2_000));
    let until = AuditQuery { start: PageStart::After(0), until, ..AuditQuery::default() };
    let page = read_page(dir.path(), &until, 100).unwrap();
    assert_eq!((seqs_of(&page), page.last, page.has_more), (vec![1, 2], Some(5), false));
}

#[test]
fn numbers_that_the_log_does_not_have_are_named_in_both_directions() {
    let dir = log_of_three_files();
    fs::remove_file(log_file(dir.path(), 11)).unwrap();
    let missing = SeqRange { from: 11, to: 20 };
    let expected: Vec<u64> = (1..=10).chain(21..=30).collect();
    for limit in [1, 10, 11, 1000] {
        assert_eq!(read_all(dir.path(), &AuditQuery::default(), limit), (expected.clone(), vec![missing]));
        let backwards = read_all_backwards(dir.path(), &AuditQuery::default(), limit);
        assert_eq!(backwards, (expected.clone(), vec![missing]));
    }
    fs::remove_file(log_file(dir.path(), 1)).unwrap();
    let missing = SeqRange { from: 1, to: 20 };
    assert_eq!(read_all(dir.path(), &AuditQuery::default(), 7), ((21..=30).collect(), vec![missing]));
}

#[test]
fn pages_end_at_bounds_of_bytes_and_of_gaps_and_the_next_one_continues() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = Vec::new();
    // Each line has 32 KiB, and each second number is missing.
    for n in 0..500 {
        let filler = format!("\"agent\":\"a\",\"detail\":\"{}\"}}", "x".repeat(32 * 1024));
        append_line(&mut text, LineId::without_digest(2 * n), filler.as_bytes());
    }
    fs::write(log_file(dir.path(), 1), &text).unwrap();
    let (seqs, missing) = read_all(dir.path(), &AuditQuery::default(), 1000);
    assert_eq!(seqs, (0..500).map(|n| 2 * n + 1).collect::<Vec<u64>>());
    assert_eq!(missing.len(), 499);
    assert_eq!(read_all_backwards(dir.path(), &AuditQuery::default(), 1000).0, seqs);
    let page = read_page(dir.path(), &AuditQuery::default(), 1000).unwrap();
    assert!(page.has_more && page.missing.len() == MAX_MISSING);
    let none = AuditQuery { agent: Some("none".into()), ..AuditQuery::default() };
    assert_eq!(read_all(dir.path(), &none, 1000).0, [] as [u64; 0]);
}

#[test]
fn what_is_not_a_line_of_the_log_is_passed_over() {
    let dir = log_of_three_files();
    let path = log_file(dir.path(), 1);
    let old = fs::read(log_file(dir.path(), 21)).unwrap();
    // A full disk has no room to set these aside, so the log continues in the next file.
    let text = [fs::read(&path).unwrap(), vec![0; 70_000], b"\n{}\n".to_vec(), old].concat();
    fs::write(&path, text).unwrap();
    // A line that is being written has no newline yet.
    let current = log_file(dir.path(), 21);
    let text = [&fs::read(&current).unwrap()[..], b"{\"v\":1,\"seq\":31"].concat();
    fs::write(&current, text).unwrap();
    assert_eq!(read_all(dir.path(), &AuditQuery::default(), 7), ((1..=30).collect(), vec![]));
    assert_eq!(read_all_backwards(dir.path(), &AuditQuery::default(), 7), ((1..=30).collect(), vec![]));
}

/// Lines that are no records in the middle of two files, and the place of each.
fn log_with_unreadable_lines() -> (tempfile::TempDir, Vec<UnreadableLines>) {
    let dir = log_of_three_files();
    let damage = |first: u64, seqs: &[u64]| {
        let path = log_file(dir.path(), first);
        let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        let damaged = text.lines().zip(first..).map(|(line, seq)| match seqs.contains(&seq) {
            true => format!("{}\n", &line[..line.len() / 2]),
            false => format!("{line}\n"),
        });
        fs::write(&path, damaged.collect::<String>()).unwrap();
        path
    };
    let lines = |file: &PathBuf, from, to| UnreadableLines { file: file.clone(), from, to };
    let (second, third) = (damage(11, &[13, 14, 20]), damage(21, &[25]));
    (dir, vec![lines(&second, 3, 4), lines(&second, 10, 10), lines(&third, 5, 5)])
}

#[test]
fn lines_that_are_no_records_are_named_by_file_and_line_in_both_directions() {
    let (dir, expected) = log_with_unreadable_lines();
    let query = AuditQuery::default();
    let readable: Vec<u64> = (1..=30).filter(|seq| ![13, 14, 20, 25].contains(seq)).collect();
    for limit in [1, 2, 1000] {
        assert_eq!(read_all(dir.path(), &query, limit).0, readable);
        assert_eq!(read_all_backwards(dir.path(), &query, limit).0, readable);
        let (mut forwards, mut backwards) = (Vec::new(), Vec::new());
        let mut start = PageStart::After(0);
        loop {
            let page = read_page(dir.path(), &AuditQuery { start, ..query.clone() }, limit).unwrap();
            forwards.extend(page.unreadable);
            let Some(last) = page.last.filter(|_| page.has_more) else { break };
            start = PageStart::After(last);
        }
        start = PageStart::End;
        loop {
            let page = read_page(dir.path(), &AuditQuery { start, ..query.clone() }, limit).unwrap();
            backwards.extend(page.unreadable);
            let Some(first) = page.first.filter(|_| page.has_more) else { break };
            start = PageStart::Before(first);
        }
        for mut found in [forwards, backwards] {
            found.sort_by(|a, b| (&a.file, a.from).cmp(&(&b.file, b.from)));
            // A page that ends at them has them, and so has the next one.
            found.dedup();
            assert_eq!(found, expected, "{limit}");
        }
    }
    let after = AuditQuery { start: PageStart::After(26), ..query };
    assert!(
        read_page(dir.path(), &after, 10).unwrap().unreadable.is_empty(),
        "what is before is not named again"
    );
}

#[test]
fn the_line_of_a_number_is_found() {
    let (dir, _) = log_with_unreadable_lines();
    let path = log_file(dir.path(), 11);
    assert_eq!(crate::audit::line_of(dir.path(), 15).unwrap(), Some((path, 5)));
    assert_eq!(crate::audit::line_of(dir.path(), 14).unwrap(), None);
    assert_eq!(crate::audit::line_of(dir.path(), 31).unwrap(), None);
}

#[test]
fn the_last_number_is_known_also_where_the_newest_file_has_no_line() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(last_seq(dir.path()).unwrap(), 0);
    let log = log_of_three_files();
    assert_eq!(last_seq(log.path()).unwrap(), 30);
    fs::write(log_file(log.path(), 31), "").unwrap();
    assert_eq!(last_seq(log.path()).unwrap(), 30);
    for first in [1, 11, 21] {
        fs::remove_file(log_file(log.path(), first)).unwrap();
    }
    assert_eq!(last_seq(log.path()).unwrap(), 30);
    sync_record(log.path(), 30).unwrap();
}

#[test]
fn half_a_line_after_a_power_loss_is_not_read_and_the_records_after_it_are_neither_lost_nor_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open_log(dir.path());
    for n in 1..=3 {
        log.append([&*body("a", Event::TokenIssued, n)].into_iter()).unwrap();
    }
    let path = log.path().to_owned();
    drop(log);
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() - 20]).unwrap();
    let after = |last| {
        let query = AuditQuery { start: PageStart::After(last), ..AuditQuery::default() };
        let page = read_page(dir.path(), &query, 10).unwrap();
        assert!(page.unreadable.is_empty());
        (seqs_of(&page), page.last)
    };
    assert_eq!(after(0), (vec![1, 2], Some(2)), "half a line is being written");
    let (mut log, torn) = open_log(dir.path());
    assert!(torn.is_some());
    log.append([&*body("a", Event::AuditTorn, 4)].into_iter()).unwrap();
    log.append([&*body("a", Event::TokenIssued, 5)].into_iter()).unwrap();
    let last = log.seq();
    assert_eq!(after(2), (vec![last - 1, last], Some(last)));
}

#[test]
fn a_file_that_was_moved_away_is_left_out_and_other_errors_name_the_file() {
    let dir = log_of_three_files();
    let files = log_files(dir.path()).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let page = read_page_of(&files, &AuditQuery::default(), 100).unwrap();
    assert_eq!(page.records.len(), 20);

    fs::create_dir(&files[1]).unwrap();
    let error = read_page_of(&files, &AuditQuery::default(), 100).unwrap_err().to_string();
    assert!(error.contains(files[1].to_str().unwrap()), "{error}");
    let missing = dir.path().join("missing");
    let error = read_page(&missing, &AuditQuery::default(), 10).unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
}

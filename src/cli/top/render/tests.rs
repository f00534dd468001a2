use super::super::rows::{AgentRow, AuditRow, ProcessRow, RequestRow, TpmRow};
use super::*;
use crate::clock::Timestamp;

/// A view whose texts and numbers are as long as they get.
fn view(agents: usize, alerts: usize) -> View {
    let longest = Some(Duration::from_micros(2_500));
    let request = |n: usize| RequestRow {
        request: format!("jwt_svid_validation{n}"),
        granted_per_second: 123_456.7,
        refused_per_second: 0.04,
        p50_seconds: longest,
        p99_seconds: None,
        most_refused: Some("temporarily_unavailable".to_owned()),
    };
    let agent = |n: usize| AgentRow {
        agent: format!("{n}{}", "a\u{1b}[2J漢\u{301}\u{202e}".repeat(9)),
        granted_per_second: 1.25,
        refused_per_second: 0.0,
        live_tokens: 12_000,
        last_seen: 0.0,
    };
    View {
        time: Timestamp::from_secs(1_795_000_000),
        host: Some("ABCDEFGHIJKLMNOPQRSTUVWXYZ".to_owned()),
        version: "10.20.30".to_owned(),
        started: Timestamp::from_secs(1_700_000_000),
        interval_seconds: 95_000_000.0,
        health: "without_credentials".to_owned(),
        posture: "unaccepted".to_owned(),
        clock: "unsynchronized".to_owned(),
        granted_per_second: 1_234_567.0,
        refused_per_second: 99.96,
        failed_per_second: 0.0,
        registered_agents: 16_384,
        live_tokens: 100_000_000,
        frozen: true,
        tpm: TpmRow {
            state: "owner-auth".to_owned(),
            queue_length: 64,
            waiting_signatures: 1000,
            requests_per_second: 100.0,
            faults: 1_000_000,
            p50_seconds: longest,
            p99_seconds: longest,
            wait_p99_seconds: longest,
        },
        audit: AuditRow {
            writable: false,
            records_per_second: 12_345.0,
            unsynced_records: 12_345,
            queued_records: 1024,
            write_p99_seconds: longest,
            sync_p99_seconds: longest,
            dropped_journal_entries: 12_345_678,
        },
        process: ProcessRow { resident_bytes: 64 << 20, cpu: 7.5, open_fds: 10_000, connections: 10_000 },
        requests: (0..11).map(request).collect(),
        agents: (0..agents).map(agent).collect(),
        alerts: (0..alerts)
            .map(|n| format!("{n} the audit log\n\u{9b}cannot be written ").repeat(9))
            .collect(),
    }
}

#[test]
fn no_view_is_larger_than_its_terminal() {
    for (width, height) in [(80, 24), (132, 50), (40, 12), (20, 5), (80, 5)] {
        for (agents, alerts) in [(0, 0), (1, 1), (200, 0), (200, 12), (3, 12)] {
            let lines = render(&view(agents, alerts), width, Some(height));
            assert!(lines.len() <= height, "{width}x{height}, {agents} agents: {} lines", lines.len());
            for line in &lines {
                assert!(line.chars().count() <= width, "{width}: {line}");
                assert!(line.chars().all(|c| matches!(c, ' '..='~' | '…')), "{line:?}");
            }
        }
    }
}

#[test]
fn eighty_columns_have_room_for_every_number() {
    let lines = render(&view(2, 1), 80, Some(24));
    for line in lines.iter().take(12) {
        assert!(!line.ends_with('…'), "{line}");
    }
    let text = lines.join("\n");
    for part in ["AGENT", "GRANTED/s", "LAST SEEN", "ALERTS: 1", "FROZEN", "NOT WRITABLE", "12000"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn agents_have_what_the_others_leave_and_the_rest_is_counted() {
    let lines = render(&view(200, 2), 80, Some(24));
    assert_eq!(lines.len(), 24);
    let more = lines.iter().find(|line| line.ends_with(" more")).unwrap();
    let shown = lines.iter().filter(|line| line.ends_with(" ago")).count();
    assert_eq!(*more, format!("{} more", 200 - shown));
}

#[test]
fn a_snapshot_is_complete() {
    let lines = render(&view(200, 12), usize::MAX, None);
    assert_eq!(lines.iter().filter(|line| line.ends_with(" ago")).count(), 200);
    assert_eq!(lines.iter().filter(|line| line.starts_with("! ")).count(), 12);
}

#[test]
fn texts_are_one_column_for_each_character() {
    assert_eq!(narrow("ä\u{1b}[2J漢\n"), "ä\\u{1b}[2J\\u{6f22}\\n");
    assert_eq!(shorten("abcdef", 4), "abc…");
    assert_eq!(wrap("aa bb cc dd", 5, 2), ["aa bb", "cc dd"]);
    assert_eq!(wrap("aa bb cc dd ee", 5, 2), ["aa bb", "cc dd …"]);
    assert_eq!(wrap("a-long-word b", 5, 9), ["a-long-word", "b"]);
}

#[test]
fn large_numbers_are_short() {
    for (count, text) in [(0, "0"), (99_999, "99999"), (123_456, "123k"), (12_345_678, "12.3M")] {
        assert_eq!(format_count(count), text);
    }
}

#[test]
fn ages_have_two_units() {
    for (seconds, text) in [(5, "5s"), (65, "1m5s"), (7_260, "2h1m"), (90_000, "1d1h")] {
        assert_eq!(format_age(Duration::from_secs(seconds)), text);
    }
}

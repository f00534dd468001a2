use std::fs;

use super::*;
use crate::audit::event::Event;
use crate::audit::files::log_file;
use crate::audit::filter::PageStart;
use crate::audit::line::{LineId, append_line};
use crate::audit::query::read_page;
use crate::clock::Timestamp;

const START: u64 = 1_790_000_000;

/// A record of each of five agents in turn, one a minute.
fn body(n: u64) -> String {
    let time = Timestamp::from_secs(START + 60 * n);
    let agent = n % 5;
    let is_refused = n.is_multiple_of(7);
    let event = if is_refused { "request-refused" } else { "token-issued" };
    let reason = if is_refused { ",\"reason\":\"invalid_target\"" } else { "" };
    format!(
        "\"time\":\"{time}\",\"event\":\"{event}\",\"agent\":\"agent-{agent}\",\"owner\":\"team-{}\",\
         \"tenant\":\"t{}\",\"audience\":\"https://a{} https://b\",\"jti\":\"jti-{n}\",\
         \"correlation_id\":\"c{n}\"{reason},\"peer\":{{\"pid\":{n},\"unit\":\"u{agent}.service\",\
         \"invocation\":\"i{}\",\"exe_sha256\":\"e{agent}\"}}}}",
        agent % 2,
        agent % 3,
        n % 4,
        n % 11,
    )
}

/// A log of 600 records in three files.
fn log() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in 0..3 {
        let mut text = Vec::new();
        for n in file * 200 + 1..=file * 200 + 200 {
            append_line(&mut text, LineId::without_digest(n - 1), body(n).as_bytes());
        }
        fs::write(log_file(dir.path(), file * 200 + 1), text).unwrap();
    }
    dir
}

fn seqs(found: &FoundRecords) -> Vec<u64> {
    found.lines.iter().map(|line| parse(line.as_bytes()).unwrap().seq).collect()
}

/// What the pages of the daemon have, which use no index.
fn by_pages(dir: &Path, query: &AuditQuery) -> Vec<u64> {
    let query = AuditQuery { start: PageStart::After(0), ..query.clone() };
    let page = read_page(dir, &query, 100_000).unwrap();
    assert!(!page.has_more);
    page.records.iter().map(|line| parse(line.get().as_bytes()).unwrap().seq).collect()
}

fn queries() -> Vec<AuditQuery> {
    let text = |text: &str| Some(text.to_owned());
    let at = |n: u64| Some(Timestamp::from_secs(START + 60 * n));
    let all = AuditQuery::default();
    vec![
        all.clone(),
        AuditQuery { agent: text("agent-3"), ..all.clone() },
        AuditQuery { agent: text("agent-3"), since: at(500), until: at(590), ..all.clone() },
        AuditQuery { owner: text("team-1"), event: Some(Event::RequestRefused), ..all.clone() },
        AuditQuery { tenant: text("t2"), ..all.clone() },
        AuditQuery { audience: text("https://a3"), until: at(100), ..all.clone() },
        AuditQuery { audience: text("https://b"), agent: text("agent-0"), ..all.clone() },
        AuditQuery { reason: text("invalid_target"), ..all.clone() },
        AuditQuery { jti: text("jti-77"), ..all.clone() },
        AuditQuery { serial: text("jti-77"), ..all.clone() },
        AuditQuery { correlation_id: text("c599"), ..all.clone() },
        AuditQuery { instance: text("321"), ..all.clone() },
        AuditQuery { instance: text("u2.service"), ..all.clone() },
        AuditQuery { instance: text("i10"), ..all.clone() },
        AuditQuery { instance: text("e4"), reason: text("invalid_target"), ..all.clone() },
        AuditQuery { agent: text("none"), ..all },
    ]
}

#[test]
fn an_index_finds_what_reading_everything_finds() {
    let dir = log();
    for round in ["made", "read"] {
        for query in queries() {
            let expected = by_pages(dir.path(), &query);
            for by in [IndexUse::Beside, IndexUse::None] {
                let found = search_last(dir.path(), &query, 100_000, by).unwrap();
                assert_eq!(seqs(&found), expected, "{round} {by:?} {query:?}");
                assert!(!found.has_more && found.missing.is_empty());
                for limit in [1, 7, 100, 250] {
                    let last = search_last(dir.path(), &query, limit, by).unwrap();
                    let from = expected.len().saturating_sub(limit);
                    assert_eq!(seqs(&last), expected[from..], "{limit} {by:?} {query:?}");
                    assert!(last.has_more || from == 0, "{limit} {by:?} {query:?}");
                }
            }
        }
    }
    assert!(log_file(dir.path(), 401).with_extension("index").exists());
}

#[test]
fn a_wrong_index_shows_no_record_that_is_not_asked_for() {
    let dir = log();
    let query = AuditQuery { agent: Some("agent-3".into()), ..AuditQuery::default() };
    let expected = seqs(&search_last(dir.path(), &query, 1000, IndexUse::Beside).unwrap());
    // Each file gets the index of another.
    for (to, from) in [(1, 201), (201, 401)] {
        let index = |first| log_file(dir.path(), first).with_extension("index");
        fs::copy(index(from), index(to)).unwrap();
    }
    let found = search_last(dir.path(), &query, 1000, IndexUse::Beside).unwrap();
    assert_eq!(seqs(&found), expected);
}

#[test]
fn lines_that_no_row_describes_are_read() {
    let dir = log();
    let path = log_file(dir.path(), 401);
    search_last(dir.path(), &AuditQuery::default(), 1, IndexUse::Beside).unwrap();
    let mut text = fs::read(&path).unwrap();
    for n in 601..=605 {
        append_line(&mut text, LineId::without_digest(n - 1), body(n).as_bytes());
    }
    text.extend(b"{\"v\":1,\"seq\":606,");
    fs::write(&path, text).unwrap();
    let found = search_last(dir.path(), &AuditQuery::default(), 6, IndexUse::Beside).unwrap();
    assert_eq!(seqs(&found), (600..=605).collect::<Vec<u64>>());
}

#[test]
fn missing_numbers_are_named_and_removed_files_are_no_error() {
    let dir = log();
    fs::remove_file(log_file(dir.path(), 201)).unwrap();
    for by in [IndexUse::Beside, IndexUse::None] {
        let found = search_last(dir.path(), &AuditQuery::default(), 1000, by).unwrap();
        assert_eq!(found.lines.len(), 400, "{by:?}");
        let missing: Vec<_> = found.missing.iter().map(|range| (range.from, range.to)).collect();
        assert_eq!(missing, [(201, 400)], "{by:?}");
    }
    assert!(search_last(&dir.path().join("none"), &AuditQuery::default(), 1, IndexUse::None).is_err());
}

#[test]
fn old_blocks_are_not_records() {
    let dir = log();
    let path = log_file(dir.path(), 401);
    let old = fs::read(&path).unwrap();
    fs::write(&path, [&old[..], &[0; 4096], b"\n", &old[..old.len() / 2]].concat()).unwrap();
    for by in [IndexUse::Beside, IndexUse::None] {
        let found = search_last(dir.path(), &AuditQuery::default(), 1000, by).unwrap();
        assert_eq!(seqs(&found), (1..=600).collect::<Vec<u64>>(), "{by:?}");
    }
}

#[test]
fn lines_that_are_no_records_are_named_and_left_out() {
    let dir = log();
    let path = log_file(dir.path(), 201);
    let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
    let damaged: String = text
        .lines()
        .zip(201..)
        .map(|(line, seq)| if (210..213).contains(&seq) { "damaged\n".into() } else { format!("{line}\n") })
        .collect();
    fs::write(&path, damaged).unwrap();
    let expected: Vec<u64> = (1..=600).filter(|seq| !(210..213).contains(seq)).collect();
    for by in [IndexUse::Beside, IndexUse::Beside, IndexUse::None] {
        let found = search_last(dir.path(), &AuditQuery::default(), 1000, by).unwrap();
        assert_eq!(seqs(&found), expected, "{by:?}");
        assert_eq!(found.unreadable, [UnreadableLines { file: path.clone(), from: 10, to: 12 }], "{by:?}");
    }
    let one = AuditQuery { agent: Some("agent-3".into()), ..AuditQuery::default() };
    assert_eq!(search_last(dir.path(), &one, 1000, IndexUse::Beside).unwrap().unreadable.len(), 1);
}

#[test]
fn links_are_not_files_of_the_log() {
    let dir = log();
    let only_files = tempfile::tempdir().unwrap();
    for item in log_files(dir.path()).unwrap() {
        std::os::unix::fs::symlink(&item, only_files.path().join(item.file_name().unwrap())).unwrap();
    }
    let found = search_last(only_files.path(), &AuditQuery::default(), 1000, IndexUse::Beside).unwrap();
    assert!(found.lines.is_empty());
}

//! Records of the audit log on standard output: as they are in the log, or as one line for a person.

use super::audit_unreadable::Unreadable;
use super::common::CommonArgs;
use super::error::CliError;
use super::format::format_peer;
use super::output::{note, print_line};
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::wire::admin::{AuditRecord, AuditResponse, MissingRecords};

/// Prints the records of a page, and says which numbers the log does not have and which lines are no records.
pub(super) fn print_page(
    common: &CommonArgs,
    page: &AuditResponse,
    unreadable: &mut Unreadable,
) -> Result<(), CliError> {
    unreadable.note_lines(&page.unreadable);
    print_records(common, page.records.iter().map(|line| line.get()), &page.missing, unreadable)
}

/// Prints lines of the log, and says which numbers between them it does not have.
pub(super) fn print_records<'a>(
    common: &CommonArgs,
    lines: impl IntoIterator<Item = &'a str>,
    missing: &[MissingRecords],
    unreadable: &mut Unreadable,
) -> Result<(), CliError> {
    let mut missing = missing.iter().peekable();
    for line in lines {
        let Some(record) = parse_record(line) else {
            unreadable.note_record(line);
            continue;
        };
        while let Some(range) = missing.next_if(|range| range.from < record.seq) {
            print_missing(range.from, range.to);
        }
        if common.json {
            print_line(line)?;
        } else {
            print_line(escape_unprintable(&format_record(&record)))?;
        }
    }
    missing.for_each(|range| print_missing(range.from, range.to));
    Ok(())
}

/// Says that numbers are missing.
pub(super) fn print_missing(from: u64, to: u64) {
    note(format_args!(
        "hostbadge: left out: {}, which the audit log does not have: numbers {from} to {to}",
        counted(to - from + 1, "record")
    ));
}

/// A line of the log as a record; `None` if it does not have the members of one.
pub(super) fn parse_record(line: &str) -> Option<AuditRecord> {
    serde_json::from_str(line).ok()
}

/// A record in one line. Its texts are quoted and escaped, because callers determine them.
fn format_record(record: &AuditRecord) -> String {
    let mut parts = vec![record.seq.to_string(), record.time.to_string(), record.event.clone()];
    parts.extend(record.agent.clone());
    let members = [
        ("tenant", &record.tenant),
        ("owner", &record.owner),
        ("reason", &record.reason),
        ("audience", &record.audience),
        ("scope", &record.scope),
        ("credential", &record.credential),
        ("jti", &record.jti),
        ("serial", &record.serial),
        ("detail", &record.detail),
        ("request", &record.request),
        ("correlation", &record.correlation_id),
    ];
    for (name, value) in members {
        parts.extend(
            value.as_ref().filter(|value| !value.is_empty()).map(|value| format!("{name}={value:?}")),
        );
    }
    parts.extend(record.peer.as_ref().map(|peer| format!("({})", format_peer(peer))));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_texts_are_one_printable_line() {
        let hostile = "\u{1b}[2J\u{1b}]0;x\u{7}\r\n\"}\u{202e}\u{9b}31m";
        let record = serde_json::json!({
            "v": 1, "seq": 7, "prev": "0".repeat(64), "time": "2026-11-26T10:00:00Z",
            "event": format!("e{hostile}"), "agent": hostile, "owner": hostile, "tenant": hostile,
            "audience": hostile, "scope": hostile, "detail": hostile, "reason": hostile, "jti": hostile,
            "request": hostile, "correlation_id": hostile,
            "peer": {"pid": 1, "uid": 2, "gid": 3, "unit": hostile, "invocation": hostile, "exe": hostile,
                     "exe_sha256": null, "pinned": true},
        });
        let record = parse_record(&record.to_string()).unwrap();
        let text = escape_unprintable(&format_record(&record)).into_owned();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{9b}']), "{text:?}");
        assert!(text.starts_with("7 2026-11-26T10:00:00"), "{text}");
    }
}

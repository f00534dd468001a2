//! What the audit log has of one token or certificate: the record that issued it, and those that name it later.

use std::io;
use std::path::Path;

use serde_json::value::RawValue;

use super::event::Event;
use super::filter::{AuditQuery, PageStart};
use super::query::read_page;
use crate::clock::Timestamp;

/// Pages that are examined, of at most 8 MiB of lines each: together 3 s of a processor.
const MAX_PAGES: usize = 64;
/// Records of one page.
const PAGE_RECORDS: usize = 1_000;
/// Later records that are kept, the latest.
const MAX_LATER: usize = 100;
/// Refusals that are kept, the latest.
const MAX_REFUSALS: usize = 20;

/// What identifies a token or certificate in records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuedId {
    /// The `jti` of a token.
    Jti(String),
    /// The serial number of a certificate, in hexadecimal digits.
    Serial(String),
}

/// What the audit log has of a token or certificate.
#[derive(Debug, Default)]
pub struct Trail {
    /// The record that issued it; `None` if the part of the log that was searched has none.
    pub issued: Option<Box<RawValue>>,
    /// The records that name it afterwards, oldest first: the latest 100.
    pub later: Vec<Box<RawValue>>,
    /// How many there are.
    pub later_count: usize,
    /// Whether the search reached the record that issued it, or the time at which it began.
    pub is_complete: bool,
}

/// Searches the log in `dir` backwards, until the record that issued the token or certificate, the time `since`, or
/// 512 MiB of lines. Blocking.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn read_trail(dir: &Path, id: &IssuedId, since: Option<Timestamp>) -> io::Result<Trail> {
    let mut query = AuditQuery { since, ..AuditQuery::default() };
    match id {
        IssuedId::Jti(jti) => query.jti = Some(jti.clone()),
        IssuedId::Serial(serial) => query.serial = Some(serial.clone()),
    }
    let mut trail = Trail::default();
    for _ in 0..MAX_PAGES {
        let page = read_page(dir, &query, PAGE_RECORDS)?;
        for record in page.records.into_iter().rev() {
            if is_issue(&record) {
                trail.issued = Some(record);
                break;
            }
            trail.later_count += 1;
            if trail.later.len() < MAX_LATER {
                trail.later.push(record);
            }
        }
        match page.first.filter(|_| page.has_more && trail.issued.is_none()) {
            Some(first) => query.start = PageStart::Before(first),
            None => {
                trail.is_complete = true;
                break;
            }
        }
    }
    trail.later.reverse();
    Ok(trail)
}

/// The latest refusals of an agent since a time, at most 20, oldest first. Blocking.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn read_refusals(dir: &Path, agent: &str, since: Timestamp) -> io::Result<Vec<Box<RawValue>>> {
    let mut query = AuditQuery {
        agent: Some(agent.to_owned()),
        event: Some(Event::RequestRefused),
        since: Some(since),
        ..AuditQuery::default()
    };
    let mut refusals = Vec::new();
    for _ in 0..MAX_PAGES {
        let page = read_page(dir, &query, MAX_REFUSALS - refusals.len())?;
        refusals.extend(page.records.into_iter().rev());
        match page.first.filter(|_| page.has_more && refusals.len() < MAX_REFUSALS) {
            Some(first) => query.start = PageStart::Before(first),
            None => break,
        }
    }
    refusals.reverse();
    Ok(refusals)
}

/// Whether a record is that of an issue.
fn is_issue(record: &RawValue) -> bool {
    let members = super::line::parse(record.get().as_bytes());
    let event = members.and_then(|members| Event::from_name(members.event.as_deref()?));
    matches!(
        event,
        Some(Event::TokenIssued | Event::SvidIssued | Event::WitSvidIssued | Event::CertificateIssued)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::open as open_log;

    const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);

    fn write(dir: &Path, records: &[&str]) {
        let (mut log, _) = open_log(dir);
        for members in records {
            let body = format!("\"time\":\"{NOW}\",{members}}}");
            log.append([body.as_bytes()].into_iter()).unwrap();
        }
    }

    #[test]
    fn a_token_is_followed_from_its_issue() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                "\"event\":\"introspected\",\"agent\":\"b\",\"jti\":\"j\"",
                "\"event\":\"token-issued\",\"agent\":\"a\",\"jti\":\"j\"",
                "\"event\":\"token-issued\",\"agent\":\"a\",\"jti\":\"other\"",
                "\"event\":\"introspected\",\"agent\":\"c\",\"jti\":\"j\"",
                "\"event\":\"request-refused\",\"agent\":\"a\"",
                "\"event\":\"request-refused\",\"agent\":\"c\"",
                "\"event\":\"certificate-issued\",\"agent\":\"a\",\"serial\":\"0a\"",
            ],
        );
        let trail = read_trail(dir.path(), &IssuedId::Jti("j".into()), None).unwrap();
        assert!(trail.issued.unwrap().get().contains("\"seq\":2,"));
        assert_eq!((trail.later.len(), trail.later_count, trail.is_complete), (1, 1, true));
        assert!(trail.later[0].get().contains("\"agent\":\"c\""));
        let trail = read_trail(dir.path(), &IssuedId::Serial("0a".into()), Some(NOW)).unwrap();
        assert!(trail.issued.is_some() && trail.later.is_empty());
        let none = read_trail(dir.path(), &IssuedId::Jti("none".into()), Some(NOW)).unwrap();
        assert_eq!((none.issued.is_none(), none.is_complete), (true, true));
        let refusals = read_refusals(dir.path(), "a", NOW).unwrap();
        assert_eq!(refusals.len(), 1);
    }
}

//! What each agent was given in a period, by the audit log: for which audiences, with which scopes and for how long,
//! and which credentials.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::event::{Event, Outcome};
use super::filter::{AuditQuery, PageStart};
use super::query::{AuditPage, read_page};
use super::used_record::UsedRecord;
use crate::clock::Timestamp;

/// Pages that are read, of at most 2 MiB of records each; of a longer log, the latest records count.
const MAX_PAGES: usize = 256;
/// Records of one page.
const PAGE_RECORDS: usize = 10_000;
/// The mark with which a text of the log ends that was cut.
const CUT_MARK: &str = "… (";

/// What was not used for a shorter time says nothing.
pub const MIN_USAGE_PERIOD: Duration = Duration::from_secs(86_400);

/// What one agent was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentUsage {
    /// Earlier records do not count.
    pub since: Timestamp,
    /// When the agent got or was refused something last.
    pub last_seen: Option<Timestamp>,
    /// When the agent got something last: a token, a certificate, a credential or evidence.
    pub last_given: Option<Timestamp>,
    /// What was issued for each audience.
    pub by_audience: HashMap<String, AudienceUsage>,
    /// Whether a record does not name all audiences.
    pub is_cut: bool,
    /// The credentials that were released, by name.
    pub credentials: BTreeMap<String, CredentialUsage>,
}

/// What was issued to one agent for one audience.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudienceUsage {
    /// Tokens and JWT-SVIDs.
    pub count: u64,
    /// When the last one was issued.
    pub last: Option<Timestamp>,
    /// Scopes that a token had.
    pub scopes: BTreeSet<String>,
    /// Whether a record does not have all scopes.
    pub is_cut: bool,
    /// The longest lifetime, in seconds.
    pub lifetime: u64,
}

/// The releases of one credential to one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialUsage {
    /// How often it was released.
    pub count: u64,
    /// When it was released last.
    pub last: Option<Timestamp>,
}

/// The part of the period that the log covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownPeriod {
    /// The time from which all records are known. Of an empty log it is far in the future.
    pub from: Timestamp,
    /// Numbers in this part of the log that no line has.
    pub missing: u64,
}

impl AgentUsage {
    /// The usage of an agent of which no record was read yet; records before this time do not count.
    pub fn from_time(since: Timestamp) -> AgentUsage {
        AgentUsage {
            since,
            last_seen: None,
            last_given: None,
            by_audience: HashMap::new(),
            is_cut: false,
            credentials: BTreeMap::new(),
        }
    }

    fn add(&mut self, record: &UsedRecord<'_>) {
        let event = Event::from_name(&record.event);
        let outcome = event.map(Event::outcome);
        if !matches!(outcome, Some(Outcome::Granted | Outcome::Refused)) {
            return;
        }
        let latest = |known: Option<Timestamp>| known.max(Some(record.time));
        self.last_seen = latest(self.last_seen);
        if outcome == Some(Outcome::Granted) {
            self.last_given = latest(self.last_given);
        }
        match event {
            Some(Event::TokenIssued | Event::SvidIssued) => self.add_token(record),
            Some(Event::CredentialReleased) => {
                if let Some(name) = record.credential.as_deref() {
                    let usage = self.credentials.entry(name.to_owned()).or_default();
                    usage.count += 1;
                    usage.last = latest(usage.last);
                }
            }
            _ => {}
        }
    }

    fn add_token(&mut self, record: &UsedRecord<'_>) {
        let audiences = record.audience.as_deref().unwrap_or_default();
        self.is_cut |= audiences.contains(CUT_MARK);
        // A JWT-SVID has several audiences, an access token one.
        for audience in audiences.split(' ') {
            let usage = self.by_audience.entry(audience.to_owned()).or_default();
            let scope = record.scope.as_deref().unwrap_or_default();
            usage.count += 1;
            usage.last = usage.last.max(Some(record.time));
            usage.is_cut |= scope.contains(CUT_MARK);
            usage.scopes.extend(scope.split(' ').map(str::to_owned));
            let lifetime = record.exp.unwrap_or_default().saturating_sub(record.time.as_secs());
            usage.lifetime = usage.lifetime.max(lifetime);
        }
    }
}

/// Adds what the log in `dir` has of these agents since a time, the latest records first. Reads at most 512 MiB of
/// records, and says from when on all records are known. Blocking.
///
/// # Errors
/// The directory, or a file in it, cannot be read.
pub fn read_usage(
    dir: &Path,
    usages: &mut HashMap<&str, AgentUsage>,
    since: Timestamp,
) -> io::Result<KnownPeriod> {
    let first = read_page(dir, &AuditQuery { start: PageStart::After(0), ..AuditQuery::default() }, 1)?;
    // Nothing is known of an empty log.
    let begin = records(&first).next().map_or(Timestamp::from_secs(u64::MAX >> 1), |record| record.time);
    let mut query = AuditQuery { since: Some(since), ..AuditQuery::default() };
    let mut missing = 0;
    for _ in 0..MAX_PAGES {
        let page = read_page(dir, &query, PAGE_RECORDS)?;
        missing += page.missing.iter().map(|range| range.to - range.from + 1).sum::<u64>();
        for record in records(&page) {
            let usage = record.agent.as_deref().and_then(|agent| usages.get_mut(agent));
            if let Some(usage) = usage.filter(|usage| record.time >= usage.since) {
                usage.add(&record);
            }
        }
        match page.first.filter(|_| page.has_more) {
            Some(first) => query.start = PageStart::Before(first),
            None => return Ok(KnownPeriod { from: begin.max(since), missing }),
        }
    }
    // The rest of the log is not read: its latest record bounds what is known.
    let rest = read_page(dir, &query, 1)?;
    let from = records(&rest).next().map_or(since, |record| record.time).max(since);
    Ok(KnownPeriod { from, missing })
}

fn records(page: &AuditPage) -> impl Iterator<Item = UsedRecord<'_>> {
    page.records.iter().filter_map(|record| serde_json::from_str(record.get()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::open as open_log;

    #[test]
    fn what_was_given_and_what_is_not_known_of_it_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open_log(dir.path());
        let at = Timestamp::from_secs;
        let mut append = |secs: u64, members: &str| {
            let body = format!("\"time\":\"{}\",\"agent\":\"a\",{members}}}", at(secs));
            log.append([body.as_bytes()].into_iter()).unwrap();
        };
        append(1_000, r#""event":"token-issued","audience":"x","scope":"r","exp":1100"#);
        append(2_000, r#""event":"token-issued","audience":"x","scope":"r s","exp":2030"#);
        append(3_000, r#""event":"svid-issued","audience":"x y… (9000 bytes, sha256 00)","exp":3300"#);
        append(4_000, r#""event":"credential-released","credential":"c""#);
        append(5_000, r#""event":"request-refused","audience":"z""#);
        append(6_000, r#""event":"agent-suspended""#);
        let read = |since: u64| {
            let mut usages = HashMap::from([("a", AgentUsage::from_time(at(since)))]);
            let known = read_usage(dir.path(), &mut usages, at(since)).unwrap();
            (usages.remove("a").unwrap(), known)
        };
        let (usage, known) = read(1_500);
        assert_eq!(known, KnownPeriod { from: at(1_500), missing: 0 });
        assert_eq!((usage.last_seen, usage.last_given), (Some(at(5_000)), Some(at(4_000))));
        assert!(usage.is_cut && !usage.by_audience.contains_key("z"));
        let x = &usage.by_audience["x"];
        assert_eq!((x.count, x.last, x.lifetime, x.is_cut), (2, Some(at(3_000)), 300, false));
        assert!(x.scopes.contains("r") && x.scopes.contains("s"));
        assert_eq!(usage.credentials["c"], CredentialUsage { count: 1, last: Some(at(4_000)) });
        // The log is younger than the period.
        let (usage, known) = read(0);
        assert_eq!((usage.by_audience["x"].count, known.from), (3, at(1_000)));
    }
}

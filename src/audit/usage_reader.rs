//! Reads the log backwards for what agents were given in a period, and says from when on all records are known.
//!
//! Clocks are wrong at times: a host without a battery clock writes records of 1970 after each start. So a record does
//! not end the reading by its time. What counts is the place of a record in the log: it counts if it, or a record
//! before it, is of the period, and also where its own time cannot be believed.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::agent_usage::AgentUsage;
use super::event::Event;
use super::filter::{AuditQuery, MAX_DISORDER, PageStart};
use super::query::{AuditPage, read_page};
use super::used_record::UsedRecord;
use crate::clock::{ClockSync, Timestamp};

/// Pages that are read, of at most 2 MiB of records each; of a longer log, the latest records count.
const MAX_PAGES: usize = 256;
/// Records of one page.
const PAGE_RECORDS: usize = 10_000;
/// After this many consecutive records that are older than the period, by a clock that can be believed, the rest of
/// the log is older too.
const OLDER_RECORDS: usize = 10_000;

/// The part of the period that the log covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownPeriod {
    /// The time from which all records are known. Of an empty log it is far in the future.
    pub from: Timestamp,
    /// Numbers in this part of the log that no line has, and records that cannot be read.
    pub missing: u64,
    /// Why nothing is known of the time before `from`; `None` where that is the begin that was asked for.
    pub bound: Option<KnownBound>,
}

/// Why nothing earlier is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownBound {
    /// The log begins then.
    Log,
    /// Earlier records are not read.
    Size,
    /// The clock of the records before it cannot be believed.
    Clock,
}

/// How much of the log is read.
#[derive(Clone, Copy)]
struct Limits {
    pages: usize,
    page_records: usize,
    older_records: usize,
}

/// Adds what the log in `dir` has of these agents since a time, the latest records first. Reads at most 512 MiB of
/// records, and says from when on all records are known. `progress` gets the number of records that were read, and the
/// time back to which they reach. Blocking.
///
/// # Errors
/// The directory, or a file in it, cannot be read.
pub fn read_usage(
    dir: &Path,
    usages: &mut HashMap<&str, AgentUsage>,
    since: Timestamp,
    progress: &mut dyn FnMut(u64, Timestamp),
) -> io::Result<KnownPeriod> {
    let limits = Limits { pages: MAX_PAGES, page_records: PAGE_RECORDS, older_records: OLDER_RECORDS };
    read_within(dir, usages, since, limits, progress)
}

fn read_within(
    dir: &Path,
    usages: &mut HashMap<&str, AgentUsage>,
    since: Timestamp,
    limits: Limits,
    progress: &mut dyn FnMut(u64, Timestamp),
) -> io::Result<KnownPeriod> {
    let mut records = 0;
    let mut reading = Reading::new(usages, since);
    let mut query = AuditQuery::default();
    for _ in 0..limits.pages {
        let page = read_page(dir, &query, limits.page_records)?;
        reading.add_page(&page);
        records += page.records.len() as u64;
        if let Some(time) = reading.believed.or(reading.unbelieved) {
            progress(records, time);
        }
        if reading.older >= limits.older_records {
            return Ok(KnownPeriod { from: since, missing: reading.missing, bound: None });
        }
        match page.first.filter(|_| page.has_more) {
            Some(first) => query.start = PageStart::Before(first),
            None => return Ok(reading.known_from(KnownBound::Log)),
        }
    }
    Ok(reading.known_from(KnownBound::Size))
}

/// What was read, from the end of the log on.
struct Reading<'a, 'b> {
    usages: &'a mut HashMap<&'b str, AgentUsage>,
    /// What older records have that were read since the last one of the period. It counts if one before them is of
    /// the period.
    pending: HashMap<&'b str, AgentUsage>,
    since: Timestamp,
    missing: u64,
    /// As `pending`, of missing records.
    pending_missing: u64,
    /// Consecutive records that are older than the period, up to the one that was read last.
    older: usize,
    /// The time of the record that was read last of those whose clock can be believed.
    believed: Option<Timestamp>,
    /// As `believed`, for a log whose clock can never be believed: the one that was read last of those after the last
    /// change of the clock.
    unbelieved: Option<Timestamp>,
    has_clock_change: bool,
    /// The time of day and since the boot of a record whose clock can be believed, with its boot.
    anchor: Option<Anchor>,
    /// Whether the record that was read last cannot be believed.
    is_last_doubtful: bool,
}

struct Anchor {
    boot: String,
    time: Timestamp,
    monotonic: u64,
}

impl<'a, 'b> Reading<'a, 'b> {
    fn new(usages: &'a mut HashMap<&'b str, AgentUsage>, since: Timestamp) -> Reading<'a, 'b> {
        Reading {
            usages,
            pending: HashMap::new(),
            since,
            missing: 0,
            pending_missing: 0,
            older: 0,
            believed: None,
            unbelieved: None,
            has_clock_change: false,
            anchor: None,
            is_last_doubtful: false,
        }
    }

    fn add_page(&mut self, page: &AuditPage) {
        let mut gaps = page.missing.iter().rev().peekable();
        for record in page.records.iter().rev() {
            let Ok(record) = serde_json::from_str::<UsedRecord<'_>>(record.get()) else {
                // It could have shown a use.
                self.note_missing(1);
                continue;
            };
            while let Some(gap) = gaps.next_if(|gap| gap.from > record.seq) {
                self.note_missing(gap.to - gap.from + 1);
            }
            self.add(&record);
        }
        gaps.for_each(|gap| self.note_missing(gap.to - gap.from + 1));
    }

    /// Notes records that are not known, before the one that was read last. If that is older than the period, they are
    /// too, unless one before them is of the period.
    fn note_missing(&mut self, count: u64) {
        match self.older {
            0 => self.missing += count,
            _ => self.pending_missing += count,
        }
    }

    fn add(&mut self, record: &UsedRecord<'_>) {
        let is_doubtful = self.is_doubtful(record);
        self.is_last_doubtful = is_doubtful;
        if !is_doubtful {
            self.believed = Some(record.time);
            self.note_anchor(record);
        } else if !self.has_clock_change {
            self.unbelieved = Some(record.time);
        }
        self.has_clock_change |= Event::from_name(&record.event) == Some(Event::ClockChanged);
        let is_of_period = record.time >= self.since;
        if is_of_period {
            self.count_pending();
        }
        let is_older = !is_doubtful && record.time.after(MAX_DISORDER) < self.since;
        self.older = if is_older { self.older + 1 } else { 0 };
        let Some((name, usage)) = record
            .agent
            .as_deref()
            .and_then(|agent| self.usages.get_key_value(agent))
            .map(|(name, usage)| (*name, usage))
        else {
            return;
        };
        if is_doubtful || is_of_period && record.time >= usage.since {
            if let Some(usage) = self.usages.get_mut(name) {
                usage.add(record);
            }
        } else if !is_of_period {
            let since = usage.since;
            self.pending.entry(name).or_insert_with(|| AgentUsage::from_time(since)).add(record);
        }
    }

    /// The records since the last one of the period are of the period too: one before them is.
    fn count_pending(&mut self) {
        self.missing += std::mem::take(&mut self.pending_missing);
        for (name, pending) in self.pending.drain() {
            if let Some(usage) = self.usages.get_mut(name) {
                usage.join(pending);
            }
        }
    }

    /// Whether the time of a record cannot be believed: the kernel did not regard the clock as synchronized, or by a
    /// later record of the same boot the clock was behind.
    fn is_doubtful(&self, record: &UsedRecord<'_>) -> bool {
        if record.clock.as_deref() == Some(ClockSync::Unsynchronized.as_str()) {
            return true;
        }
        let (Some(anchor), Some(boot), Some(monotonic)) =
            (&self.anchor, record.boot_id.as_deref(), record.monotonic_us)
        else {
            return false;
        };
        let passed = std::time::Duration::from_micros(anchor.monotonic.saturating_sub(monotonic));
        anchor.boot == boot && record.time.after(passed).after(MAX_DISORDER) < anchor.time
    }

    fn note_anchor(&mut self, record: &UsedRecord<'_>) {
        let (Some(boot), Some(monotonic)) = (record.boot_id.as_deref(), record.monotonic_us) else { return };
        if self.anchor.as_ref().is_none_or(|anchor| anchor.boot != boot) {
            self.anchor = Some(Anchor { boot: boot.to_owned(), time: record.time, monotonic });
        }
    }

    /// From when on all is known, where everything was read or as much as is read at most.
    fn known_from(self, bound: KnownBound) -> KnownPeriod {
        let is_doubtful = self.is_last_doubtful && (self.believed.is_some() || self.has_clock_change);
        // Nothing is known of an empty log.
        let begin =
            self.believed.or(self.unbelieved).unwrap_or(Timestamp::from_secs(u64::MAX >> 1)).max(self.since);
        let bound = if is_doubtful && bound == KnownBound::Log { KnownBound::Clock } else { bound };
        KnownPeriod { from: begin, missing: self.missing, bound: (begin > self.since).then_some(bound) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::open as open_log;

    const DAY: u64 = 86_400;
    const NOW: u64 = 2_000_000_000;
    const MINUTE: u64 = 60;

    /// A log of these records, each with its time and further members.
    fn log_of(records: &[(u64, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open_log(dir.path());
        for (secs, members) in records {
            let body = format!("\"time\":\"{}\",{members}}}", Timestamp::from_secs(*secs));
            log.append([body.as_bytes()].into_iter()).unwrap();
        }
        dir
    }

    const STARTED: &str = r#""event":"daemon-started""#;
    const OLD_TOKEN: &str = r#""event":"token-issued","agent":"a","audience":"old","scope":"","exp":1"#;
    const TOKEN: &str = r#""event":"token-issued","agent":"a","audience":"x","scope":"","exp":1"#;

    /// The audiences of agent `a` in the last 30 days, and what is known.
    fn read_of(dir: &Path, limits: Limits) -> (Vec<String>, KnownPeriod) {
        let since = Timestamp::from_secs(NOW - 30 * DAY);
        let mut usages = HashMap::from([("a", AgentUsage::from_time(since))]);
        let known = read_within(dir, &mut usages, since, limits, &mut |_, _| {}).unwrap();
        let mut audiences: Vec<String> = usages["a"].by_audience.keys().cloned().collect();
        audiences.sort();
        (audiences, known)
    }

    const ALL: Limits = Limits { pages: 100, page_records: 2, older_records: 10 };

    fn known(from: u64, bound: Option<KnownBound>) -> KnownPeriod {
        KnownPeriod { from: Timestamp::from_secs(from), missing: 0, bound }
    }

    #[test]
    fn a_record_with_an_early_time_does_not_end_the_reading() {
        let day = |ago: u64| NOW - ago * DAY;
        let log = log_of(&[
            (day(60), OLD_TOKEN),
            (day(20), TOKEN),
            (100, STARTED),
            (200, &TOKEN.replace("\"x\"", "\"y\"")),
            (day(2), STARTED),
        ]);
        let (audiences, period) = read_of(log.path(), ALL);
        assert_eq!(audiences, ["x", "y"], "also what has an early time between those of the period");
        assert_eq!(period, known(day(30), None));
    }

    #[test]
    fn an_old_part_of_the_log_ends_the_reading() {
        let mut records = vec![(NOW - 20 * DAY, TOKEN)];
        records.extend((0..20).map(|n| (NOW - 50 * DAY + n * MINUTE, OLD_TOKEN)));
        records.push((NOW - 10 * DAY, STARTED));
        let (audiences, period) = read_of(log_of(&records).path(), ALL);
        assert_eq!((audiences.len(), period), (0, known(NOW - 30 * DAY, None)));
        // A clock that is not synchronized ends nothing, and what has its time counts.
        let doubtful = format!(r#""clock":"unsynchronized",{}"#, OLD_TOKEN);
        records
            .iter_mut()
            .filter(|(_, members)| *members == OLD_TOKEN)
            .for_each(|record| record.1 = &doubtful);
        let (audiences, _) = read_of(log_of(&records).path(), ALL);
        assert_eq!(audiences, ["old", "x"]);
    }

    #[test]
    fn the_begin_of_the_log_is_the_first_time_that_can_be_believed() {
        let doubtful = format!(r#""clock":"unsynchronized",{STARTED}"#);
        let log = log_of(&[(100, &doubtful), (NOW - 5 * DAY, STARTED), (NOW - DAY, STARTED)]);
        assert_eq!(read_of(log.path(), ALL).1, known(NOW - 5 * DAY, Some(KnownBound::Clock)));
        // By the time since the boot, the clock was behind.
        let at = |secs: u64| {
            format!(r#""boot_id":"b","monotonic_us":{},"event":"daemon-started""#, secs * 1_000_000)
        };
        let log = log_of(&[(100, &at(1)), (NOW - 5 * DAY, &at(61)), (NOW - 5 * DAY + 1, &at(62))]);
        assert_eq!(read_of(log.path(), ALL).1, known(NOW - 5 * DAY, Some(KnownBound::Clock)));
        // A clock that nothing synchronizes is believed, as far as it was not changed.
        let changed = doubtful.replace("daemon-started", "clock-changed");
        let log = log_of(&[(100, &doubtful), (NOW - 9 * DAY, &changed), (NOW - DAY, &doubtful)]);
        assert_eq!(read_of(log.path(), ALL).1, known(NOW - 9 * DAY, Some(KnownBound::Clock)));
        let log = log_of(&[(NOW - 40 * DAY, &doubtful), (NOW - DAY, &doubtful)]);
        assert_eq!(read_of(log.path(), ALL).1, known(NOW - 30 * DAY, None));
        let log = log_of(&[(NOW - 10 * DAY, STARTED)]);
        assert_eq!(read_of(log.path(), ALL).1, known(NOW - 10 * DAY, Some(KnownBound::Log)));
        assert_eq!(read_of(log_of(&[]).path(), ALL).1.bound, Some(KnownBound::Log));
    }

    #[test]
    fn a_log_that_is_not_read_whole_is_known_from_what_was_read() {
        let records: Vec<(u64, &str)> = (0..20).map(|n| (NOW - (20 - n) * DAY, TOKEN)).collect();
        let limits = Limits { pages: 3, page_records: 2, older_records: 10 };
        let (_, period) = read_of(log_of(&records).path(), limits);
        assert_eq!(period, known(NOW - 6 * DAY, Some(KnownBound::Size)));
    }

    #[test]
    fn records_that_are_not_there_or_cannot_be_read_are_missing() {
        let dir = log_of(&[(NOW - 40 * DAY, STARTED), (NOW - 3 * DAY, TOKEN), (NOW - 2 * DAY, STARTED)]);
        let file = dir.path().join(format!("{:020}.jsonl", 1));
        let text = std::fs::read_to_string(&file).unwrap();
        let without: String =
            text.lines().filter(|line| !line.contains("\"x\"")).map(|line| format!("{line}\n")).collect();
        std::fs::write(&file, without).unwrap();
        assert_eq!(read_of(dir.path(), ALL).1.missing, 1);
        std::fs::write(&file, text.replace("\"audience\":\"x\"", "\"audience\":7")).unwrap();
        assert_eq!(read_of(dir.path(), ALL).1.missing, 1);
        // What is missing of the time before the period does not count, unless its time is not known.
        let first = |ago: u64| {
            let times = [(NOW - ago * DAY, STARTED), (NOW - 50 * DAY, TOKEN), (NOW - 40 * DAY, STARTED)];
            let dir = log_of(&[times[0], times[1], times[2], (NOW - 2 * DAY, STARTED)]);
            let file = dir.path().join(format!("{:020}.jsonl", 1));
            let text = std::fs::read_to_string(&file).unwrap();
            let kept = text.lines().filter(|line| !line.contains("\"x\""));
            std::fs::write(&file, kept.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
            read_of(dir.path(), ALL).1.missing
        };
        assert_eq!((first(60), first(20)), (0, 1));
    }
}

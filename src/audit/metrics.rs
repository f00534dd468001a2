//! What the audit log did, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::event::Event;
use crate::metrics::{Counter, Histogram};

/// Numbers of the audit log since the start.
#[derive(Debug)]
pub struct AuditMetrics {
    /// Records by the kind of event, in the order of [`Event::ALL`].
    records: Vec<Counter>,
    /// How long writes took, each of one line or several.
    pub write_duration: Histogram,
    /// How long it took to sync the log to its disk.
    pub sync_duration: Histogram,
    /// Writes that failed, each of one line or several.
    pub write_failures: Counter,
    /// The number of the last line that is known to be on the disk.
    synced_seq: AtomicU64,
}

impl AuditMetrics {
    pub(super) fn new(synced_seq: u64) -> AuditMetrics {
        AuditMetrics {
            records: Event::ALL.iter().map(|_| Counter::default()).collect(),
            write_duration: Histogram::default(),
            sync_duration: Histogram::default(),
            write_failures: Counter::default(),
            synced_seq: AtomicU64::new(synced_seq),
        }
    }

    /// Returns how many records of each kind of event this process wrote.
    pub fn records(&self) -> impl Iterator<Item = (Event, u64)> {
        Event::ALL.iter().copied().zip(self.records.iter().map(Counter::get))
    }

    /// Returns the number of the last line that is known to be on the disk.
    pub fn synced_seq(&self) -> u64 {
        self.synced_seq.load(Ordering::Relaxed)
    }

    /// Counts a record.
    pub(super) fn count_record(&self, event: Event) {
        // The discriminants are the places in the list.
        if let Some(counter) = self.records.get(event as usize) {
            counter.increment();
        }
    }

    /// Lines up to this number are on the disk.
    pub(super) fn set_synced(&self, seq: u64) {
        self.synced_seq.fetch_max(seq, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_a_count_of_its_own() {
        let metrics = AuditMetrics::new(0);
        for event in Event::ALL {
            metrics.count_record(*event);
        }
        metrics.count_record(Event::TokenIssued);
        for (event, count) in metrics.records() {
            assert_eq!(count, 1 + u64::from(event == Event::TokenIssued), "{}", event.name());
        }
    }
}

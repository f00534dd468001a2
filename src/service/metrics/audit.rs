//! Metrics of the audit log and the journal: what was written, what waits, and what was lost.

use super::catalog;
use crate::metrics::Exposition;
use crate::service::identity_service::IdentityService;

impl IdentityService {
    pub(super) fn add_audit(&self, exposition: &mut Exposition) {
        let health = self.audit.health();
        let metrics = health.metrics();
        for (event, count) in metrics.records() {
            exposition.add(&catalog::AUDIT_RECORDS, [event.name().into()], count as f64);
        }
        // Read first, since both grow.
        let synced = metrics.synced_seq();
        let last = health.last_seq();
        exposition.add(&catalog::AUDIT_LAST_SEQUENCE, [], last as f64);
        exposition.add(&catalog::AUDIT_UNSYNCED, [], last.saturating_sub(synced) as f64);
        exposition.add(&catalog::AUDIT_QUEUED, [], self.audit.queued_lines() as f64);
        exposition.add_durations(&catalog::AUDIT_WRITE_DURATION, [], metrics.write_duration.snapshot());
        exposition.add_durations(&catalog::AUDIT_SYNC_DURATION, [], metrics.sync_duration.snapshot());
        exposition.add(&catalog::AUDIT_WRITE_FAILURES, [], metrics.write_failures.get() as f64);
        let flag = |is_set: bool| f64::from(u8::from(is_set));
        exposition.add(&catalog::AUDIT_WRITABLE, [], flag(health.write_error().is_none()));
        let problems = [
            ("fault", health.disk_fault().is_some()),
            ("filling", health.filling_warning().is_some()),
            ("low_space", health.is_low_on_space()),
        ];
        for (problem, is_present) in problems {
            exposition.add(&catalog::AUDIT_PROBLEM, [problem.into()], flag(is_present));
        }
        self.add_checkpoints(exposition, last);
        exposition.add(&catalog::JOURNAL_DROPPED, [], self.audit.journal().dropped() as f64);
    }

    /// `last` is the number of the last record.
    fn add_checkpoints(&self, exposition: &mut Exposition, last: u64) {
        let report = self.audit.checkpoints().report();
        if !report.is_on {
            return;
        }
        if let Some(at) = report.at {
            exposition.add(&catalog::AUDIT_CHECKPOINT_TIME, [], at.as_secs_f64());
        }
        let uncovered = last.saturating_sub(report.covered_to.unwrap_or_default());
        exposition.add(&catalog::AUDIT_UNCOVERED, [], uncovered as f64);
        exposition.add(&catalog::AUDIT_CHECKPOINT_FAILURES, [], report.failures as f64);
    }
}

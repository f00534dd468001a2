//! What the threads `audit` and `audit-sync` do.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::chain::ChainedLog;
use super::super::event::Event;
use super::super::record::Record;
use super::super::retention;
use super::LogWriter;
use super::new_file_pace::NewFilePace;
use crate::mutex::lock;

/// The thread `audit` checks the queue at least this often.
const WAKE_INTERVAL: Duration = Duration::from_millis(500);
/// Interval of fdatasync calls.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether the current file has to end by its age.
const AGE_INTERVAL: Duration = Duration::from_secs(3600);

impl LogWriter {
    /// Runs the thread `audit`: writes queued lines and starts new files.
    pub(super) fn run_writer(&self) {
        let mut new_file_pace = NewFilePace::default();
        let mut age_check_due = Instant::now();
        while !self.closed.load(Ordering::Acquire) {
            let queue = lock(&self.queue);
            let wait_result = self.work_available.wait_timeout_while(queue, WAKE_INTERVAL, |queue| {
                queue.is_empty() && !self.closed.load(Ordering::Acquire)
            });
            drop(wait_result);
            let is_age_check_due = Instant::now() >= age_check_due;
            if is_age_check_due {
                age_check_due = Instant::now() + AGE_INTERVAL;
            }
            let ends_by_age = is_age_check_due && self.ends_by_age();
            let mut log = lock(&self.log);
            if !self.is_queue_empty() {
                let (_, elapsed) = self.write_batch(&mut log, None);
                self.health.note_write_time(elapsed);
            }
            if self.syncer.lost_reason().is_some() {
                let _ = self.append(&mut log, std::iter::empty());
            }
            let ends = log.is_full() || ends_by_age && log.has_lines();
            if ends && !self.syncer.has_failed() {
                // Lines can be written during this sync. The one below covers the few that were.
                drop(log);
                self.sync();
                log = lock(&self.log);
                self.sync();
                self.start_file(&mut log);
            }
            if self.syncer.has_failed() && new_file_pace.is_due(Instant::now()) {
                self.start_file_after_fault(&mut log);
            }
            self.report_unanswered(&mut log);
        }
        self.report_unanswered(&mut lock(&self.log));
    }

    /// Starts a file after one whose lines are on the disk.
    fn start_file(&self, log: &mut ChainedLog) {
        if self.syncer.has_failed() {
            return;
        }
        let started = log.start_file();
        if started.is_ok() {
            self.follow(log);
        }
        self.health.record_rotation(started);
    }

    /// Starts a file after one that cannot be synced. A file without lines has lost none, and is tried again.
    fn start_file_after_fault(&self, log: &mut ChainedLog) {
        let started = if log.has_lines() { log.start_file() } else { Ok(()) };
        if started.is_ok() {
            self.follow(log);
            lock(&self.unanswered).begin_file();
        }
        self.health.record_rotation(started);
    }

    /// The next lines go to the file that `log` has started.
    fn follow(&self, log: &ChainedLog) {
        self.sync_gate.begin_file(log.seq() + 1);
        self.syncer.follow(log.file(), log.path());
    }

    /// Writes a record that names those whose requests were refused after they were written, if there are any.
    fn report_unanswered(&self, log: &mut ChainedLog) {
        let detail = {
            let mut unanswered = lock(&self.unanswered);
            unanswered.confirm(self.health.metrics().synced_seq());
            // Where the disk has no room now, the record is the next line that is written.
            unanswered.take_detail(log.seq() + 1)
        };
        let Some(detail) = detail else { return };
        let event = Event::ReplyRefused;
        let record = Record::for_event(event, &detail, self.clock.now());
        if let Ok(body) = record.to_json_members(&self.clock) {
            log.push_first_body(body);
            let _ = self.append(log, std::iter::empty());
            self.health.metrics().count_record(event);
        }
        tracing::error!(event = event.name(), "{detail}");
    }

    /// Whether the current file has records that are to be removed earlier than it would be full.
    fn ends_by_age(&self) -> bool {
        let Some(age) = self.section.keep.age else { return false };
        let current = lock(&self.log).path().to_owned();
        retention::is_due_to_end(&current, age, self.clock.now()).unwrap_or(false)
    }

    /// Runs the thread `audit-sync`: syncs the file and checks its disk, once a second. It syncs at once when a
    /// reply waits for that.
    pub(super) fn run_syncer(&self) {
        let mut check_due = Instant::now() + SYNC_INTERVAL;
        while !self.closed.load(Ordering::Acquire) {
            self.sync_gate.wait_for_request(check_due.saturating_duration_since(Instant::now()));
            {
                let _syncing = self.health.begin_sync();
                self.sync();
            }
            if Instant::now() >= check_due {
                check_due = Instant::now() + SYNC_INTERVAL;
                self.syncer.check_disk(&self.health);
            }
        }
    }
}

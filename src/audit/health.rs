//! State of the audit log's disk: speed, stalls, free space and the last write error.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::chain::ChainedLog;
use super::line::MAX_BODY_LEN;
use super::metrics::AuditMetrics;
use crate::config::AuditSync;
use crate::mutex::lock;

/// A write that takes longer than this was not just a copy into the page cache: the disk is slow.
pub(super) const SLOW_WRITE: Duration = Duration::from_millis(5);
/// While a sync takes longer than this, a write may block on it: the disk is slow.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// Number of fast writes by the log's thread after which workers write inline again.
pub(super) const FAST_WRITES_TO_RECOVER: u32 = 64;
/// A write that takes longer than this means that the disk is stalled; further requests are refused at once.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Below this free space, refusals of unknown callers and of the admin group are not recorded, so that the
/// rest is left for agents.
pub(super) const LOW_SPACE_BYTES: u64 = 64 << 20;

/// Why an audit line cannot be written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The write failed, for example because the disk is full.
    #[error(transparent)]
    Io(Arc<io::Error>),
    /// The record cannot be serialized.
    #[error(transparent)]
    Serialize(Arc<serde_json::Error>),
    /// The record exceeds the bound of a line.
    #[error("the record has {length} bytes; a line has at most {MAX_BODY_LEN}")]
    LineTooLong {
        /// Bytes of the record's JSON.
        length: usize,
    },
    /// Written lines could not be synced to the disk, so a crash of the machine could lose them.
    #[error("the audit log cannot be synced to its disk: {0}; a new file is started")]
    Sync(#[source] Arc<io::Error>),
    /// The current file has its maximum size, and the next one cannot be started.
    #[error("a new file of the audit log cannot be started: {0}; the current one continues to grow")]
    Rotate(#[source] Arc<io::Error>),
    /// 1024 lines already wait for the disk.
    #[error("the audit queue is full")]
    QueueFull,
    /// A write has been in progress for at least 1 s.
    #[error("the disk has not responded for {seconds} s")]
    Stalled {
        /// Whole seconds since the write began.
        seconds: u64,
    },
    /// This line was not written within 5 s.
    #[error("the disk is not responding")]
    Timeout,
    /// The file that was being written has no directory entry any more, or is truncated.
    #[error("the audit log's file {reason} while in use, and a new one cannot be started: {source}")]
    FileLost {
        /// What happened to the file.
        reason: &'static str,
        /// Why the next file cannot be started.
        source: Arc<io::Error>,
    },
    /// The log's thread has exited.
    #[error("its writer thread has exited")]
    WriterExited,
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        WriteError::Io(Arc::new(error))
    }
}

impl From<serde_json::Error> for WriteError {
    fn from(error: serde_json::Error) -> WriteError {
        WriteError::Serialize(Arc::new(error))
    }
}

/// State of the audit log and its disk.
#[derive(Debug)]
pub struct AuditHealth {
    start: Instant,
    last_seq: AtomicU64,
    writing: BusySince,
    syncing: BusySince,
    /// Fast writes by the log's thread that are still missing before workers write inline; 0 while they do.
    fast_writes_needed: AtomicU32,
    write_error: Mutex<Option<WriteError>>,
    /// Why the last sync failed; `None` if it succeeded.
    sync_error: Mutex<Option<WriteError>>,
    /// Whether replies wait for the disk, so that nothing is issued while it cannot sync.
    needs_sync: bool,
    /// Why the last new file could not be started; `None` if it was.
    rotation_error: Mutex<Option<WriteError>>,
    /// Whether a stall was logged and its end was not.
    stall_reported: AtomicBool,
    /// Whether less than [`LOW_SPACE_BYTES`] are free.
    low_space: AtomicBool,
    low_space_reported: AtomicBool,
    /// Seconds until the disk is full, if that is within a day; else [`u64::MAX`].
    full_in: AtomicU64,
    filling_reported: AtomicBool,
    metrics: AuditMetrics,
}

impl AuditHealth {
    pub(super) fn new(last_seq: u64, sync: AuditSync) -> AuditHealth {
        AuditHealth {
            start: Instant::now(),
            last_seq: AtomicU64::new(last_seq),
            writing: BusySince::default(),
            syncing: BusySince::default(),
            fast_writes_needed: AtomicU32::new(0),
            write_error: Mutex::default(),
            sync_error: Mutex::default(),
            needs_sync: sync == AuditSync::Always,
            rotation_error: Mutex::default(),
            stall_reported: AtomicBool::new(false),
            low_space: AtomicBool::new(false),
            low_space_reported: AtomicBool::new(false),
            full_in: AtomicU64::new(u64::MAX),
            filling_reported: AtomicBool::new(false),
            metrics: AuditMetrics::new(last_seq),
        }
    }

    /// What the log did, in numbers.
    pub fn metrics(&self) -> &AuditMetrics {
        &self.metrics
    }

    /// Returns the number of the last line; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq.load(Ordering::Acquire)
    }

    /// Returns why the log cannot be written at the moment, or `None` if it can. With `[audit] sync = "always"`, a
    /// record that cannot be synced counts as one that cannot be written.
    pub fn write_error(&self) -> Option<WriteError> {
        self.stall_error().or_else(|| lock(&self.write_error).clone()).or_else(|| self.refusing_fault())
    }

    /// Returns why the last sync failed, where replies wait for the disk: nobody gets a reply until a sync succeeds, so
    /// no record of one is written either.
    pub(super) fn refusing_fault(&self) -> Option<WriteError> {
        self.needs_sync.then(|| self.sync_error()).flatten()
    }

    /// Returns what is wrong with the log's disk although lines can be written.
    pub fn disk_fault(&self) -> Option<WriteError> {
        let sync_error = lock(&self.sync_error).clone();
        sync_error.or_else(|| lock(&self.rotation_error).clone())
    }

    /// Returns why the last sync failed, or `None` if it succeeded.
    pub(super) fn sync_error(&self) -> Option<WriteError> {
        lock(&self.sync_error).clone()
    }

    /// Whether less than 64 MiB are free on the log's disk.
    pub fn is_low_on_space(&self) -> bool {
        self.low_space.load(Ordering::Relaxed)
    }

    /// Returns a warning if the log's disk will be full within a day at the rate of the last hour.
    pub fn filling_warning(&self) -> Option<String> {
        let seconds = Some(self.full_in.load(Ordering::Relaxed)).filter(|seconds| *seconds < u64::MAX)?;
        Some(format!(
            "the disk of the audit log will be full in about {} h {} min at the rate of the last hour, and then \
             nothing is issued; move old files of the log elsewhere, or set [audit] keep",
            seconds / 3600,
            seconds / 60 % 60
        ))
    }

    /// Returns [`WriteError::Stalled`] if a write has been in progress for at least 1 s.
    pub fn stall_error(&self) -> Option<WriteError> {
        let age = self.writing.elapsed(self.start).filter(|age| *age >= STALL_TIMEOUT)?;
        Some(WriteError::Stalled { seconds: age.as_secs() })
    }

    /// Logs the beginning and the end of a stall, and low disk space, once each. Call it about once a second,
    /// from a thread that does not write to the log.
    pub fn report_transitions(&self) {
        match self.stall_error() {
            Some(stalled) if !self.stall_reported.swap(true, Ordering::Relaxed) => {
                tracing::error!(
                    event = "audit-failed",
                    "the audit log cannot be written: {stalled}; nothing is issued until it responds"
                );
            }
            None if self.stall_reported.swap(false, Ordering::Relaxed) => {
                tracing::warn!(event = "audit-recovered", "the audit log's disk responds again");
            }
            _ => {}
        }
        let warning = self.filling_warning();
        let was_reported = self.filling_reported.swap(warning.is_some(), Ordering::Relaxed);
        if let Some(warning) = warning.filter(|_| !was_reported) {
            tracing::warn!(event = "audit-filling", "{warning}");
        }
        let low_space = self.is_low_on_space();
        if self.low_space_reported.swap(low_space, Ordering::Relaxed) != low_space && low_space {
            tracing::warn!(
                event = "audit-low-space",
                "less than {} MiB are left for the audit log; \
                 refusals of unknown callers and of the admin group are counted, not recorded; \
                 move old files of the log elsewhere",
                LOW_SPACE_BYTES >> 20
            );
        }
    }

    /// Stores when the disk will be full, if that is known and near.
    pub(super) fn set_full_in(&self, full_in: Option<Duration>) {
        self.full_in.store(full_in.map_or(u64::MAX, |left| left.as_secs()), Ordering::Relaxed);
    }

    /// Marks a write as in progress until the guard is dropped.
    pub(super) fn begin_write(&self) -> BusyGuard<'_> {
        self.writing.begin(self.start)
    }

    /// Marks a sync as in progress until the guard is dropped.
    pub(super) fn begin_sync(&self) -> BusyGuard<'_> {
        self.syncing.begin(self.start)
    }

    /// Stores whether less than [`LOW_SPACE_BYTES`] are free.
    pub(super) fn set_low_space(&self, low_space: bool) {
        self.low_space.store(low_space, Ordering::Relaxed);
    }

    /// Stores that a sync has succeeded, and logs it if the one before had failed.
    pub(super) fn record_sync_success(&self) {
        update_fault(&self.sync_error, Ok(()));
    }

    /// Stores why a sync has failed, and logs it if the one before had succeeded. Returns the fault.
    pub(super) fn record_sync_failure(&self, error: io::Error) -> WriteError {
        let fault = WriteError::Sync(Arc::new(error));
        update_fault(&self.sync_error, Err(fault.clone()));
        fault
    }

    /// Stores the result of starting a new file, and logs when that begins to fail or works again.
    pub(super) fn record_rotation(&self, result: io::Result<()>) {
        update_fault(&self.rotation_error, result.map_err(|error| WriteError::Rotate(Arc::new(error))));
    }

    #[cfg(test)]
    pub(super) fn is_writing(&self) -> bool {
        self.writing.elapsed(self.start).is_some()
    }

    /// Whether the disk is fast enough for inline writes.
    pub(super) fn is_fast(&self) -> bool {
        self.fast_writes_needed.load(Ordering::Relaxed) == 0
            && self.syncing.elapsed(self.start).is_none_or(|age| age < SLOW_SYNC)
    }

    /// Disables inline writes until [`FAST_WRITES_TO_RECOVER`] writes were fast.
    pub(super) fn mark_slow(&self) {
        self.fast_writes_needed.store(FAST_WRITES_TO_RECOVER, Ordering::Relaxed);
    }

    /// Counts a write by the log's thread if it was fast.
    pub(super) fn note_write_time(&self, elapsed: Duration) {
        if elapsed <= SLOW_WRITE {
            // The caller holds the log's lock, so no other thread decrements the counter.
            let needed = self.fast_writes_needed.load(Ordering::Relaxed);
            self.fast_writes_needed.store(needed.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Stores the result of a write, and logs when writing begins to fail or works again.
    pub(super) fn record_result(&self, result: &Result<(), WriteError>, log: &ChainedLog) {
        // Whoever knows the number knows that its line was written.
        self.last_seq.store(log.seq(), Ordering::Release);
        if result.is_err() {
            self.metrics.write_failures.increment();
        }
        let mut previous = lock(&self.write_error);
        match result {
            Err(error) if previous.as_ref().is_none_or(|known| known.to_string() != error.to_string()) => {
                tracing::error!(
                    event = "audit-failed",
                    "{}: {error}; nothing is issued until it can be written",
                    log.path().display()
                );
                *previous = Some(error.clone());
            }
            Ok(()) if previous.is_some() => {
                tracing::info!(event = "audit-recovered", "the audit log can be written again");
                *previous = None;
            }
            _ => {}
        }
    }
}

/// Stores a fault beside the write itself, or its end, and logs both once.
fn update_fault(known: &Mutex<Option<WriteError>>, result: Result<(), WriteError>) {
    let mut known = lock(known);
    match (&result, &*known) {
        (Err(error), None) => tracing::error!(event = "audit-degraded", "{error}"),
        (Ok(()), Some(error)) => {
            tracing::info!(event = "audit-recovered", "no longer so: {error}");
        }
        (Ok(()), None) | (Err(_), Some(_)) => {}
    }
    *known = result.err();
}

/// When an operation began: 0 if none is in progress, else 1 plus the microseconds since the start of the
/// log.
#[derive(Debug, Default)]
struct BusySince(AtomicU64);

impl BusySince {
    fn begin(&self, start: Instant) -> BusyGuard<'_> {
        self.0.store(start.elapsed().as_micros() as u64 + 1, Ordering::Relaxed);
        BusyGuard(self)
    }

    fn elapsed(&self, start: Instant) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            began_at => Some(start.elapsed().saturating_sub(Duration::from_micros(began_at - 1))),
        }
    }
}

/// The operation is in progress until the guard is dropped.
pub(super) struct BusyGuard<'a>(&'a BusySince);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

//! How the log fares: whether its disk keeps up, answers at all, and has room.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::chain::ChainedLog;

/// A write that takes longer than this was no copy into the page cache.
pub(super) const SLOW_WRITE: Duration = Duration::from_millis(5);
/// While a sync takes longer than this, a write may have to wait for it.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// Writes of the thread that must be quick, one after the other, before lanes write again.
pub(super) const FAST_WRITES_TO_RECOVER: u32 = 64;
/// A disk that has not taken a line for this long is not waited for any more.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Of the last of a disk nothing goes to callers who are no agents.
pub(super) const LOW_SPACE_BYTES: u64 = 64 << 20;

/// Why lines could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WriteError(pub Arc<str>);

/// How the log fares.
#[derive(Debug)]
pub struct AuditHealth {
    start: Instant,
    last_seq: AtomicU64,
    writing: BusySince,
    syncing: BusySince,
    /// Quick writes of the thread still to come before lanes write again; 0 while they do.
    fast_writes_needed: AtomicU32,
    write_error: Mutex<Option<WriteError>>,
    /// Whether a stall was told, and not yet its end.
    stall_reported: AtomicBool,
    /// Little room is left: what remains is for agents.
    low_space: AtomicBool,
    low_space_reported: AtomicBool,
    /// Somebody has removed the file that is written to.
    file_removed: AtomicBool,
    removal_reported: AtomicBool,
}

impl AuditHealth {
    pub(super) fn new(last_seq: u64) -> AuditHealth {
        AuditHealth {
            start: Instant::now(),
            last_seq: AtomicU64::new(last_seq),
            writing: BusySince::default(),
            syncing: BusySince::default(),
            fast_writes_needed: AtomicU32::new(0),
            write_error: Mutex::default(),
            stall_reported: AtomicBool::new(false),
            low_space: AtomicBool::new(false),
            low_space_reported: AtomicBool::new(false),
            file_removed: AtomicBool::new(false),
            removal_reported: AtomicBool::new(false),
        }
    }

    /// Number of the last line; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq.load(Ordering::Relaxed)
    }

    /// Why nothing can be written now, if that is so.
    pub fn write_error(&self) -> Option<WriteError> {
        self.stall_error()
            .or_else(|| self.write_error.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .or_else(|| self.removal_error())
    }

    /// Whether little room is left on the disk.
    pub fn is_low_on_space(&self) -> bool {
        self.low_space.load(Ordering::Relaxed)
    }

    fn removal_error(&self) -> Option<WriteError> {
        let message =
            "the file of the audit log was removed while it was written; restart hostbadged to begin another";
        self.file_removed.load(Ordering::Relaxed).then(|| WriteError(message.into()))
    }

    /// The same for a disk that does not answer at all.
    pub fn stall_error(&self) -> Option<WriteError> {
        let age = self.writing.elapsed(self.start).filter(|age| *age >= STALL_TIMEOUT)?;
        Some(WriteError(format!("the disk has not answered for {} s", age.as_secs()).into()))
    }

    /// Tells the journal of a stall, once, and of its end. To be called every second or so, by a thread that is not
    /// held up by it.
    pub fn report_transitions(&self) {
        match self.stall_error() {
            Some(stalled) if !self.stall_reported.swap(true, Ordering::Relaxed) => {
                tracing::error!(event = "audit-failed", "{stalled}; nothing is issued until it does");
            }
            None if self.stall_reported.swap(false, Ordering::Relaxed) => {
                tracing::warn!(event = "audit-recovered", "the disk of the audit log answers again");
            }
            _ => {}
        }
        let low_space = self.is_low_on_space();
        if self.low_space_reported.swap(low_space, Ordering::Relaxed) != low_space && low_space {
            tracing::warn!(
                event = "audit-low-space",
                "less than {} MiB are left for the audit log; callers who are no agents are not written down",
                LOW_SPACE_BYTES >> 20
            );
        }
        let removed = self.removal_error().filter(|_| !self.removal_reported.swap(true, Ordering::Relaxed));
        if let Some(removed) = removed {
            tracing::error!(event = "audit-failed", "{removed}");
        }
    }

    /// A write goes on until the guard is dropped.
    pub(super) fn begin_write(&self) -> BusyGuard<'_> {
        self.writing.begin(self.start)
    }

    /// A sync goes on until the guard is dropped.
    pub(super) fn begin_sync(&self) -> BusyGuard<'_> {
        self.syncing.begin(self.start)
    }

    /// What was found of the file and its disk.
    pub(super) fn set_disk_state(&self, low_space: bool, file_removed: bool) {
        self.low_space.store(low_space, Ordering::Relaxed);
        self.file_removed.store(file_removed, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn is_writing(&self) -> bool {
        self.writing.elapsed(self.start).is_some()
    }

    pub(super) fn is_fast(&self) -> bool {
        self.fast_writes_needed.load(Ordering::Relaxed) == 0
            && self.syncing.elapsed(self.start).is_none_or(|age| age < SLOW_SYNC)
    }

    pub(super) fn mark_slow(&self) {
        self.fast_writes_needed.store(FAST_WRITES_TO_RECOVER, Ordering::Relaxed);
    }

    /// The thread wrote; enough quick writes in a row and lanes write again.
    pub(super) fn note_write_time(&self, elapsed: Duration) {
        if elapsed <= SLOW_WRITE {
            // Only the log's holder changes it.
            let needed = self.fast_writes_needed.load(Ordering::Relaxed);
            self.fast_writes_needed.store(needed.saturating_sub(1), Ordering::Relaxed);
        }
    }

    pub(super) fn record_result(&self, result: &Result<(), WriteError>, log: &ChainedLog) {
        self.last_seq.store(log.seq(), Ordering::Relaxed);
        let mut previous = self.write_error.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Err(error) if previous.as_ref() != Some(error) => {
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

/// Since when something goes on; 0 while it does not, else microseconds since the start and one more.
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

/// It goes on for as long as this lives.
pub(super) struct BusyGuard<'a>(&'a BusySince);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

//! How the log fares: whether its disk keeps up, answers at all, and has room.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::chain::Log;

/// A write that takes longer than this was no copy into the page cache.
pub(super) const SLOW_WRITE: Duration = Duration::from_millis(5);
/// While a sync takes longer than this, a write may have to wait for it.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// Writes of the thread that must be quick, one after the other, before lanes write again.
pub(super) const CAUGHT_UP: u32 = 64;
/// A disk that has not taken a line for this long is not waited for any more.
const STALLED: Duration = Duration::from_secs(1);
/// Of the last of a disk nothing goes to callers who are no agents.
pub(super) const SCARCE: u64 = 64 << 20;

/// Why lines could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub Arc<str>);

/// How the log fares.
#[derive(Debug)]
pub struct Health {
    start: Instant,
    last: AtomicU64,
    writing: Since,
    syncing: Since,
    /// Quick writes of the thread still to come before lanes write again; 0 while they do.
    behind: AtomicU32,
    problem: Mutex<Option<Problem>>,
    /// Whether a stall was told, and not yet its end.
    told: AtomicBool,
    /// Little room is left: what remains is for agents.
    scarce: AtomicBool,
    told_scarce: AtomicBool,
    /// Somebody has removed the file that is written to.
    removed: AtomicBool,
    told_removed: AtomicBool,
}

impl Health {
    pub(super) fn new(last: u64) -> Health {
        Health {
            start: Instant::now(),
            last: AtomicU64::new(last),
            writing: Since::default(),
            syncing: Since::default(),
            behind: AtomicU32::new(0),
            problem: Mutex::default(),
            told: AtomicBool::new(false),
            scarce: AtomicBool::new(false),
            told_scarce: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            told_removed: AtomicBool::new(false),
        }
    }

    /// Number of the last line; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Why nothing can be written now, if that is so.
    pub fn problem(&self) -> Option<Problem> {
        self.stalled()
            .or_else(|| self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .or_else(|| self.removed())
    }

    /// Whether little room is left on the disk.
    pub fn scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    fn removed(&self) -> Option<Problem> {
        let what =
            "the file of the audit log was removed while it was written; restart hostbadged to begin another";
        self.removed.load(Ordering::Relaxed).then(|| Problem(what.into()))
    }

    /// The same for a disk that does not answer at all.
    pub fn stalled(&self) -> Option<Problem> {
        let waited = self.writing.age(self.start).filter(|age| *age >= STALLED)?;
        Some(Problem(format!("the disk has not answered for {} s", waited.as_secs()).into()))
    }

    /// Tells the journal of a stall, once, and of its end. To be called every second or so, by a thread that is not
    /// held up by it.
    pub fn look(&self) {
        match self.stalled() {
            Some(stalled) if !self.told.swap(true, Ordering::Relaxed) => {
                tracing::error!(event = "audit-failed", "{stalled}; nothing is issued until it does");
            }
            None if self.told.swap(false, Ordering::Relaxed) => {
                tracing::warn!(event = "audit-recovered", "the disk of the audit log answers again");
            }
            _ => {}
        }
        let scarce = self.scarce();
        if self.told_scarce.swap(scarce, Ordering::Relaxed) != scarce && scarce {
            tracing::warn!(
                event = "audit-scarce",
                "less than {} MiB are left for the audit log; callers who are no agents are not written down",
                SCARCE >> 20
            );
        }
        let removed = self.removed().filter(|_| !self.told_removed.swap(true, Ordering::Relaxed));
        if let Some(removed) = removed {
            tracing::error!(event = "audit-failed", "{removed}");
        }
    }

    /// A write goes on until the guard is dropped.
    pub(super) fn writing(&self) -> Going<'_> {
        self.writing.enter(self.start)
    }

    /// A sync goes on until the guard is dropped.
    pub(super) fn syncing(&self) -> Going<'_> {
        self.syncing.enter(self.start)
    }

    /// What was found of the file and its disk.
    pub(super) fn found(&self, scarce: bool, removed: bool) {
        self.scarce.store(scarce, Ordering::Relaxed);
        self.removed.store(removed, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn is_writing(&self) -> bool {
        self.writing.age(self.start).is_some()
    }

    pub(super) fn keeps_up(&self) -> bool {
        self.behind.load(Ordering::Relaxed) == 0
            && self.syncing.age(self.start).is_none_or(|age| age < SLOW_SYNC)
    }

    pub(super) fn fall_behind(&self) {
        self.behind.store(CAUGHT_UP, Ordering::Relaxed);
    }

    /// The thread wrote; enough quick writes in a row and lanes write again.
    pub(super) fn count_quick(&self, took: Duration) {
        if took <= SLOW_WRITE {
            // Only the log's holder changes it.
            let behind = self.behind.load(Ordering::Relaxed);
            self.behind.store(behind.saturating_sub(1), Ordering::Relaxed);
        }
    }

    pub(super) fn note(&self, result: &Result<(), Problem>, log: &Log) {
        self.last.store(log.seq(), Ordering::Relaxed);
        let mut before = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Err(problem) if before.as_ref() != Some(problem) => {
                tracing::error!(
                    event = "audit-failed",
                    "{}: {problem}; nothing is issued until it can be written",
                    log.path().display()
                );
                *before = Some(problem.clone());
            }
            Ok(()) if before.is_some() => {
                tracing::info!(event = "audit-recovered", "the audit log can be written again");
                *before = None;
            }
            _ => {}
        }
    }
}

/// Since when something goes on; 0 while it does not, else microseconds since the start and one more.
#[derive(Debug, Default)]
struct Since(AtomicU64);

impl Since {
    fn enter(&self, start: Instant) -> Going<'_> {
        self.0.store(start.elapsed().as_micros() as u64 + 1, Ordering::Relaxed);
        Going(self)
    }

    fn age(&self, start: Instant) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            since => Some(start.elapsed().saturating_sub(Duration::from_micros(since - 1))),
        }
    }
}

/// It goes on for as long as this lives.
pub(super) struct Going<'a>(&'a Since);

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

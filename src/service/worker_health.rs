//! How many workers do not run. The server of the workers counts them, health and status report them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of workers, and of those that have not run a task for a second or more. Clones share the
/// numbers.
#[derive(Clone, Debug, Default)]
pub struct WorkerHealth(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: AtomicUsize,
    stalled: AtomicUsize,
}

impl WorkerHealth {
    /// Stores the result of a check.
    pub fn report(&self, total: usize, stalled: usize) {
        self.0.total.store(total, Ordering::Relaxed);
        self.0.stalled.store(stalled, Ordering::Relaxed);
    }

    /// The number of workers; 0 before the first check.
    pub fn total(&self) -> usize {
        self.0.total.load(Ordering::Relaxed)
    }

    /// The number of workers that do not run.
    pub fn stalled(&self) -> usize {
        self.0.stalled.load(Ordering::Relaxed)
    }

    /// What is wrong, where a worker does not run.
    pub fn problem(&self) -> Option<String> {
        let (total, stalled) = (self.total(), self.stalled());
        (stalled > 0).then(|| {
            format!("{stalled} of {total} workers have not run for more than a second; their callers wait")
        })
    }
}

//! What the TPM thread did, in numbers.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::FaultClass;
use crate::metrics::{Counter, Histogram};

/// Numbers of the TPM thread and its queue since the start.
#[derive(Debug, Default)]
pub struct TpmMetrics {
    /// Requests that wait for the thread now.
    waiting: AtomicUsize,
    /// How long requests waited until the thread took them.
    pub queue_wait: Histogram,
    /// How long requests took from then on, with repetitions.
    pub duration: Histogram,
    /// Requests that were not taken, because as many as allowed waited.
    pub queue_full: Counter,
    /// Requests whose callers waited in vain until their deadline.
    pub deadline_exceeded: Counter,
    /// Times that the connection was opened.
    pub connections: Counter,
    authorization: Counter,
    lockout: Counter,
    out_of_memory: Counter,
    reset: Counter,
    retry_later: Counter,
    transport: Counter,
}

impl TpmMetrics {
    /// Returns how many requests wait for the thread.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns the faults of the TPM or the connection by their class. Requests that failed by themselves are none.
    pub fn faults(&self) -> [(&'static str, u64); 6] {
        [
            ("authorization", self.authorization.get()),
            ("lockout", self.lockout.get()),
            ("out_of_memory", self.out_of_memory.get()),
            ("reset", self.reset.get()),
            ("retry_later", self.retry_later.get()),
            ("transport", self.transport.get()),
        ]
    }

    /// A request waits for the thread.
    pub(super) fn add_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A request does not wait any more.
    pub(super) fn remove_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a fault of the TPM or the connection.
    pub(super) fn count_fault(&self, class: FaultClass) {
        let counter = match class {
            FaultClass::Authorization => &self.authorization,
            FaultClass::Lockout => &self.lockout,
            FaultClass::OutOfMemory => &self.out_of_memory,
            FaultClass::Reset => &self.reset,
            FaultClass::RetryLater => &self.retry_later,
            FaultClass::Transport => &self.transport,
            FaultClass::Request => return,
        };
        counter.increment();
    }
}

//! A clock for tests.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use super::sync::ClockSync;
use super::timestamp::{BootTime, Timestamp};

/// A clock that changes only as a test sets it.
#[derive(Debug)]
pub struct ManualClock {
    /// Microseconds since the epoch.
    now: AtomicU64,
    /// Microseconds since a boot long ago.
    boot_time: AtomicU64,
    sync: AtomicU8,
}

/// Far from zero, so that a test can look back.
const STARTED: Duration = Duration::from_secs(1_000_000_000);

impl ManualClock {
    /// A synchronized clock at this time.
    pub fn new(at: Timestamp) -> ManualClock {
        ManualClock {
            now: AtomicU64::new(at.0),
            boot_time: AtomicU64::new(micros(STARTED)),
            sync: AtomicU8::new(ClockSync::Synchronized.to_u8()),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    pub(super) fn boot_time(&self) -> BootTime {
        BootTime(Duration::from_micros(self.boot_time.load(Ordering::SeqCst)))
    }

    pub(super) fn sync(&self) -> ClockSync {
        ClockSync::from_u8(self.sync.load(Ordering::SeqCst))
    }

    pub(super) fn advance(&self, duration: Duration) {
        self.now.fetch_add(micros(duration), Ordering::SeqCst);
        self.boot_time.fetch_add(micros(duration), Ordering::SeqCst);
    }

    pub(super) fn set(&self, at: Timestamp) {
        self.now.store(at.0, Ordering::SeqCst);
    }

    pub(super) fn set_sync(&self, sync: ClockSync) {
        self.sync.store(sync.to_u8(), Ordering::SeqCst);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

//! The clock that code reads.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::manual::ManualClock;
use super::sync::{self, ClockSync};
use super::timestamp::{BootTime, Timestamp};

/// A source of the time of day.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system clock (`CLOCK_REALTIME`).
    #[default]
    System,
    /// A clock for tests, which changes only as they set it.
    Manual(Arc<ManualClock>),
}

/// How much a time of day can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockQuality {
    /// The time since the host booted, which nobody can set.
    pub boot_time: BootTime,
    /// Whether the clock is synchronized.
    pub sync: ClockSync,
    /// The kernel's bound of the clock's error, at most a second old; `None` where the clock is not synchronized.
    pub max_error: Option<Duration>,
}

impl Clock {
    /// A manual clock that starts at `at`, and counts as synchronized.
    pub fn manual(at: Timestamp) -> Self {
        Clock::Manual(Arc::new(ManualClock::new(at)))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => Timestamp(system_micros()),
            Clock::Manual(clock) => clock.now(),
        }
    }

    /// The time since the host booted, which setting this clock does not change.
    pub fn boot_time(&self) -> BootTime {
        match self {
            Clock::System => BootTime::now(),
            Clock::Manual(clock) => clock.boot_time(),
        }
    }

    /// Whether the clock is synchronized with a source of time. The kernel is asked at most once a second.
    pub fn sync(&self) -> ClockSync {
        self.quality().sync
    }

    /// How much the time of day can be believed, and the time since the boot, with which it can be compared. The clock
    /// of the boot time is read once.
    pub fn quality(&self) -> ClockQuality {
        let boot_time = self.boot_time();
        let (sync, max_error) = match self {
            Clock::System => sync::of_kernel(boot_time),
            Clock::Manual(clock) => (clock.sync(), None),
        };
        ClockQuality { boot_time, sync, max_error }
    }

    /// Advances a manual clock, as time that passes; no effect on the system clock.
    pub fn advance(&self, duration: Duration) {
        if let Clock::Manual(clock) = self {
            clock.advance(duration);
        }
    }

    /// Sets a manual clock, as an administrator does; no effect on the system clock.
    pub fn set(&self, at: Timestamp) {
        if let Clock::Manual(clock) = self {
            clock.set(at);
        }
    }

    /// Sets whether a manual clock counts as synchronized; no effect on the system clock.
    pub fn set_sync(&self, sync: ClockSync) {
        if let Clock::Manual(clock) = self {
            clock.set_sync(sync);
        }
    }
}

/// Reads the system clock, nowhere else. A time before 1970 is returned as 1970.
#[expect(clippy::disallowed_methods, reason = "all other code takes a Clock")]
fn system_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_moves_only_on_advance() {
        let clock = Clock::manual(Timestamp::from_secs(100));
        assert_eq!(clock.now(), clock.now());
        let boot = clock.boot_time();
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.boot_time().since(boot), Duration::from_millis(1500));
        assert_eq!(clock.now().as_secs(), 101);
        assert_eq!(clock.now().to_string(), "1970-01-01T00:01:41.500000Z");
        clock.set(Timestamp::from_secs(7));
        assert_eq!((clock.now().as_secs(), clock.boot_time().since(boot).as_millis()), (7, 1500));
    }
}

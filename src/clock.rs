//! Time as a parameter.
//!
//! Whatever depends on the time of day takes a [`Clock`], so that each rule about time is tested by turning a hand
//! instead of sleeping.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A moment, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `secs` seconds after the epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Timestamp(secs.saturating_mul(1_000_000))
    }

    /// Whole seconds since the epoch, as JWT's NumericDate (RFC 7519 section 2).
    pub const fn secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The moment `by` later; a moment beyond what can be told is the last one.
    pub const fn after(self, by: Duration) -> Timestamp {
        // A u128 of microseconds that does not fit is later than any moment anyway.
        let by = by.as_micros();
        Timestamp(self.0.saturating_add(if by > u64::MAX as u128 { u64::MAX } else { by as u64 }))
    }

    /// The same or the next moment that is a whole second: what is kept in seconds is kept too late, not too early.
    pub const fn rounded_up(self) -> Timestamp {
        Timestamp::from_secs(self.0.div_ceil(1_000_000))
    }

    /// The time that has passed since `earlier`; zero if the clock went back.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A moment since the host's start, for the age of what was seen: nobody sets this clock, and it goes on while the host is
/// suspended, as [`std::time::Instant`] does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    pub fn now() -> Uptime {
        // Every kernel that the daemon runs on has this clock.
        Uptime(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }

    pub fn after(self, by: Duration) -> Uptime {
        Uptime(self.0.saturating_add(by))
    }

    /// The time that has passed since `earlier`; zero where that is later.
    pub fn since(self, earlier: Uptime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// RFC 3339 in UTC with microseconds. Its years have four digits, so the last moment that it can write is in 9999; a
/// damaged file may hold a later one, which is shown as that.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LAST: u64 = 253_402_300_799_999_999;
        humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(self.0.min(LAST))).fmt(f)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a rule about time gets the time from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until it is moved.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `at` until [`Clock::advance`] moves it.
    pub fn manual(at: Timestamp) -> Self {
        Clock::Manual(Arc::new(AtomicU64::new(at.0)))
    }

    /// What this clock shows.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => Timestamp(system_micros()),
            Clock::Manual(at) => Timestamp(at.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; the machine's clock is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(at) = self {
            at.fetch_add(by.as_micros() as u64, Ordering::SeqCst);
        }
    }
}

/// The one place that reads the machine's clock. A clock before 1970 reads as 1970.
#[expect(clippy::disallowed_methods, reason = "every other place takes a Clock")]
fn system_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a namespace of its own, a process can be told that the host was suspended for long.
    #[test]
    fn the_time_of_a_suspended_host_counts() {
        const INSIDE: &str = "HOSTBADGE_TEST_SUSPENDED";
        const LONG: u64 = 1_000_000;
        if let Ok(before) = std::env::var(INSIDE) {
            let before = Uptime(Duration::from_secs(before.parse().unwrap()));
            assert!(Uptime::now().since(before) >= Duration::from_secs(LONG - 1));
            return;
        }
        let inside = std::process::Command::new("unshare")
            .args(["--map-root-user", "--time", "--boottime", &LONG.to_string(), "--fork", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "clock::tests::the_time_of_a_suspended_host_counts"])
            .env(INSIDE, Uptime::now().0.as_secs().to_string())
            .output()
            .unwrap();
        assert!(inside.status.success(), "{inside:?}");
        assert!(String::from_utf8_lossy(&inside.stdout).contains("1 passed"), "{inside:?}");
    }

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_secs(100));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now().secs(), 101);
        assert_eq!(clock.now().to_string(), "1970-01-01T00:01:41.500000Z");
    }

    #[test]
    fn moments_too_late_to_be_told_are_the_last_one() {
        let last = Timestamp::from_secs(u64::MAX).after(Duration::MAX);
        assert_eq!(last.to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp(1_000_001).rounded_up(), Timestamp::from_secs(2));
        assert_eq!(Timestamp(1_000_000).rounded_up().after(Duration::from_secs(4)), Timestamp::from_secs(5));
    }

    #[test]
    fn a_clock_that_went_back_never_gives_a_negative_age() {
        assert_eq!(Timestamp::from_secs(5).since(Timestamp::from_secs(9)), Duration::ZERO);
    }
}

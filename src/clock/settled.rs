//! Decides when a clock is to be believed that something has expired.
//!
//! A clock that is ahead for a moment makes everything look expired. If revocations were dropped then, they
//! would be undone when the clock is right again. They are dropped only while the clock has run for an hour
//! without being set, measured by [`BootTime`]; not within the first hour after the daemon started.

use std::time::Duration;

use super::timestamp::{BootTime, Timestamp};

/// A clock that was set less than this long ago may be set back.
const SETTLING_TIME: Duration = Duration::from_secs(3600);
/// A clock that differs less than this from the time that has passed is being adjusted, and was not set.
const TOLERANCE: Duration = Duration::from_secs(60);

/// The last time at which the clock was set, as far as it has been observed.
#[derive(Debug, Default)]
pub struct SettledClock {
    since: Option<(Timestamp, BootTime)>,
}

impl SettledClock {
    /// What expired at this time or before has expired for certain: `now`, or 1970 while the clock may be
    /// set back.
    pub fn horizon(&mut self, now: Timestamp) -> Timestamp {
        self.horizon_at(now, BootTime::now())
    }

    /// The same at a given time since the host booted.
    pub fn horizon_at(&mut self, now: Timestamp, boot: BootTime) -> Timestamp {
        const NOTHING_EXPIRED: Timestamp = Timestamp::from_secs(0);
        let (set_to, set_at) = *self.since.get_or_insert((now, boot));
        let elapsed = boot.since(set_at);
        let expected = set_to.after(elapsed);
        if now.since(expected).max(expected.since(now)) > TOLERANCE {
            self.since = Some((now, boot));
            return NOTHING_EXPIRED;
        }
        if elapsed >= SETTLING_TIME { now } else { NOTHING_EXPIRED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_expired_for_certain_within_an_hour_after_the_clock_was_set() {
        let (now, boot) = (Timestamp::from_secs(1_700_000_000), BootTime::now());
        let mut clock = SettledClock::default();
        let mut horizon = |ahead: u64, elapsed: u64| {
            let now = now.after(Duration::from_secs(ahead + elapsed));
            let horizon = clock.horizon_at(now, boot.after(Duration::from_secs(elapsed)));
            assert!(horizon == now || horizon.as_secs() == 0);
            horizon == now
        };
        const DAY: u64 = 24 * 3600;
        assert_eq!([0, 3599, 3600, DAY].map(|elapsed| horizon(0, elapsed)), [false, false, true, true]);
        // Three days ahead for 12 s.
        assert_eq!([0, 12].map(|elapsed| horizon(3 * DAY, DAY + elapsed)), [false, false]);
        assert_eq!([12, 3611, 3612].map(|elapsed| horizon(0, DAY + elapsed)), [false, false, true]);
        // Adjusted by less than a minute.
        assert!(horizon(59, 2 * DAY));
        assert!(!horizon(61, 2 * DAY));
    }
}

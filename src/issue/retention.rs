//! For how long retired keys have been retired, by a clock that cannot be set.
//!
//! A key is destroyed when the last token that it signed has expired. The time of day is not enough to know
//! that: a clock that is ahead for a moment would destroy keys whose tokens are valid, and a key that was
//! retired by a clock that was ahead would stay for years, with tokens that become valid then. After
//! [`RETENTION`] of time that has passed, each token has lived its life, whatever the clock said.

use std::collections::{HashMap, HashSet};

use super::key_event::KeyChange;
use super::rotation::{RETENTION, RotationPolicy};
use crate::clock::{BootTime, ClockState, Timestamp};
use crate::verify::Jwk;

/// Since when this process knows that keys are retired.
#[derive(Debug, Default)]
pub(super) struct Retention {
    since: HashMap<String, BootTime>,
}

impl Retention {
    /// The retired keys that are to be destroyed: those that have been retired for long enough while this
    /// process ran, and those whose time has come by a clock that can be believed.
    ///
    /// `retired` are the keys that are retired, by `kid`, each with the time since when.
    pub(super) fn due<'k>(
        &mut self,
        retired: impl Iterator<Item = (&'k str, Timestamp)>,
        clock: &ClockState,
    ) -> HashSet<String> {
        let (now, boot, is_settled) = (clock.now(), clock.clock().boot_time(), clock.is_settled());
        let mut known = std::mem::take(&mut self.since);
        let mut due = HashSet::new();
        for (kid, retired) in retired {
            let since = known.remove(kid).unwrap_or(boot);
            let has_expired = is_settled && RotationPolicy::destroy_at(retired) <= now;
            if has_expired || boot.since(since) >= RETENTION {
                due.insert(kid.to_owned());
            }
            self.since.insert(kid.to_owned(), since);
        }
        due
    }
}

/// Drops the public halves of the keys that are not retired in the schedule any more. `early` is one of them whose
/// tokens may still be valid, with their end.
pub(super) fn drop_destroyed(
    public_keys: &mut Vec<Jwk>,
    is_retired: impl Fn(&str) -> bool,
    early: Option<(String, Timestamp)>,
) -> Vec<KeyChange> {
    let (retained, destroyed) = std::mem::take(public_keys).into_iter().partition(|jwk| is_retired(&jwk.kid));
    *public_keys = retained;
    let change = |Jwk { kid, .. }| {
        let until = early.as_ref().filter(|(early, _)| *early == kid).map(|(_, until)| *until);
        KeyChange::Destroyed { kid, tokens_valid_until: until }
    };
    Vec::into_iter(destroyed).map(change).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, ClockSync};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// The key `first`, retired at this time.
    fn retired_at(at: Timestamp) -> impl Iterator<Item = (&'static str, Timestamp)> + Clone {
        std::iter::once(("first", at))
    }

    fn unsynchronized(at: Timestamp) -> (Clock, ClockState) {
        let clock = Clock::manual(at);
        clock.set_sync(ClockSync::Unsynchronized);
        (clock.clone(), ClockState::new(clock))
    }

    #[test]
    fn clock_that_is_ahead_for_a_moment_destroys_no_key() {
        let (schedule, mut retention) = (retired_at(NOW), Retention::default());
        let (clock, state) = unsynchronized(NOW);
        assert!(retention.due(schedule.clone(), &state).is_empty());
        clock.set(NOW.after(DAY));
        assert!(retention.due(schedule.clone(), &state).is_empty());
        clock.set(NOW);
        clock.advance(RETENTION - Duration::from_secs(1));
        assert!(retention.due(schedule.clone(), &state).is_empty());
        clock.advance(Duration::from_secs(1));
        assert_eq!(retention.due(schedule.clone(), &state), HashSet::from(["first".to_owned()]));
    }

    #[test]
    fn key_that_was_retired_by_a_clock_that_was_ahead_is_destroyed_after_an_hour() {
        let (schedule, mut retention) = (retired_at(NOW.after(DAY * 3650)), Retention::default());
        let (clock, state) = unsynchronized(NOW);
        assert!(retention.due(schedule.clone(), &state).is_empty());
        clock.advance(RETENTION);
        assert_eq!(retention.due(schedule.clone(), &state).len(), 1);
    }

    /// A restart does not begin the time again for a key that was retired long ago.
    #[test]
    fn settled_clock_decides_after_a_restart() {
        for sync in [ClockSync::Synchronized, ClockSync::Unsynchronized, ClockSync::Unknown] {
            let clock = Clock::manual(NOW.after(RETENTION));
            clock.set_sync(sync);
            let state = ClockState::new(clock);
            assert_eq!(Retention::default().due(retired_at(NOW), &state).len(), 1, "{sync}");
            assert_eq!(Retention::default().due(retired_at(NOW.after(DAY)), &state).len(), 0, "{sync}");
        }
    }
}

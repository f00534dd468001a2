//! How far the clock can be believed: when it was last set, and whether its time is known to be right.
//!
//! What was made while the clock was ahead looks the same as what was made before a clock that is behind now.
//! What replaces such things, and destroys nothing, is done at once. Revoking certificates and destroying
//! keys cannot be undone, so it waits until the clock is trusted: the kernel calls it synchronized, or an
//! administrator said that it is right.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::source::Clock;
use super::sync::ClockSync;
use super::timestamp::{BootTime, Timestamp};

/// A clock that differs by more than this from the time that has passed was set.
const TOLERANCE: Duration = Duration::from_secs(60);
/// A clock that is behind [`ClockState::latest`] by less was corrected.
const MAX_BEHIND: Duration = Duration::from_secs(300);
/// A clock that was set back by more than this: the longest lifetime of a token.
const LARGE_STEP: Duration = Duration::from_secs(3600);
/// A clock that was set may be set again for this long: the longest lifetime of a token and some more.
const SETTLING_TIME: Duration = Duration::from_secs(2 * 3600);

/// The time of day as a decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeAtDecision {
    /// What the clock shows.
    pub now: Timestamp,
    /// What a believed clock has shown already: [`ClockState::latest`].
    pub latest: Timestamp,
}

impl TimeAtDecision {
    /// The time by which something has ended, also if the clock was set back since.
    pub fn not_before(self) -> Timestamp {
        self.now.max(self.latest)
    }

    /// Whether the clock is so far behind that the time of day is not known.
    pub fn is_behind(self) -> bool {
        self.latest.since(self.now) > MAX_BEHIND
    }
}

/// A change of the clock that was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockChange {
    /// The clock was set.
    Set {
        /// The time that it would have had.
        from: Timestamp,
        /// The time that it had instead.
        to: Timestamp,
    },
    /// Whether the kernel regards the clock as synchronized changed.
    Sync(ClockSync),
}

/// What this process has observed of its clock. Cheap to clone; all clones share it.
#[derive(Clone, Debug)]
pub struct ClockState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    observed: Mutex<Observed>,
    /// The latest time that a believed clock has had, in microseconds; see [`ClockState::latest`].
    latest: AtomicU64,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Observed {
    last: (Timestamp, BootTime),
    set_at: Option<BootTime>,
    /// How often the clock was set back by a large step.
    set_back: u64,
    sync: ClockSync,
    /// Whether an administrator said that the clock is right, since it was last set.
    accepted: bool,
    /// Changes that [`ClockState::take_changes`] has not returned, at most [`MAX_PENDING`].
    pending: Vec<ClockChange>,
}

/// Further changes are counted with the last one.
const MAX_PENDING: usize = 16;

impl ClockState {
    /// The state of a clock that has been observed once: now.
    pub fn new(clock: Clock) -> ClockState {
        let observed = Observed {
            last: (clock.now(), clock.boot_time()),
            set_at: None,
            set_back: 0,
            sync: clock.sync(),
            accepted: false,
            pending: Vec::new(),
        };
        ClockState(Arc::new(Shared {
            clock,
            observed: Mutex::new(observed),
            latest: AtomicU64::new(0),
            changes: watch::Sender::new(0),
        }))
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The latest time that the clock has had while it could be believed ([`ClockState::is_settled`]), as of
    /// the last observation, at most a second ago. A clock that is behind it was set back.
    pub fn latest(&self) -> Timestamp {
        Timestamp(self.0.latest.load(Ordering::Relaxed))
    }

    /// Takes over what an earlier process knew as [`ClockState::latest`].
    pub fn raise_latest(&self, known: Timestamp) {
        self.0.latest.fetch_max(known.0, Ordering::Relaxed);
    }

    /// What a decision about times of day depends on.
    pub fn at_decision(&self) -> TimeAtDecision {
        TimeAtDecision { now: self.now(), latest: self.latest() }
    }

    /// How often the clock was set back by more than an hour: what was signed before may be of the future.
    pub fn set_back_count(&self) -> u64 {
        self.observe().set_back
    }

    /// Whether the present time is known to be right, so that what contradicts it is wrong.
    pub fn is_trusted(&self) -> bool {
        let observed = self.observe();
        observed.accepted || observed.sync == ClockSync::Synchronized
    }

    /// Whether the clock may be believed that a time has passed: it is trusted, or was not set for 2 hours.
    /// The time of a start counts as believed.
    pub fn is_settled(&self) -> bool {
        self.observe().is_settled()
    }

    /// Whether an administrator said that the clock is right, since it was last set.
    pub fn is_accepted(&self) -> bool {
        self.observe().accepted
    }

    /// An administrator says that the present time is right. It counts until the clock is set, or the daemon
    /// ends.
    pub fn accept(&self) {
        let mut observed = self.observe();
        observed.accepted = true;
        // Also where it is earlier: it was a clock that was ahead.
        self.0.latest.store(observed.last.0.0, Ordering::Relaxed);
        drop(observed);
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// The changes since the last call, the oldest first.
    pub fn take_changes(&self) -> Vec<ClockChange> {
        std::mem::take(&mut self.observe().pending)
    }

    /// A counter of changes, and of [`ClockState::accept`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Compares the clock with the time that has passed since the last observation.
    fn observe(&self) -> MutexGuard<'_, Observed> {
        let mut observed = self.0.observed.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that no other thread's later times are compared with these.
        let (now, boot, sync) = (self.0.clock.now(), self.0.clock.boot_time(), self.0.clock.sync());
        let (last_now, last_boot) = std::mem::replace(&mut observed.last, (now, boot));
        let expected = last_now.after(boot.since(last_boot));
        let mut changes = Vec::new();
        if now.since(expected).max(expected.since(now)) > TOLERANCE {
            (observed.set_at, observed.accepted) = (Some(boot), false);
            observed.set_back += u64::from(expected.since(now) > LARGE_STEP);
            changes.push(ClockChange::Set { from: expected, to: now });
        }
        if observed.sync != sync {
            observed.sync = sync;
            changes.push(ClockChange::Sync(sync));
        }
        if observed.is_settled() {
            self.0.latest.fetch_max(now.0, Ordering::Relaxed);
        }
        if !changes.is_empty() {
            observed.pending.extend(changes);
            observed.pending.truncate(MAX_PENDING);
            self.0.changes.send_modify(|count| *count += 1);
        }
        observed
    }
}

impl Observed {
    fn is_settled(&self) -> bool {
        let is_recent = |at: BootTime| self.last.1.since(at) < SETTLING_TIME;
        self.accepted || self.sync == ClockSync::Synchronized || !self.set_at.is_some_and(is_recent)
    }
}

impl fmt::Display for ClockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whole seconds: the rest is noise.
        let seconds =
            |duration: Duration| humantime::format_duration(Duration::from_secs(duration.as_secs()));
        match self {
            ClockChange::Set { from, to } if to > from => {
                write!(f, "the clock was set forward by {}, from {from} to {to}", seconds(to.since(*from)))
            }
            ClockChange::Set { from, to } => {
                write!(f, "the clock was set back by {}, from {from} to {to}", seconds(from.since(*to)))
            }
            ClockChange::Sync(ClockSync::Synchronized) => f.write_str("the clock is synchronized now"),
            ClockChange::Sync(ClockSync::Unsynchronized) => {
                f.write_str("the clock is no longer synchronized; see the host's time service")
            }
            ClockChange::Sync(ClockSync::Unknown) => {
                f.write_str("the kernel no longer says whether the clock is synchronized")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn unsynchronized_clock_that_was_set_is_not_settled_for_two_hours() {
        let clock = Clock::manual(NOW);
        clock.set_sync(ClockSync::Unsynchronized);
        let state = ClockState::new(clock.clone());
        assert_eq!((state.is_trusted(), state.is_settled()), (false, true));
        // Time that passes, also while the host sleeps, is no change.
        clock.advance(DAY * 2);
        assert_eq!((state.take_changes(), state.is_settled()), (Vec::new(), true));
        let before = clock.now();
        clock.set(before.after(DAY));
        assert!(!state.is_settled());
        assert_eq!(state.take_changes(), [ClockChange::Set { from: before, to: before.after(DAY) }]);
        assert_eq!(state.set_back_count(), 0);
        clock.advance(HOUR);
        assert!(!state.is_settled());
        clock.advance(HOUR);
        assert_eq!((state.is_trusted(), state.is_settled()), (false, true));
        clock.set_sync(ClockSync::Synchronized);
        assert!(state.is_trusted());
        assert_eq!(state.take_changes(), [ClockChange::Sync(ClockSync::Synchronized)]);
    }

    #[test]
    fn acceptance_counts_until_the_clock_is_set() {
        let clock = Clock::manual(NOW);
        clock.set_sync(ClockSync::Unknown);
        let state = ClockState::new(clock.clone());
        let mut changes = state.subscribe();
        clock.set(NOW.before(DAY));
        assert_eq!((state.is_trusted(), state.set_back_count()), (false, 1));
        changes.borrow_and_update();
        state.accept();
        assert_eq!(
            (state.is_trusted(), state.is_settled(), changes.has_changed().unwrap()),
            (true, true, true)
        );
        clock.advance(DAY);
        assert!(state.is_trusted());
        clock.set(NOW.after(DAY));
        assert_eq!((state.is_trusted(), state.is_accepted()), (false, false));
    }

    #[test]
    fn the_latest_time_stays_when_the_clock_is_set_back() {
        let clock = Clock::manual(NOW);
        let state = ClockState::new(clock.clone());
        state.take_changes();
        assert_eq!(state.latest(), NOW);
        clock.set(NOW.before(DAY * 365));
        assert!(!state.take_changes().is_empty());
        let time = state.at_decision();
        assert_eq!((time.now, time.not_before(), time.is_behind()), (NOW.before(DAY * 365), NOW, true));
        // A correction by a time service.
        clock.set(NOW.before(Duration::from_secs(90)));
        state.take_changes();
        assert!(!state.at_decision().is_behind());
        clock.set(NOW.before(DAY));
        state.accept();
        assert_eq!(state.latest(), NOW.before(DAY), "an administrator says that it had been ahead");
    }

    #[test]
    fn a_clock_that_is_ahead_for_a_moment_does_not_raise_the_latest_time() {
        let clock = Clock::manual(NOW);
        clock.set_sync(ClockSync::Unsynchronized);
        let state = ClockState::new(clock.clone());
        clock.set(NOW.after(DAY * 365));
        state.take_changes();
        assert!(state.latest() <= NOW);
        clock.advance(SETTLING_TIME);
        state.take_changes();
        assert_eq!(state.latest(), clock.now(), "for two hours nobody corrected it");
        // What an earlier process knew.
        let restarted = ClockState::new(Clock::manual(NOW));
        restarted.raise_latest(state.latest());
        assert!(restarted.at_decision().is_behind());
    }

    #[test]
    fn changes_say_what_happened() {
        let set = ClockChange::Set { from: NOW.after(DAY), to: NOW };
        let text = set.to_string();
        assert!(text.starts_with("the clock was set back by 1day, from 2027-01-16T08:00:00"), "{text}");
        let text = ClockChange::Set { from: NOW, to: NOW.after(HOUR) }.to_string();
        assert!(text.starts_with("the clock was set forward by 1h, from 2027-01-15T08:00:00"), "{text}");
    }

    #[test]
    fn pending_changes_are_bounded() {
        let clock = Clock::manual(NOW);
        let state = ClockState::new(clock.clone());
        for n in 1..100 {
            clock.set(NOW.after(DAY * n));
            assert!(state.is_trusted());
        }
        assert_eq!(state.take_changes().len(), MAX_PENDING);
    }
}

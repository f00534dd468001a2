//! When a published key may sign, and whether the active key needs a successor, however the clock is set meanwhile.

use std::time::Duration;

use crate::clock::{BootTime, ClockState};

/// What the schedule of a kind of keys does not have: the time that has passed in this process, and how often the
/// clock was set back.
#[derive(Debug)]
pub(super) struct SuccessorTimer {
    clock: ClockState,
    /// When this process published the next key.
    published_at: Option<BootTime>,
    /// How often the clock had been set back when the active key was last found to need no successor.
    set_back_count: u64,
}

impl SuccessorTimer {
    /// The timer of keys that were loaded, or made, now.
    pub(super) fn new(clock: ClockState) -> SuccessorTimer {
        SuccessorTimer { published_at: None, set_back_count: clock.set_back_count(), clock }
    }

    /// A successor has been published, or is published again: from now on, relying parties have the configured time
    /// to fetch it.
    pub(super) fn start(&mut self) {
        self.published_at = Some(self.clock.clock().boot_time());
    }

    /// The active key has a successor, or is itself a new one.
    pub(super) fn settle(&mut self) {
        self.set_back_count = self.clock.set_back_count();
    }

    /// Whether the clock was set back since the active key was found to need no successor: tokens that it signed before
    /// may be of the future, and are refused once it is gone.
    pub(super) fn was_set_back(&self) -> bool {
        self.clock.set_back_count() > self.set_back_count
    }

    /// How much of `publish_before` has not passed yet since this process published the next key; `None` once it has,
    /// or if another process published it.
    pub(super) fn time_to_activation(&self, publish_before: Duration) -> Option<Duration> {
        let elapsed = self.clock.clock().boot_time().since(self.published_at?);
        (elapsed < publish_before).then(|| publish_before - elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn relying_parties_have_their_time_however_the_clock_is_set() {
        let clock = Clock::manual(NOW);
        let mut timer = SuccessorTimer::new(ClockState::new(clock.clone()));
        assert_eq!(timer.time_to_activation(HOUR), None, "no key was published");
        timer.start();
        clock.set(NOW.after(HOUR * 24));
        assert_eq!(timer.time_to_activation(HOUR), Some(HOUR));
        clock.advance(HOUR - Duration::from_secs(1));
        assert_eq!(timer.time_to_activation(HOUR), Some(Duration::from_secs(1)));
        timer.start();
        assert_eq!(timer.time_to_activation(HOUR), Some(HOUR), "it was published again");
        clock.advance(HOUR);
        assert_eq!(timer.time_to_activation(HOUR), None);
    }
}

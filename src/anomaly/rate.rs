//! The rules `refresh` and `refusals`: far more in a period than the agent's own periods explain.
//!
//! A period begins with the first event after the period before has ended; periods without an event do not count. Of
//! the counts of periods, the mean *m*, the mean absolute deviation *d* and the highest one *p* are kept, with the
//! weight of the latest period 1/n for the first 64 periods and 1/64 from then on; *p* decreases by 1/512 in each
//! period. A count is far too high if it exceeds `max(3 m, m + 8 d, 1.5 p, m + least)`. A count that does is learnt
//! as this threshold, so that a flood does not become the usual at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::BootTime;

/// Periods after which the weight of a period stays as it is.
const MEMORY: u32 = 64;
/// How much of the highest count stays in each period.
const PEAK_DECAY: f64 = 511.0 / 512.0;

/// A rule on counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateRule {
    /// The length of a period.
    pub period: Duration,
    /// A count that exceeds the mean by at most this is never far too high.
    pub least: u32,
}

/// What is issued in an hour.
pub(super) const REFRESH: RateRule = RateRule { period: Duration::from_secs(3600), least: 20 };
/// What is refused in five minutes.
pub(super) const REFUSALS: RateRule = RateRule { period: Duration::from_secs(300), least: 20 };

/// The counts of one agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Rate {
    mean: f64,
    deviation: f64,
    peak: f64,
    periods: u32,
    /// The present period and its count, which do not outlive the process.
    #[serde(skip)]
    present: Option<(BootTime, u64)>,
}

/// A count that is far too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    /// The count.
    pub count: u64,
    /// What it exceeds.
    pub threshold: u64,
}

impl Rate {
    /// Counts events, of which there are too many where this returns something.
    pub fn observe(
        &mut self,
        events: u64,
        boot: BootTime,
        rule: RateRule,
        is_learnt: bool,
    ) -> Option<Excess> {
        let threshold = self.threshold(rule);
        let (start, earlier) = match self.present {
            Some((start, count)) if boot.since(start) < rule.period => (start, count),
            Some((_, count)) => {
                self.learn(if is_learnt { count.min(threshold) } else { count });
                (boot, 0)
            }
            None => (boot, 0),
        };
        let count = earlier.saturating_add(events);
        self.present = Some((start, count));
        let threshold = self.threshold(rule);
        (is_learnt && count > threshold).then_some(Excess { count, threshold })
    }

    /// The highest count that is not far too high.
    pub fn threshold(&self, rule: RateRule) -> u64 {
        let (mean, deviation) = (self.mean, self.deviation);
        let highest = [3.0 * mean, mean + 8.0 * deviation, 1.5 * self.peak, mean + f64::from(rule.least)];
        highest.into_iter().fold(0.0, f64::max).ceil() as u64
    }

    /// The mean of a period's counts.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Whether all numbers are usable, of a file.
    pub fn is_valid(&self) -> bool {
        [self.mean, self.deviation, self.peak].iter().all(|number| number.is_finite() && *number >= 0.0)
    }

    fn learn(&mut self, count: u64) {
        let count = count as f64;
        self.periods = self.periods.saturating_add(1);
        let weight = 1.0 / f64::from(self.periods.min(MEMORY));
        if self.periods == 1 {
            self.mean = count;
        }
        self.deviation += weight * ((count - self.mean).abs() - self.deviation);
        self.mean += weight * (count - self.mean);
        self.peak = (self.peak * PEAK_DECAY).max(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};

    fn hours(counts: impl IntoIterator<Item = u64>) -> (Rate, Clock) {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let mut rate = Rate::default();
        for count in counts {
            assert_eq!(rate.observe(count, clock.boot_time(), REFRESH, false), None);
            clock.advance(REFRESH.period);
        }
        (rate, clock)
    }

    #[test]
    fn a_count_far_above_the_own_ones_is_found_and_not_learnt() {
        let (mut rate, clock) = hours([8, 12, 10, 9, 11].into_iter().cycle().take(50));
        assert_eq!(rate.observe(20, clock.boot_time(), REFRESH, true), None);
        let threshold = rate.threshold(REFRESH);
        assert!((30..=31).contains(&threshold), "{threshold}");
        assert_eq!(rate.observe(threshold - 20, clock.boot_time(), REFRESH, true), None);
        let excess = rate.observe(1, clock.boot_time(), REFRESH, true);
        assert_eq!(excess, Some(Excess { count: threshold + 1, threshold }));
        rate.observe(100_000, clock.boot_time(), REFRESH, true);
        clock.advance(REFRESH.period);
        assert_eq!(rate.observe(1, clock.boot_time(), REFRESH, true), None);
        assert!(rate.threshold(REFRESH) <= 47, "{}", rate.threshold(REFRESH));
    }

    #[test]
    fn a_daily_batch_is_no_anomaly() {
        let day = (0..24).map(|hour| if hour == 3 { 400 } else { 2 });
        let (mut rate, clock) = hours(day.cycle().take(24 * 7));
        for _ in 0..30 {
            for count in (0..24).map(|hour| if hour == 3 { 440 } else { 2 }) {
                assert_eq!(rate.observe(count, clock.boot_time(), REFRESH, true), None);
                clock.advance(REFRESH.period);
            }
        }
    }
}

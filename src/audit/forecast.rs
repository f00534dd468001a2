//! When the log's disk will be full, from how its free space has changed within the last hour.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Free space is remembered at this interval, for an hour.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);
const MAX_SAMPLES: usize = 60;
/// A forecast needs samples of at least this time, so that a program that writes for some minutes makes none.
const MIN_SPAN: Duration = Duration::from_secs(3000);
/// What lasts longer is not reported.
const HORIZON: Duration = Duration::from_secs(24 * 3600);

/// Samples of the free space.
#[derive(Debug, Default)]
pub(super) struct SpaceForecast {
    /// Times and bytes, oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl SpaceForecast {
    /// Returns how long `available` bytes last at the rate of the samples; `None` where that is more than a
    /// day, or not known yet.
    pub(super) fn note(&mut self, now: Instant, available: u64) -> Option<Duration> {
        let is_due = self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_INTERVAL);
        if is_due {
            if self.samples.len() >= MAX_SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back((now, available));
        }
        let (began_at, at_begin) = *self.samples.front()?;
        let span = now.duration_since(began_at);
        let used = at_begin.saturating_sub(available);
        if span < MIN_SPAN || used == 0 {
            return None;
        }
        let left = span.as_secs_f64() * (available as f64 / used as f64);
        (left < HORIZON.as_secs_f64()).then(|| Duration::from_secs_f64(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn reports_a_disk_that_will_be_full_within_a_day() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let mut forecast = SpaceForecast::default();
        // 25 GiB are free, and a GiB is used in an hour.
        for minute in 0..60 {
            assert_eq!(forecast.note(at(minute), 25 * GIB - GIB * minute / 60), None, "{minute}");
        }
        let left = forecast.note(at(61), 25 * GIB - GIB * 61 / 60);
        assert!(left.is_some_and(|left| left > Duration::from_secs(23 * 3600)), "{left:?}");
        // Files were moved elsewhere.
        assert_eq!(forecast.note(at(62), 100 * GIB), None);
        // An hour later nothing is used any more.
        for minute in 63..130 {
            forecast.note(at(minute), 100 * GIB);
        }
        assert_eq!(forecast.note(at(131), 100 * GIB), None);
        assert!(forecast.samples.len() <= MAX_SAMPLES);
    }

    #[test]
    fn a_short_time_makes_no_forecast() {
        let (start, mut forecast) = (Instant::now(), SpaceForecast::default());
        assert_eq!(forecast.note(start, GIB), None);
        assert_eq!(forecast.note(start + Duration::from_secs(2999), GIB / 2), None);
        let left = forecast.note(start + Duration::from_secs(3000), GIB / 2).unwrap();
        assert_eq!(left, Duration::from_secs(3000));
    }
}

//! How long something took, in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets. A token takes less than 100 us, a software TPM milliseconds, a chip up to seconds.
const BOUNDS: [Duration; 15] = [
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(10),
];

/// Durations since the start of the process. Any thread adds to them without waiting.
#[derive(Debug, Default)]
pub struct Histogram {
    /// How many were at most as long as the bound of the same index, and longer than the one before.
    buckets: [AtomicU64; BOUNDS.len()],
    /// How many were longer than the last bound.
    longer: AtomicU64,
    /// The sum in nanoseconds, which overflows after 584 years.
    sum: AtomicU64,
}

/// The durations of a [`Histogram`] at one moment. Additions of the same moment may be in one member and not in
/// another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bound in seconds and number of each bucket; the bound of the last one is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Sum in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Adds a duration.
    pub fn observe(&self, elapsed: Duration) {
        let index = BOUNDS.partition_point(|bound| *bound < elapsed);
        self.buckets.get(index).unwrap_or(&self.longer).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Returns the durations so far.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts = self.buckets.iter().chain([&self.longer]).map(|count| count.load(Ordering::Relaxed));
        let bounds = BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let sum = Duration::from_nanos(self.sum.load(Ordering::Relaxed)).as_secs_f64();
        HistogramSnapshot { buckets: bounds.zip(counts).collect(), sum }
    }
}

impl HistogramSnapshot {
    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_the_bucket_of_the_next_bound() {
        let histogram = Histogram::default();
        for micros in [0, 25, 26, 9_999_999, 10_000_000, 10_000_001, 3_600_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let snapshot = histogram.snapshot();
        let of = |bound: f64| snapshot.buckets.iter().find(|bucket| bucket.0 == bound).unwrap().1;
        assert_eq!((of(0.000025), of(0.00005), of(10.0), of(f64::INFINITY)), (2, 1, 2, 2));
        assert_eq!(snapshot.count(), 7);
        assert!((snapshot.sum - 3630.000051).abs() < 1e-6, "{}", snapshot.sum);
    }

    #[test]
    fn bounds_ascend() {
        assert!(BOUNDS.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn threads_lose_no_durations() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|n| histogram.observe(Duration::from_micros(n))));
            }
        });
        assert_eq!(histogram.snapshot().count(), 40_000);
    }
}

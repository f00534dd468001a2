//! Durations of a histogram between two moments.

use std::time::Duration;

/// The number up to each bound between two moments. The earlier one is empty before there was one, and after a
/// restart of the daemon its numbers are higher.
pub(super) fn difference(now: Vec<(f64, f64)>, before: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let has_restarted = before.iter().zip(&now).any(|((_, before), (_, now))| now < before);
    if before.len() != now.len() || has_restarted {
        return now;
    }
    now.into_iter().zip(before).map(|((bound, now), (_, before))| (bound, now - before)).collect()
}

/// The bound below which this part of the durations was; `None` if there were none. The longest bucket has no bound,
/// so the bound before it is returned.
pub(super) fn quantile(buckets: &[(f64, f64)], part: f64) -> Option<Duration> {
    let (_, total) = *buckets.last()?;
    if total <= 0.0 {
        return None;
    }
    let found = buckets.iter().position(|(_, count)| *count >= total * part)?;
    let bound = buckets[..=found].iter().rev().map(|(bound, _)| *bound).find(|bound| bound.is_finite())?;
    Duration::try_from_secs_f64(bound).ok()
}

/// A duration in few characters.
pub(super) fn format_duration(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1000 => format!("{micros}us"),
        micros @ 1000..1_000_000 => format!("{}ms", trimmed(micros as f64 / 1e3)),
        micros => format!("{}s", trimmed(micros as f64 / 1e6)),
    }
}

/// With one decimal unless that is 0.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let buckets = [(0.001, 50.0), (0.01, 98.0), (1.0, 99.0), (INF, 100.0)];
        let of = |part| quantile(&buckets, part).map(format_duration);
        assert_eq!([of(0.5), of(0.51), of(0.99), of(1.0)].map(Option::unwrap), ["1ms", "10ms", "1s", "1s"]);
        assert_eq!(quantile(&[(0.1, 0.0), (INF, 0.0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_restart_begins_from_nothing() {
        let before = [(0.1, 5.0), (INF, 9.0)];
        assert_eq!(difference(vec![(0.1, 6.0), (INF, 12.0)], &before), [(0.1, 1.0), (INF, 3.0)]);
        assert_eq!(difference(vec![(0.1, 1.0), (INF, 1.0)], &before), [(0.1, 1.0), (INF, 1.0)]);
        assert_eq!(difference(vec![(0.1, 1.0), (INF, 1.0)], &[]), [(0.1, 1.0), (INF, 1.0)]);
    }

    #[test]
    fn durations_are_short() {
        for (micros, text) in
            [(25, "25us"), (2_500, "2.5ms"), (250_000, "250ms"), (2_500_000, "2.5s"), (10_000_000, "10s")]
        {
            assert_eq!(format_duration(Duration::from_micros(micros)), text);
        }
    }
}

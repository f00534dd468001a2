//! When a document is renewed, and when a failed request is repeated.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use crate::clock::{Timestamp, jitter};

/// Delay before the first repetition of a failed request.
const INITIAL_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Longest delay before a repetition.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// Shortest delay before a renewal, also if the document has expired.
const MIN_RENEWAL_DELAY: Duration = Duration::from_millis(500);

/// Exponential backoff: 1 s, 2 s, 4 s … 30 s, each up to 10 % less.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff(INITIAL_RETRY_DELAY)
    }

    /// The delay before the next repetition.
    pub(super) fn next_delay(&mut self) -> Duration {
        let delay = with_jitter(self.0);
        self.0 = (self.0 * 2).min(MAX_RETRY_DELAY);
        delay
    }
}

/// Half of the remaining lifetime, up to 10 % less.
pub(super) fn renewal_delay(expires_at: Timestamp, now: Timestamp) -> Duration {
    with_jitter(expires_at.since(now) / 2).max(MIN_RENEWAL_DELAY)
}

/// Up to 10 % less, at random, so that many processes do not send requests at the same time.
fn with_jitter(delay: Duration) -> Duration {
    let mut seed = [0; 4];
    // Without random numbers there is no jitter.
    let _ = SystemRandom::new().fill(&mut seed);
    delay - jitter(delay / 10, u32::from_be_bytes(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let mut backoff = Backoff::new();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let (delay, full) = (backoff.next_delay(), Duration::from_secs(seconds));
            assert!(delay <= full && delay >= full.mul_f64(0.9), "{delay:?} for {full:?}");
        }
    }

    #[test]
    fn renewal_is_at_half_of_the_remaining_lifetime() {
        let now = Timestamp::from_secs(1_000_000);
        let delay = renewal_delay(Timestamp::from_secs(1_003_600), now);
        assert!(delay <= Duration::from_secs(1800) && delay >= Duration::from_secs(1620), "{delay:?}");
        assert_eq!(renewal_delay(now, now), MIN_RENEWAL_DELAY);
    }
}

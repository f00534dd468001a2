//! When a key does what: the times of rotation, and nothing but the times.

use std::time::Duration;

use ring::digest::{SHA256, digest};

use crate::agents::MAX_TOKEN_TTL;
use crate::clock::Timestamp;
use crate::verify::LEEWAY;

/// A retired key verifies for this long: until its last token has expired, by the clock of whoever looks at it.
pub const RETENTION: Duration = Duration::from_secs(MAX_TOKEN_TTL.as_secs() + LEEWAY);

/// A key is replaced up to this part of `every` before its time.
const JITTER_DIVISOR: u32 = 10;

/// How often issuing keys rotate, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// The longest that a key signs while all is well.
    pub interval: Duration,
    /// How long a key is in the key set before it signs.
    pub publish_before: Duration,
}

impl RotationPolicy {
    /// How long key `kid` signs. Hosts that were set up together are not to rotate together, so each key's time is
    /// shorter by a part that its name gives: the same at each start.
    pub fn key_lifetime(&self, kid: &str) -> Duration {
        let hash = digest(&SHA256, kid.as_bytes());
        let fraction = hash.as_ref().iter().take(4).fold(0, |part, byte| part << 8 | u32::from(*byte));
        let max_jitter = self.interval / JITTER_DIVISOR;
        self.interval - max_jitter.mul_f64(f64::from(fraction) / f64::from(u32::MAX))
    }

    /// When the successor of key `kid`, which signs since `activated`, is published.
    pub fn publish_successor_at(&self, kid: &str, activated: Timestamp) -> Timestamp {
        activated.after(self.key_lifetime(kid).saturating_sub(self.publish_before))
    }

    /// When a key that is in the key set since `published` begins to sign.
    pub fn activate_at(&self, published: Timestamp) -> Timestamp {
        published.after(self.publish_before)
    }

    /// When a key that signs no more since `retired` is destroyed.
    pub fn destroy_at(retired: Timestamp) -> Timestamp {
        retired.after(RETENTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_deterministic_and_at_most_a_tenth() {
        let policy =
            RotationPolicy { interval: Duration::from_secs(1000), publish_before: Duration::from_secs(10) };
        let lifetimes: Vec<Duration> = (0..1000).map(|n| policy.key_lifetime(&format!("key {n}"))).collect();
        let (least, most) = (lifetimes.iter().min().unwrap(), lifetimes.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(900) && *least < Duration::from_secs(905), "{least:?}");
        assert!(*most <= Duration::from_secs(1000) && *most > Duration::from_secs(995), "{most:?}");
        assert_eq!(lifetimes[7], policy.key_lifetime("key 7"));
    }

    /// A key may live shorter than its successor has to be published: then that is done at once.
    #[test]
    fn successor_is_not_published_before_predecessor_is_active() {
        let policy =
            RotationPolicy { interval: Duration::from_secs(3600), publish_before: Duration::from_secs(3599) };
        for n in 0..100 {
            let at = Timestamp::from_secs(10);
            assert!(policy.publish_successor_at(&n.to_string(), at) >= at);
        }
    }
}

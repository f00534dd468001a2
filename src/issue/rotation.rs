//! When a key does what: the times of rotation, and nothing but the times.

use std::time::Duration;

use ring::digest::{SHA256, digest};

use crate::agents::LONGEST_TTL;
use crate::clock::Timestamp;
use crate::verify::LEEWAY;

/// A retired key verifies for this long: until its last token has expired, by the clock of whoever looks at it.
pub const KEPT: Duration = Duration::from_secs(LONGEST_TTL.as_secs() + LEEWAY);

/// A key is replaced up to this part of `every` before its time.
const JITTER: u32 = 10;

/// How often issuing keys rotate, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The longest that a key signs while all is well.
    pub every: Duration,
    /// How long a key is in the key set before it signs.
    pub publish_before: Duration,
}

impl Rotation {
    /// How long key `kid` signs. Hosts that were set up together are not to rotate together, so each key's time is
    /// shorter by a part that its name gives: the same at each start.
    pub fn lifetime(&self, kid: &str) -> Duration {
        let hash = digest(&SHA256, kid.as_bytes());
        let part = hash.as_ref().iter().take(4).fold(0, |part, byte| part << 8 | u32::from(*byte));
        let most = self.every / JITTER;
        self.every - most.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }

    /// When the successor of key `kid`, which signs since `activated`, is published.
    pub fn publish_successor(&self, kid: &str, activated: Timestamp) -> Timestamp {
        activated.after(self.lifetime(kid).saturating_sub(self.publish_before))
    }

    /// When a key that is in the key set since `published` begins to sign.
    pub fn activate(&self, published: Timestamp) -> Timestamp {
        published.after(self.publish_before)
    }

    /// When a key that signs no more since `retired` is destroyed.
    pub fn destroy(retired: Timestamp) -> Timestamp {
        retired.after(KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_up_to_a_tenth_and_the_same_each_time() {
        let rotation = Rotation { every: Duration::from_secs(1000), publish_before: Duration::from_secs(10) };
        let lifetimes: Vec<Duration> = (0..1000).map(|n| rotation.lifetime(&format!("key {n}"))).collect();
        let (least, most) = (lifetimes.iter().min().unwrap(), lifetimes.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(900) && *least < Duration::from_secs(905), "{least:?}");
        assert!(*most <= Duration::from_secs(1000) && *most > Duration::from_secs(995), "{most:?}");
        assert_eq!(lifetimes[7], rotation.lifetime("key 7"));
    }

    /// A key may live shorter than its successor has to be published: then that is done at once.
    #[test]
    fn a_successor_is_never_published_before_its_predecessor_signs() {
        let rotation =
            Rotation { every: Duration::from_secs(3600), publish_before: Duration::from_secs(3599) };
        for n in 0..100 {
            let at = Timestamp::from_secs(10);
            assert!(rotation.publish_successor(&n.to_string(), at) >= at);
        }
    }
}

//! The times of key rotation: when a key is published, activated, retired and destroyed.

use std::time::Duration;

use crate::agents::MAX_TOKEN_TTL;
use crate::clock::{Timestamp, jitter};
use crate::digest::sha256;
use crate::risk::RiskClass;
use crate::verify::LEEWAY;

/// How long a retired key still verifies: the longest lifetime of a token, and the leeway of a verifier's
/// clock.
pub(super) const RETENTION: Duration = Duration::from_secs(MAX_TOKEN_TTL.as_secs() + LEEWAY);

/// A key is replaced up to a tenth of the interval early.
const JITTER_DIVISOR: u32 = 10;

/// How often keys rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// The longest time that an issuing key is active, unless the TPM or the disk prevents its rotation.
    pub interval: Duration,
    /// How long an issuing key is in the key set before it is active.
    pub publish_before: Duration,
    /// The risk class of issuing keys.
    pub risk: RiskClass,
    /// The longest time that a key-encryption key is in use.
    pub key_encryption: Duration,
    /// The longest time that an RSA key is active.
    pub rsa: Duration,
}

impl RotationPolicy {
    /// With the defaults of a risk class of issuing keys, of the key-encryption key and of RSA keys.
    pub const fn new(interval: Duration, publish_before: Duration) -> RotationPolicy {
        let (key_encryption, rsa) = (RiskClass::Low.max_interval(), RiskClass::Low.max_interval());
        RotationPolicy { interval, publish_before, risk: RiskClass::Moderate, key_encryption, rsa }
    }

    /// The times of RSA keys, which never leave the TPM: they are published as early as issuing keys.
    pub(super) fn for_rsa(&self) -> RotationPolicy {
        RotationPolicy { interval: self.rsa, risk: RiskClass::Low, ..*self }
    }

    /// How long key `kid` is active: the interval less a jitter of up to a tenth, so that hosts that were set
    /// up at one time do not rotate at one time. The jitter is derived from the `kid`, so it is the same at
    /// each start.
    pub(super) fn key_lifetime(&self, kid: &str) -> Duration {
        let [a, b, c, d, ..] = sha256(kid.as_bytes());
        self.interval - jitter(self.interval / JITTER_DIVISOR, u32::from_be_bytes([a, b, c, d]))
    }

    /// When the successor of key `kid`, active since `activated`, is published.
    pub(super) fn publish_successor_at(&self, kid: &str, activated: Timestamp) -> Timestamp {
        activated.after(self.key_lifetime(kid).saturating_sub(self.publish_before))
    }

    /// When a key that was published at `published` becomes active.
    pub(super) fn activate_at(&self, published: Timestamp) -> Timestamp {
        published.after(self.publish_before)
    }

    /// When a key that was retired at `retired` is destroyed.
    pub(super) fn destroy_at(retired: Timestamp) -> Timestamp {
        retired.after(RETENTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_deterministic_and_at_most_a_tenth() {
        let policy = RotationPolicy::new(Duration::from_secs(1000), Duration::from_secs(10));
        let lifetimes: Vec<Duration> = (0..1000).map(|n| policy.key_lifetime(&format!("key {n}"))).collect();
        let (least, most) = (lifetimes.iter().min().unwrap(), lifetimes.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(900) && *least < Duration::from_secs(905), "{least:?}");
        assert!(*most <= Duration::from_secs(1000) && *most > Duration::from_secs(995), "{most:?}");
        assert_eq!(lifetimes[7], policy.key_lifetime("key 7"));
    }

    /// If a key is active for less time than `publish_before`, its successor is published at once.
    #[test]
    fn successor_is_not_published_before_predecessor_is_active() {
        let policy = RotationPolicy::new(Duration::from_secs(3600), Duration::from_secs(3599));
        for n in 0..100 {
            let at = Timestamp::from_secs(10);
            assert!(policy.publish_successor_at(&n.to_string(), at) >= at);
        }
    }
}

//! The times of a token: `iat`, `nbf` and `exp`, by one rule for every kind of token.

use std::time::Duration;

use crate::agents::MAX_TOKEN_TTL;
use crate::clock::{BACKDATE, Timestamp};

/// When a token is valid.
///
/// `exp` is at most [`MAX_TOKEN_TTL`] after `iat`, because relying parties have that limit. A token is
/// therefore valid for [`BACKDATE`] less than that, from its issue on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenPeriod {
    /// `iat` and `nbf`: [`BACKDATE`] before the token was made.
    pub not_before: u64,
    /// `exp`, in whole seconds.
    pub expires: Timestamp,
    /// From the token's issue to `exp`.
    pub lifetime: Duration,
}

impl TokenPeriod {
    /// The times of a token that is made at `now` and may be used for `ttl`.
    pub(super) fn new(now: Timestamp, ttl: Duration) -> TokenPeriod {
        let lifetime = Duration::from_secs(ttl.min(MAX_TOKEN_TTL - BACKDATE).as_secs());
        TokenPeriod {
            not_before: now.backdated().as_secs(),
            expires: Timestamp::from_secs(now.as_secs()).after(lifetime),
            lifetime,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_backdated_and_spans_at_most_an_hour() {
        for (ttl, lifetime) in [(1, 1), (300, 300), (3590, 3590), (3591, 3590), (3600, 3590), (86_400, 3590)]
        {
            let period = TokenPeriod::new(Timestamp::from_secs(1_800_000_000), Duration::from_secs(ttl));
            assert_eq!(period.not_before, 1_799_999_990, "{ttl}");
            assert_eq!(period.lifetime.as_secs(), lifetime, "{ttl}");
            assert_eq!(period.expires.as_secs(), 1_800_000_000 + lifetime, "{ttl}");
            assert!(period.expires.as_secs() - period.not_before <= 3600, "{ttl}");
        }
    }
}

//! The rule `unused_tokens`: tokens that relying parties introspected before are not seen used any more.
//!
//! The host sees the use of a token only if a relying party introspects it here, so the rule applies to audiences
//! where that is usual; JWT-SVIDs are not introspected. Of each audience's tokens, it is kept whether they were
//! introspected as active before they expired: nothing is known of a token before it has expired. Sixteen tokens in a
//! row that were not are found if at least half of the tokens before them were, of 20 or more. Tokens that have not
//! expired are not kept across a restart of the daemon.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::BootTime;

/// Audiences of one agent whose tokens are introspected.
const MAX_AUDIENCES: usize = 32;
/// Tokens of one agent that are followed until they expire. Further ones are not followed, and say nothing.
const MAX_LIVE: usize = 128;
/// Tokens from which the share has to come.
const NEEDED: u32 = 20;
/// The least share of introspected tokens of an audience at which one introspects them usually.
const MIN_SHARE: f64 = 0.5;
/// Tokens after which the weight of a token stays as it is.
const MEMORY: u32 = 256;
/// Tokens in a row that were not used.
const IN_A_ROW: u32 = 16;

/// The tokens of one agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TokenUse {
    audiences: Vec<AudienceUse>,
    /// In the order of their expiry.
    #[serde(skip)]
    live: VecDeque<LiveToken>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct AudienceUse {
    audience: u64,
    /// The share of tokens that were used, without those of the row.
    share: f64,
    tokens: u32,
    unused_in_a_row: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct LiveToken {
    jti: u64,
    audience: u64,
    expires: BootTime,
    is_used: bool,
}

/// Tokens of an audience that are not used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Unused {
    /// How many in a row.
    pub in_a_row: u32,
    /// The share of those before them that were used.
    pub share: f64,
}

impl TokenUse {
    /// A token was issued. Returns what is known by now of tokens of this or another audience.
    pub fn issued(
        &mut self,
        audience: u64,
        jti: u64,
        lifetime: Duration,
        boot: BootTime,
        is_learnt: bool,
    ) -> Option<Unused> {
        let mut found = None;
        while let Some(token) = self.live.pop_front() {
            if token.expires > boot {
                self.live.push_front(token);
                break;
            }
            found = self.settle(&token, is_learnt).or(found);
        }
        if self.live.len() < MAX_LIVE && self.audiences.iter().any(|known| known.audience == audience) {
            let expires = boot.after(lifetime);
            let at = self.live.partition_point(|token| token.expires <= expires);
            self.live.insert(at, LiveToken { jti, audience, expires, is_used: false });
        }
        found
    }

    /// A relying party introspected a token, which is active. An audience is known from its first such token on.
    pub fn used(&mut self, audience: u64, jti: u64) {
        if let Some(token) = self.live.iter_mut().rev().find(|token| token.jti == jti) {
            token.is_used = true;
        } else if self.audiences.len() < MAX_AUDIENCES
            && !self.audiences.iter().any(|known| known.audience == audience)
        {
            self.audiences.push(AudienceUse { audience, share: 0.0, tokens: 0, unused_in_a_row: 0 });
        }
    }

    /// Whether relying parties introspect tokens of this agent.
    pub fn is_following(&self) -> bool {
        !self.audiences.is_empty()
    }

    /// Whether the numbers are usable, of a file.
    pub fn is_valid(&self) -> bool {
        self.audiences.len() <= MAX_AUDIENCES
            && self.audiences.iter().all(|audience| (0.0..=1.0).contains(&audience.share))
    }

    fn settle(&mut self, token: &LiveToken, is_learnt: bool) -> Option<Unused> {
        let audience = self.audiences.iter_mut().find(|known| known.audience == token.audience)?;
        if token.is_used {
            audience.learn_row();
            audience.learn(1.0);
            return None;
        }
        audience.unused_in_a_row = audience.unused_in_a_row.saturating_add(1);
        if audience.unused_in_a_row < IN_A_ROW {
            return None;
        }
        let found = Unused { in_a_row: audience.unused_in_a_row, share: audience.share };
        let is_found = is_learnt && audience.tokens >= NEEDED && audience.share >= MIN_SHARE;
        audience.learn_row();
        is_found.then_some(found)
    }
}

impl AudienceUse {
    fn learn_row(&mut self) {
        for _ in 0..std::mem::take(&mut self.unused_in_a_row).min(IN_A_ROW) {
            self.learn(0.0);
        }
    }

    fn learn(&mut self, value: f64) {
        self.tokens = self.tokens.saturating_add(1);
        self.share += (value - self.share) / f64::from(self.tokens.min(MEMORY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn tokens_that_are_not_introspected_any_more_are_found() {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let mut tokens = TokenUse::default();
        for jti in 0..60 {
            assert_eq!(tokens.issued(7, jti, MINUTE, clock.boot_time(), true), None);
            if jti % 3 != 1 {
                tokens.used(7, jti);
            }
            clock.advance(MINUTE);
        }
        let mut issue = |jti| {
            clock.advance(MINUTE);
            tokens.issued(7, jti, MINUTE, clock.boot_time(), true)
        };
        let found: Vec<_> = (60..80).filter_map(&mut issue).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].in_a_row == 16 && found[0].share > 0.6, "{found:?}");
    }

    #[test]
    fn a_token_that_has_not_expired_is_not_unused() {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let mut tokens = TokenUse::default();
        // Relying parties use each token half a minute after its issue, and an agent gets many at once.
        tokens.used(7, 0);
        for burst in 0..20 {
            let jtis = burst * 300..(burst + 1) * 300;
            for jti in jtis.clone() {
                // Also with longer ones among them, which expire later.
                let lifetime = if jti % 10 == 0 { MINUTE * 60 } else { MINUTE };
                assert_eq!(tokens.issued(7, jti, lifetime, clock.boot_time(), true), None, "{jti}");
            }
            clock.advance(MINUTE / 2);
            jtis.for_each(|jti| tokens.used(7, jti));
            clock.advance(MINUTE);
        }
        assert!(tokens.audiences[0].share > 0.99 && tokens.audiences[0].tokens > 100, "{tokens:?}");
        assert!(tokens.live.len() <= MAX_LIVE);
    }

    #[test]
    fn an_audience_that_never_introspects_is_not_judged_and_tokens_are_bounded() {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let mut tokens = TokenUse::default();
        for jti in 0..10_000 {
            assert_eq!(tokens.issued(7, jti, MINUTE, clock.boot_time(), true), None);
        }
        assert!(tokens.live.is_empty());
        for audience in 0..1000 {
            tokens.used(audience, audience);
        }
        for jti in 0..10_000 {
            tokens.issued(7, jti, MINUTE, clock.boot_time(), false);
        }
        assert!(tokens.is_valid() && tokens.live.len() <= MAX_LIVE);
    }
}

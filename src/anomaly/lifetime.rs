//! The rule `lifetime`: the longest lifetime each time, by an agent that asked for shorter ones.
//!
//! Of the agent's tokens, the share with the longest lifetime that their grant permits is kept; each token has the
//! weight 1/n, at least 1/256. Sixteen such tokens in a row are found if the share before them is at most one half
//! and comes from 20 tokens or more.

use serde::{Deserialize, Serialize};

/// Tokens after which the weight of a token stays as it is.
const MEMORY: u32 = 256;
/// Tokens from which the share has to come.
const NEEDED: u32 = 20;
/// The greatest share of an agent that does not always ask for the longest.
const MAX_SHARE: f64 = 0.5;
/// Tokens with the longest lifetime in a row.
const IN_A_ROW: u32 = 16;

/// The lifetimes of one agent's tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Lifetimes {
    share: f64,
    tokens: u32,
    /// Tokens with the longest lifetime since the last other one. They are not part of the share yet.
    in_a_row: u32,
}

impl Lifetimes {
    /// Takes note of a token. Returns the share of the longest lifetime before, if all have it now.
    pub fn observe(&mut self, is_longest: bool, is_learnt: bool) -> Option<f64> {
        if !is_longest {
            self.learn_row();
            self.learn(0.0);
            return None;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < IN_A_ROW {
            return None;
        }
        let share = self.share;
        let is_found = is_learnt && self.tokens >= NEEDED && share <= MAX_SHARE;
        self.learn_row();
        is_found.then_some(share)
    }

    /// The share of tokens with the longest lifetime; `None` before there are enough.
    pub fn share(&self) -> Option<f64> {
        (self.tokens >= NEEDED).then_some(self.share)
    }

    /// Whether the share is one, of a file.
    pub fn is_valid(&self) -> bool {
        (0.0..=1.0).contains(&self.share)
    }

    fn learn_row(&mut self) {
        for _ in 0..std::mem::take(&mut self.in_a_row).min(IN_A_ROW) {
            self.learn(1.0);
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

    #[test]
    fn the_longest_lifetime_in_a_row_is_found_where_it_was_shorter() {
        let mut frugal = Lifetimes::default();
        for n in 0..100 {
            assert_eq!(frugal.observe(n % 4 == 0, true), None);
        }
        let found: Vec<u32> = (1..=16).filter(|_| frugal.observe(true, true).is_some()).collect();
        assert_eq!(found, [16]);
        let mut always = Lifetimes::default();
        assert!((0..1000).all(|n| always.observe(true, n > 100).is_none()), "it was so before");
    }
}

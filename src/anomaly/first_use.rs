//! The rule `first_use`: an audience or a credential that the agent did not use within its learning time.
//!
//! Each audience and credential has one alert, and is known from then on. There are no routes yet.

use serde::{Deserialize, Serialize};

/// Audiences and credentials of one agent that are known. With more, the rule says nothing of this agent.
const MAX_KNOWN: usize = 256;

/// The audiences and credentials that one agent has used, by the digests of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct KnownNames(Vec<u64>);

impl KnownNames {
    /// Takes note of a use. Returns whether it is the first one.
    pub fn observe(&mut self, name: u64, is_learnt: bool) -> bool {
        if self.0.contains(&name) || self.0.len() >= MAX_KNOWN {
            return false;
        }
        self.0.push(name);
        is_learnt
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are not too many, of a file.
    pub fn is_valid(&self) -> bool {
        self.0.len() <= MAX_KNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_use_after_the_learning_time_is_found_once_and_names_are_bounded() {
        let mut known = KnownNames::default();
        assert!(!known.observe(1, false) && !known.observe(1, true));
        assert!(known.observe(2, true) && !known.observe(2, true));
        for name in 0..10_000 {
            known.observe(name, false);
        }
        assert_eq!(known.len(), MAX_KNOWN);
        assert!(!known.observe(20_000, true) && known.is_valid());
    }
}

//! The rule `shared_key`: one key of certificate requests in two invocations.
//!
//! A key that an agent has made for a certificate belongs to one invocation of it. One that is used in another was kept in
//! a file, or was taken. Keys that the daemon makes itself, for certificates and proofs, leave its memory for one invocation
//! alone, so no request can name one. Each key is known by a digest, with the first agent that used it and the latest
//! invocations. What is known does not outlive the daemon's process.

use std::collections::VecDeque;
use std::sync::Arc;

use super::observation::{KeyUse, name_digest};

/// Keys that are known; the one that was first used longest ago is forgotten first.
const MAX_KEYS: usize = 4096;
/// Invocations of one key that are known; the oldest are forgotten first.
const MAX_INVOCATIONS: usize = 8;

/// The keys of certificate requests.
#[derive(Default)]
pub(super) struct KnownKeys(VecDeque<Known>);

struct Known {
    key: u64,
    agent: Arc<str>,
    invocations: VecDeque<u64>,
}

impl KnownKeys {
    /// Takes note of a use of a key. Returns the first agent that used it, if that was in another invocation.
    pub fn observe(&mut self, agent: &str, used: KeyUse<'_>) -> Option<Arc<str>> {
        let invocation = name_digest("invocation", used.invocation);
        let Some(known) = self.0.iter_mut().find(|known| known.key == used.key) else {
            if self.0.len() >= MAX_KEYS {
                self.0.pop_front();
            }
            self.0.push_back(Known { key: used.key, agent: agent.into(), invocations: [invocation].into() });
            return None;
        };
        if known.invocations.contains(&invocation) {
            return None;
        }
        if known.invocations.len() >= MAX_INVOCATIONS {
            known.invocations.pop_front();
        }
        known.invocations.push_back(invocation);
        Some(known.agent.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(key: u64, invocation: &str) -> KeyUse<'_> {
        KeyUse { key, invocation }
    }

    #[test]
    fn a_key_in_another_invocation_is_found_once_for_each() {
        let mut keys = KnownKeys::default();
        assert_eq!(keys.observe("a", used(1, "x")), None);
        assert_eq!(keys.observe("a", used(1, "x")), None);
        assert_eq!(keys.observe("a", used(2, "y")), None);
        assert_eq!(keys.observe("a", used(1, "y")).as_deref(), Some("a"));
        assert_eq!(keys.observe("b", used(1, "z")).as_deref(), Some("a"));
        assert_eq!(keys.observe("b", used(1, "z")), None);
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut keys = KnownKeys::default();
        for key in 0..=MAX_KEYS as u64 {
            assert_eq!(keys.observe("a", used(key, "x")), None);
        }
        assert_eq!(keys.0.len(), MAX_KEYS);
        assert_eq!(keys.observe("a", used(0, "y")), None, "the first is forgotten");
        for n in 0..100 {
            keys.observe("a", used(7, &n.to_string()));
        }
        let known = keys.0.iter().find(|known| known.key == 7).unwrap();
        assert_eq!(known.invocations.len(), MAX_INVOCATIONS);
    }
}

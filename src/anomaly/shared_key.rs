//! The rule `shared_key`: one key of certificate requests in two invocations.
//!
//! A key of a certificate belongs to one invocation of an agent. One that is in the request of another invocation was kept
//! in a file, or was taken: also a key that the daemon made, which it gives to the agent with the certificate. Each key is
//! known by a digest, with the first agent that used it and the latest invocations. What is known does not outlive the
//! daemon's process.

use std::collections::VecDeque;
use std::sync::Arc;

use super::observation::{KeyUse, name_digest};

/// Keys that are known; the one that was used longest ago is forgotten first.
const MAX_KEYS: usize = 4096;
/// Keys of one agent among them, so that none makes the daemon forget those of others.
const MAX_KEYS_OF_AGENT: usize = 64;
/// Invocations of one key that are known; the oldest are forgotten first.
const MAX_INVOCATIONS: usize = 8;

/// The keys of certificates, in the order of their latest uses.
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
        let Some(at) = self.0.iter().position(|known| known.key == used.key) else {
            self.make_room(agent);
            self.0.push_back(Known { key: used.key, agent: agent.into(), invocations: [invocation].into() });
            return None;
        };
        let mut known = self.0.remove(at)?;
        let found = known.note(invocation).then(|| known.agent.clone());
        self.0.push_back(known);
        found
    }

    /// Forgets the key that was used longest ago, of the agent if it has its share.
    fn make_room(&mut self, agent: &str) {
        let is_of_agent = |known: &Known| *known.agent == *agent;
        if self.0.iter().filter(|known| is_of_agent(known)).count() >= MAX_KEYS_OF_AGENT {
            let oldest = self.0.iter().position(is_of_agent);
            oldest.and_then(|at| self.0.remove(at));
        } else if self.0.len() >= MAX_KEYS {
            self.0.pop_front();
        }
    }
}

impl Known {
    /// Takes note of an invocation. Returns whether it is another one.
    fn note(&mut self, invocation: u64) -> bool {
        if self.invocations.contains(&invocation) {
            return false;
        }
        if self.invocations.len() >= MAX_INVOCATIONS {
            self.invocations.pop_front();
        }
        self.invocations.push_back(invocation);
        true
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
        keys.observe("kept", used(u64::MAX, "x"));
        for key in 0..10_000 {
            assert_eq!(keys.observe("a", used(key, "x")), None);
        }
        assert_eq!(keys.0.len(), MAX_KEYS_OF_AGENT + 1);
        assert_eq!(keys.observe("a", used(0, "y")), None, "the first is forgotten");
        assert_eq!(
            keys.observe("b", used(u64::MAX, "y")).as_deref(),
            Some("kept"),
            "those of others are not"
        );
        for n in 0..100 {
            keys.observe("a", used(9_999, &n.to_string()));
        }
        let known = keys.0.iter().find(|known| known.key == 9_999).unwrap();
        assert_eq!(known.invocations.len(), MAX_INVOCATIONS);
        for n in 0..10_000u64 {
            keys.observe(&format!("agent-{}", n % 100), used(20_000 + n, "x"));
        }
        assert_eq!(keys.0.len(), MAX_KEYS);
    }
}

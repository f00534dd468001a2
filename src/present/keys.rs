//! The proof keys of all agents: one for each invocation of an agent, in memory only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::error::Error;
use super::key::ProofKey;
use crate::clock::Timestamp;
use crate::mutex::lock;

/// How long a key is used for new tokens.
const ROTATE_EVERY: Duration = Duration::from_secs(3600);
/// Invocations with keys, in total and of one agent. A further one replaces the one that was used longest ago.
const MAX_INVOCATIONS: usize = 4096;
const MAX_INVOCATIONS_PER_AGENT: usize = 256;

/// The keys. Clones share them.
#[derive(Clone)]
pub struct ProofKeys {
    table: Arc<Mutex<Table>>,
    /// How long a key that was replaced can still be asked for: as long as a token lives that is bound to it.
    overlap: Duration,
}

#[derive(Default)]
struct Table {
    by_holder: HashMap<Holder, HeldKeys>,
    /// Greater at each use.
    sequence: u64,
}

/// Who a key is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holder {
    agent: Box<str>,
    invocation: Box<str>,
}

struct HeldKeys {
    current: Arc<ProofKey>,
    /// Keys that were replaced, and until when each is kept.
    earlier: Vec<(Arc<ProofKey>, Timestamp)>,
    used: u64,
}

impl ProofKeys {
    /// No keys. A key that was replaced is kept for `overlap`, the lifetime of the longest token.
    pub fn new(overlap: Duration) -> ProofKeys {
        ProofKeys { table: Arc::default(), overlap }
    }

    /// The key of an agent in an invocation. The first call makes it, and a call an hour later replaces it.
    ///
    /// # Errors
    /// [`Error`] if no key can be generated.
    pub fn current(&self, agent: &str, invocation: &str, now: Timestamp) -> Result<Arc<ProofKey>, Error> {
        let holder = Holder { agent: agent.into(), invocation: invocation.into() };
        let mut table = self.table();
        table.sequence += 1;
        let sequence = table.sequence;
        if let Some(held) = table.by_holder.get_mut(&holder) {
            held.used = sequence;
            held.forget_expired(now);
            if now.since(held.current.created()) >= ROTATE_EVERY {
                held.replace(Arc::new(ProofKey::generate(now)?), now, self.overlap);
            }
            return Ok(held.current.clone());
        }
        let key = Arc::new(ProofKey::generate(now)?);
        table.make_room(agent);
        table
            .by_holder
            .insert(holder, HeldKeys { current: key.clone(), earlier: Vec::new(), used: sequence });
        Ok(key)
    }

    /// The key of an agent in an invocation with this thumbprint (RFC 7638); `None` if it has none, or has it no more.
    pub fn find(&self, agent: &str, invocation: &str, jkt: &str, now: Timestamp) -> Option<Arc<ProofKey>> {
        let holder = Holder { agent: agent.into(), invocation: invocation.into() };
        let mut table = self.table();
        let held = table.by_holder.get_mut(&holder)?;
        held.forget_expired(now);
        let earlier = held.earlier.iter().map(|(key, _)| key);
        std::iter::once(&held.current).chain(earlier).find(|key| key.jkt() == jkt).cloned()
    }

    /// Destroys the keys of an invocation that has ended.
    pub fn end_invocation(&self, invocation: &str) {
        self.table().by_holder.retain(|holder, _| &*holder.invocation != invocation);
    }

    /// Destroys all keys of an agent.
    pub fn end_agent(&self, agent: &str) {
        self.table().by_holder.retain(|holder, _| &*holder.agent != agent);
    }

    /// The number of invocations with keys.
    pub fn len(&self) -> usize {
        self.table().by_holder.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Table {
    /// Makes room for the keys of one more invocation of an agent.
    fn make_room(&mut self, agent: &str) {
        let of_agent = self.by_holder.keys().filter(|holder| &*holder.agent == agent).count();
        if of_agent >= MAX_INVOCATIONS_PER_AGENT {
            self.remove_oldest(|holder| &*holder.agent == agent);
        } else if self.by_holder.len() >= MAX_INVOCATIONS {
            self.remove_oldest(|_| true);
        }
    }

    fn remove_oldest(&mut self, counts: impl Fn(&Holder) -> bool) {
        let oldest =
            self.by_holder.iter().filter(|(holder, _)| counts(holder)).min_by_key(|(_, held)| held.used);
        if let Some(holder) = oldest.map(|(holder, _)| holder.clone()) {
            self.by_holder.remove(&holder);
        }
    }
}

impl HeldKeys {
    fn replace(&mut self, key: Arc<ProofKey>, now: Timestamp, overlap: Duration) {
        let replaced = std::mem::replace(&mut self.current, key);
        self.earlier.push((replaced, now.after(overlap)));
    }

    fn forget_expired(&mut self, now: Timestamp) {
        self.earlier.retain(|(_, until)| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn each_invocation_of_each_agent_has_a_key_of_its_own() {
        let keys = ProofKeys::new(HOUR);
        let key = |agent: &str, invocation: &str| keys.current(agent, invocation, NOW).unwrap();
        let first = key("a", "1");
        assert_eq!(first.jkt(), key("a", "1").jkt());
        assert!(keys.find("a", "1", first.jkt(), NOW).is_some());
        for (agent, invocation) in [("a", "2"), ("b", "1")] {
            assert_ne!(first.jkt(), key(agent, invocation).jkt());
            assert!(keys.find(agent, invocation, first.jkt(), NOW).is_none());
        }
        keys.end_invocation("1");
        assert_eq!((keys.len(), keys.find("a", "1", first.jkt(), NOW).is_none()), (1, true));
        assert_ne!(first.jkt(), key("a", "1").jkt());
        keys.end_agent("a");
        assert!(keys.is_empty());
    }

    #[test]
    fn a_key_is_replaced_after_an_hour_and_kept_as_long_as_a_token_that_is_bound_to_it() {
        let keys = ProofKeys::new(HOUR);
        let at = |secs: u64| NOW.after(Duration::from_secs(secs));
        let current = |secs: u64| keys.current("a", "1", at(secs)).unwrap().jkt().to_owned();
        let first = current(0);
        assert_eq!(current(3599), first);
        let second = current(3600);
        assert_ne!(second, first);
        let is_there = |jkt: &str, secs: u64| keys.find("a", "1", jkt, at(secs)).is_some();
        assert!(is_there(&first, 7199) && is_there(&second, 7199));
        assert!(!is_there(&first, 7200) && is_there(&second, 7200));
    }

    #[test]
    fn the_keys_that_were_used_longest_ago_make_room() {
        let keys = ProofKeys::new(HOUR);
        let current = |agent: &str, number: usize| keys.current(agent, &number.to_string(), NOW).unwrap();
        let other = current("b", 0);
        let (first, second) = (current("a", 0), current("a", 1));
        for number in 2..MAX_INVOCATIONS_PER_AGENT {
            current("a", number);
        }
        assert_eq!(current("a", 0).jkt(), first.jkt(), "it is used again");
        current("a", MAX_INVOCATIONS_PER_AGENT);
        assert_eq!(keys.len(), MAX_INVOCATIONS_PER_AGENT + 1);
        assert!(keys.find("a", "1", second.jkt(), NOW).is_none());
        assert!(
            keys.find("a", "0", first.jkt(), NOW).is_some()
                && keys.find("b", "0", other.jkt(), NOW).is_some()
        );
    }
}

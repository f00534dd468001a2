//! Counts refusals that have no record, until a record of the same agent or uid has their number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::agents::AgentName;
use crate::policy::Refusal;

/// Agents and uids that are counted separately; further ones share one count.
const MAX_KEYS: usize = 1024;

/// Whose refusals are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Agent(AgentName),
    UnknownUid(u32),
    /// Callers that could not be read, and those beyond [`MAX_KEYS`].
    Others,
}

impl Key {
    fn of(refusal: &Refusal) -> Key {
        match (&refusal.agent, &refusal.peer) {
            (Some(name), _) => Key::Agent(name.clone()),
            (None, Some(peer)) => Key::UnknownUid(peer.uid),
            (None, None) => Key::Others,
        }
    }
}

/// A refusal without a record of its own: a later record has it in `suppressed`. Only
/// [`Audit`](super::Audit) constructs one.
#[derive(Debug)]
pub struct Counted<T>(T);

impl<T> Counted<T> {
    pub(super) fn new(decision: T) -> Counted<T> {
        Counted(decision)
    }

    /// Returns the decision.
    pub fn get(&self) -> &T {
        &self.0
    }
}

/// The numbers of refusals that no record has yet.
#[derive(Debug, Default)]
pub(super) struct SuppressedCounts {
    counts: Mutex<HashMap<Key, u64>>,
    /// Number of keys in `counts`, so that refusals do not lock while nothing is counted.
    keys: AtomicUsize,
}

impl SuppressedCounts {
    /// Counts `number` refusals of the caller of `refusal`.
    pub(super) fn add(&self, refusal: &Refusal, number: u64) {
        self.add_to(Key::of(refusal), number);
    }

    /// Adds the number of this caller's uncounted refusals to `refusal`, which is about to be recorded. If it
    /// is not recorded, the returned value counts them again, and `refusal` itself.
    pub(super) fn take_into(self: &Arc<Self>, refusal: &mut Refusal) -> CarriedCount {
        let key = Key::of(refusal);
        refusal.suppressed = refusal.suppressed.saturating_add(self.take(&key));
        let number = refusal.suppressed.saturating_add(1);
        CarriedCount { counts: self.clone(), unrecorded: Some((key, number)) }
    }

    fn add_to(&self, key: Key, number: u64) {
        if number == 0 {
            return;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if counts.len() >= MAX_KEYS && !counts.contains_key(&key) { Key::Others } else { key };
        let count = counts.entry(key).or_default();
        *count = count.saturating_add(number);
        self.keys.store(counts.len(), Ordering::Relaxed);
    }

    fn take(&self, key: &Key) -> u64 {
        if self.keys.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.remove(key).unwrap_or(0);
        let others = if matches!(key, Key::Agent(_)) { None } else { counts.remove(&Key::Others) };
        self.keys.store(counts.len(), Ordering::Relaxed);
        own.saturating_add(others.unwrap_or(0))
    }
}

/// The refusals of a line that is being written. They are counted again on drop, unless
/// [`CarriedCount::settle`] was called.
#[derive(Debug)]
pub(super) struct CarriedCount {
    counts: Arc<SuppressedCounts>,
    unrecorded: Option<(Key, u64)>,
}

impl CarriedCount {
    /// The line is written.
    pub(super) fn settle(mut self) {
        self.unrecorded = None;
    }
}

impl Drop for CarriedCount {
    fn drop(&mut self) {
        if let Some((key, number)) = self.unrecorded.take() {
            self.counts.add_to(key, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ErrorCode;

    fn refusal(agent: Option<&str>) -> Refusal {
        let mut refusal = Refusal::new(ErrorCode::SlowDown, "x");
        refusal.agent = agent.map(|name| AgentName::parse(name).unwrap());
        refusal
    }

    #[test]
    fn a_dropped_line_is_counted_in_the_next_of_the_same_agent() {
        let counts = Arc::new(SuppressedCounts::default());
        let mut first = Refusal { suppressed: 5, ..refusal(Some("a")) };
        drop(counts.take_into(&mut first));
        counts.add(&refusal(Some("a")), 2);
        let mut other = refusal(Some("b"));
        counts.take_into(&mut other).settle();
        assert_eq!(other.suppressed, 0);
        let mut next = refusal(Some("a"));
        counts.take_into(&mut next).settle();
        assert_eq!(next.suppressed, 8);
        let mut last = refusal(Some("a"));
        counts.take_into(&mut last).settle();
        assert_eq!(last.suppressed, 0);
    }

    #[test]
    fn keys_are_bounded_and_nothing_is_lost_beyond() {
        let counts = Arc::new(SuppressedCounts::default());
        for n in 0..2 * MAX_KEYS {
            counts.add(&refusal(Some(&format!("a{n}"))), 1);
        }
        assert!(counts.keys.load(Ordering::Relaxed) <= MAX_KEYS + 1);
        let mut unread = refusal(None);
        counts.take_into(&mut unread).settle();
        assert_eq!(unread.suppressed, MAX_KEYS as u64);
    }
}

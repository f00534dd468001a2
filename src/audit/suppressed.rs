//! Counts refusals that have no record, until a record of the same agent or uid has their number. Of those that a
//! record of an agent has, it is known how many are the agent's own: only they count as anomalies of it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::agents::AgentName;
use crate::mutex::lock;
use crate::policy::Refusal;

/// Agents that are counted separately; further ones share one count.
const MAX_AGENTS: usize = 1024;
/// Uids of unknown callers that are counted separately. Any user can have many uids come once (with user
/// namespaces), so they take no room of agents, and an older one gives way to a new one.
const MAX_UIDS: usize = 256;

/// Whose refusals are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Agent(AgentName),
    UnknownUid(u32),
    /// Callers that could not be read, and those beyond the bounds. The next record of any caller has them.
    Others,
}

impl Key {
    fn from_refusal(refusal: &Refusal) -> Key {
        match (&refusal.agent, &refusal.peer) {
            (Some(name), _) => Key::Agent(name.clone()),
            (None, Some(peer)) => Key::UnknownUid(peer.uid),
            (None, None) => Key::Others,
        }
    }
}

/// A number of refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Number {
    /// All of them.
    all: u64,
    /// Those that an agent's own requests caused.
    own: u64,
}

impl Number {
    /// The refusals in `suppressed` of this one, and itself.
    pub(super) fn with_itself(refusal: &Refusal) -> Number {
        Number { all: refusal.suppressed.saturating_add(1), own: refusal.own_count() }
    }

    /// The refusals in `suppressed` of this one.
    pub(super) fn without_itself(refusal: &Refusal) -> Number {
        Number { all: refusal.suppressed, own: refusal.own_suppressed.into() }
    }

    fn add(&mut self, other: Number) {
        self.all = self.all.saturating_add(other.all);
        self.own = self.own.saturating_add(other.own);
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
    counts: Mutex<Counts>,
    /// Number of keys in `counts`, so that refusals do not lock while nothing is counted.
    keys: AtomicUsize,
}

impl SuppressedCounts {
    /// Counts `number` refusals of the caller of `refusal`.
    pub(super) fn add(&self, refusal: &Refusal, number: Number) {
        self.add_to(Key::from_refusal(refusal), number);
    }

    /// Adds the number of this caller's uncounted refusals to `refusal`, which is about to be recorded. If it
    /// is not recorded, the returned value counts them again, and `refusal` itself.
    pub(super) fn take_into(self: &Arc<Self>, refusal: &mut Refusal) -> CarriedCount {
        let key = Key::from_refusal(refusal);
        let taken = self.take(&key);
        refusal.suppressed = refusal.suppressed.saturating_add(taken.all);
        let own = u32::try_from(taken.own).unwrap_or(u32::MAX);
        refusal.own_suppressed = refusal.own_suppressed.saturating_add(own);
        let number = Number::with_itself(refusal);
        CarriedCount { counts: self.clone(), unrecorded: Some((key, number)) }
    }

    fn add_to(&self, key: Key, number: Number) {
        if number.all == 0 {
            return;
        }
        let mut counts = lock(&self.counts);
        counts.add(key, number);
        self.keys.store(counts.len(), Ordering::Relaxed);
    }

    fn take(&self, key: &Key) -> Number {
        if self.keys.load(Ordering::Relaxed) == 0 {
            return Number::default();
        }
        let mut counts = lock(&self.counts);
        let taken = counts.take(key);
        self.keys.store(counts.len(), Ordering::Relaxed);
        taken
    }
}

/// The numbers by agent and by uid, and the rest.
#[derive(Debug, Default)]
struct Counts {
    agents: HashMap<AgentName, Number>,
    uids: HashMap<u32, u64>,
    /// Uids by the time of their first refusal, oldest first. It has each uid of `uids`.
    oldest_uids: VecDeque<u32>,
    others: u64,
}

impl Counts {
    fn len(&self) -> usize {
        self.agents.len() + self.uids.len() + usize::from(self.others > 0)
    }

    fn add(&mut self, key: Key, number: Number) {
        let count = match key {
            Key::Agent(name) if self.agents.len() < MAX_AGENTS || self.agents.contains_key(&name) => {
                return self.agents.entry(name).or_default().add(number);
            }
            Key::UnknownUid(uid) => {
                if !self.uids.contains_key(&uid) {
                    self.make_room();
                    self.oldest_uids.push_back(uid);
                }
                self.uids.entry(uid).or_default()
            }
            Key::Agent(_) | Key::Others => &mut self.others,
        };
        *count = count.saturating_add(number.all);
    }

    /// Adds the oldest uid's number to the rest if there is no room for another.
    fn make_room(&mut self) {
        if self.uids.len() < MAX_UIDS {
            return;
        }
        let oldest = self.oldest_uids.pop_front().and_then(|uid| self.uids.remove(&uid));
        self.others = self.others.saturating_add(oldest.unwrap_or(0));
    }

    /// The number of this caller, and the rest, which is nobody's own.
    fn take(&mut self, key: &Key) -> Number {
        let taken = match key {
            Key::Agent(name) => self.agents.remove(name),
            Key::UnknownUid(uid) => {
                let all = self.uids.remove(uid);
                if all.is_some() {
                    self.oldest_uids.retain(|known| known != uid);
                }
                all.map(|all| Number { all, own: 0 })
            }
            Key::Others => None,
        };
        let mut number = taken.unwrap_or_default();
        number.add(Number { all: std::mem::take(&mut self.others), own: 0 });
        number
    }
}

/// The refusals of a line that is being written. They are counted again on drop, unless
/// [`CarriedCount::settle`] was called.
#[derive(Debug)]
pub(super) struct CarriedCount {
    counts: Arc<SuppressedCounts>,
    unrecorded: Option<(Key, Number)>,
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

    /// As many refusals, all of them the caller's own.
    fn own(number: u64) -> Number {
        Number { all: number, own: number }
    }

    #[test]
    fn a_dropped_line_is_counted_in_the_next_of_the_same_agent() {
        let counts = Arc::new(SuppressedCounts::default());
        let mut first = Refusal { suppressed: 5, ..refusal(Some("a")) };
        drop(counts.take_into(&mut first));
        counts.add(&refusal(Some("a")), own(2));
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
    fn others_refusals_stay_foreign_when_a_line_is_not_written() {
        let counts = Arc::new(SuppressedCounts::default());
        counts.add(&refusal(None), own(1000));
        let imposed = refusal(Some("a")).imposed();
        counts.add(&imposed, Number::with_itself(&imposed));
        let mut dropped = Refusal { suppressed: 3, own_suppressed: 2, ..refusal(Some("a")) };
        drop(counts.take_into(&mut dropped));
        assert_eq!((dropped.suppressed, dropped.own_suppressed), (1004, 2));
        let mut next = refusal(Some("a"));
        counts.take_into(&mut next).settle();
        assert_eq!((next.suppressed, next.own_suppressed, next.own_count()), (1005, 3, 4));
    }

    #[test]
    fn keys_are_bounded_and_nothing_is_lost_beyond() {
        let counts = Arc::new(SuppressedCounts::default());
        for n in 0..2 * MAX_AGENTS {
            counts.add(&refusal(Some(&format!("a{n}"))), own(1));
        }
        assert!(counts.keys.load(Ordering::Relaxed) <= MAX_AGENTS + 1);
        let mut unread = refusal(None);
        counts.take_into(&mut unread).settle();
        assert_eq!(unread.suppressed, MAX_AGENTS as u64);
    }

    #[test]
    fn uids_that_come_once_take_no_room_of_agents_and_any_record_has_their_number() {
        let counts = Arc::new(SuppressedCounts::default());
        for uid in 0..5000 {
            counts.add_to(Key::UnknownUid(uid), own(1));
        }
        assert_eq!(counts.keys.load(Ordering::Relaxed), MAX_UIDS + 1);
        counts.add(&refusal(Some("a")), own(7));
        counts.add(&refusal(Some("b")), own(3));
        let mut first = refusal(Some("a"));
        counts.take_into(&mut first).settle();
        assert_eq!(first.suppressed, 7 + 5000 - MAX_UIDS as u64, "its own, and those of the evicted uids");
        let mut second = refusal(Some("b"));
        counts.take_into(&mut second).settle();
        assert_eq!(second.suppressed, 3);
        assert_eq!(first.own_suppressed, 7, "those of other callers are not the agent's own");
        assert_eq!(counts.take(&Key::UnknownUid(4999)).all, 1, "the latest uids are counted separately");
        assert_eq!(counts.keys.load(Ordering::Relaxed), MAX_UIDS - 1);
    }
}

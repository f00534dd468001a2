//! Paces each uid, so that the processor time that the daemon spends for one uid is bounded, however many
//! connections and requests the uid makes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::mutex::lock;

/// Longest delay. What would have to wait longer is refused.
pub const MAX_DELAY: Duration = Duration::from_secs(2);
/// Uids in memory. Those without a charge are dropped first: they count as never charged.
const MAX_UIDS: usize = 16_384;

/// What something costs the daemon, in cost units of about 50 us of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Nothing that is counted here: an agent's result, which its own rate limits, or an administrator's.
    Free,
    /// 1 cost unit: a public document, the host's health, a health or reflection call, a connection, 256
    /// pieces of a body, or 64 KiB of a discarded one.
    Unit,
    /// 5 cost units: an error, for which the caller may have been identified and a record written.
    Error,
    /// So many cost units: what a client of the workload socket sends.
    Units(u32),
}

/// A budget of cost units for each uid. Charges above it are delayed, and refused where the delay would
/// exceed `MAX_DELAY`.
#[derive(Debug)]
pub struct Pace {
    /// Time in which the budget grows by one cost unit.
    interval: Duration,
    /// Time in which an empty budget becomes full.
    burst: Duration,
    /// When each uid's budget is full again; no entry, or an instant in the past, where it is full.
    full_at: Mutex<HashMap<u32, Instant>>,
}

impl Cost {
    const fn units(self) -> u32 {
        match self {
            Cost::Free => 0,
            Cost::Unit => 1,
            Cost::Error => 5,
            Cost::Units(count) => count,
        }
    }
}

impl Pace {
    /// `per_second` cost units a second in the long run, and `burst` at once after a pause; at least 1 each.
    pub fn new(per_second: u32, burst: u32) -> Pace {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Pace { interval, burst: interval * burst.max(1), full_at: Mutex::default() }
    }

    /// Charges the uid and returns how long its reply or connection has to be delayed: zero within the burst.
    /// `None`, and no charge, where the delay would exceed `MAX_DELAY`.
    pub fn charge(&self, uid: u32, cost: Cost, now: Instant) -> Option<Duration> {
        if cost == Cost::Free {
            return Some(Duration::ZERO);
        }
        let mut budgets = lock(&self.full_at);
        if budgets.len() >= MAX_UIDS && !budgets.contains_key(&uid) {
            budgets.retain(|_, full_at| *full_at > now);
            // Only an attack by thousands of uids has used so many budgets. Clearing bounds the memory.
            if budgets.len() >= MAX_UIDS {
                budgets.clear();
            }
        }
        let entry = budgets.entry(uid).or_insert(now);
        // A budget that is smaller than the cost does not refuse it for ever.
        let charge = (self.interval * cost.units()).min(self.burst + MAX_DELAY);
        let full_at = (*entry).max(now) + charge;
        let delay = full_at.duration_since(now).saturating_sub(self.burst);
        if delay > MAX_DELAY {
            return None;
        }
        *entry = full_at;
        Some(delay)
    }

    /// How long a charge of nothing would be delayed now, at most 2 s.
    pub fn current_delay(&self, uid: u32, now: Instant) -> Duration {
        let budgets = lock(&self.full_at);
        let used = budgets.get(&uid).map_or(Duration::ZERO, |full_at| full_at.duration_since(now));
        used.saturating_sub(self.burst).min(MAX_DELAY)
    }

    /// As [`Pace::charge`], for what is not refused: 2 s, without a charge, where the delay would be longer.
    pub fn delay(&self, uid: u32, cost: Cost, now: Instant) -> Duration {
        self.charge(uid, cost, now).unwrap_or(MAX_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn burst_is_free_then_delays_grow_and_are_paid_over_time() {
        let pace = Pace::new(1000, 20);
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(pace.charge(1, Cost::Unit, start), Some(Duration::ZERO));
        }
        assert_eq!(pace.charge(1, Cost::Unit, start), Some(millis(1)));
        assert_eq!(pace.charge(1, Cost::Error, start), Some(millis(6)));
        assert_eq!(pace.charge(1, Cost::Free, start), Some(Duration::ZERO));
        assert_eq!(
            pace.charge(2, Cost::Unit, start),
            Some(Duration::ZERO),
            "the budget of another uid is full"
        );
        assert_eq!(pace.current_delay(1, start), millis(6));
        assert_eq!(pace.current_delay(1, start + millis(60)), Duration::ZERO);
        assert_eq!(pace.current_delay(3, start), Duration::ZERO);
        assert_eq!(pace.charge(1, Cost::Unit, start + millis(6)), Some(millis(1)));
        let later = start + millis(60_000);
        let delays = (0..21).map(|_| pace.charge(1, Cost::Unit, later).unwrap());
        assert_eq!(delays.max(), Some(millis(1)), "a pause restores the burst and no more");
    }

    #[test]
    fn longer_delay_is_refused_and_not_charged() {
        let pace = Pace::new(1000, 1);
        let start = Instant::now();
        let delays: Vec<_> = (0..2500).map(|_| pace.charge(1, Cost::Unit, start)).collect();
        assert_eq!(delays.iter().flatten().count(), 2001);
        assert_eq!(delays.iter().flatten().max(), Some(&MAX_DELAY));
        assert_eq!(pace.charge(1, Cost::Unit, start + millis(1)), Some(MAX_DELAY));
    }

    #[test]
    fn cost_above_the_budget_is_delayed_and_not_refused_for_ever() {
        let pace = Pace::new(1, 1);
        let start = Instant::now();
        assert_eq!(pace.charge(1, Cost::Error, start), Some(MAX_DELAY));
        assert_eq!(pace.charge(1, Cost::Error, start), None);
        assert_eq!(pace.delay(1, Cost::Error, start), MAX_DELAY);
    }

    #[test]
    fn uids_in_memory_are_bounded() {
        let pace = Pace::new(1, 1);
        let now = Instant::now();
        for uid in 0..40_000 {
            assert_eq!(pace.charge(uid, Cost::Unit, now), Some(Duration::ZERO));
        }
        assert!(pace.full_at.lock().unwrap().len() <= MAX_UIDS);
    }
}

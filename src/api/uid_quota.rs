//! A bound on what all callers hold at once, of which one uid gets only a part.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Mutex;

use crate::mutex::lock;

/// Permits, of which each uid may hold some. No request waits for one: without one it is refused, so that a
/// queue of one uid's requests cannot delay those of others.
#[derive(Debug)]
pub struct UidQuota {
    max_total: usize,
    max_per_uid: usize,
    held: Mutex<HeldPermits>,
}

#[derive(Debug, Default)]
struct HeldPermits {
    total: usize,
    /// No entry for a uid that holds none.
    by_uid: HashMap<u32, usize>,
}

/// One permit, held until it is dropped.
#[derive(Debug)]
pub struct UidQuotaPermit<'a> {
    quota: &'a UidQuota,
    uid: u32,
}

impl UidQuota {
    /// `max_total` permits, of which one uid may hold `max_per_uid`.
    pub fn new(max_total: usize, max_per_uid: usize) -> UidQuota {
        UidQuota { max_total, max_per_uid, held: Mutex::default() }
    }

    /// A permit; `None` where this uid, or all together, hold as many as they may.
    pub fn acquire(&self, uid: u32) -> Option<UidQuotaPermit<'_>> {
        let mut held = lock(&self.held);
        let own = held.by_uid.get(&uid).copied().unwrap_or(0);
        if held.total >= self.max_total || own >= self.max_per_uid {
            return None;
        }
        held.total += 1;
        held.by_uid.insert(uid, own + 1);
        Some(UidQuotaPermit { quota: self, uid })
    }
}

impl Drop for UidQuotaPermit<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.quota.held);
        held.total -= 1;
        decrement(&mut held.by_uid, self.uid);
    }
}

/// Counts one less, and drops the entry at zero.
pub fn decrement<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uid_leaves_permits_to_others() {
        let quota = UidQuota::new(5, 2);
        let mut permits: Vec<_> = (0..2).map(|_| quota.acquire(1).unwrap()).collect();
        assert!(quota.acquire(1).is_none(), "uid 1 holds two");
        permits.extend([2, 2, 3].map(|uid| quota.acquire(uid).unwrap()));
        assert!(quota.acquire(4).is_none(), "all five are held");
        permits.remove(0);
        permits.push(quota.acquire(1).unwrap());
        drop(permits);
        assert!(quota.held.lock().unwrap().by_uid.is_empty());
        assert!(quota.acquire(4).is_some());
    }
}

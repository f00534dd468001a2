//! Which certificates of each identity have been issued and have not expired, so that they can be revoked.
//! They are kept until they have expired for certain: see [`SettledClock`].
//!
//! The number is bounded so that no set of identities keeps another from getting certificates: see [`quota`].

mod pruning;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::invocation_tag::InvocationTag;
use super::issued_file::{IssuedCertificatesFile, LeafRecord, Leaves};
use super::quota::{self, BoundReached, Taken};

use crate::clock::{SettledClock, Timestamp};
use crate::store;

/// Leaves in memory, with those that do not count.
const MAX_RECORDED: usize = 65_536;
/// A clock that differs less than this was not set back: threads read it one after the other.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// Expired leaves are looked for at most this often while a bound is reached.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// No further leaf can be recorded now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QuotaExceeded {
    /// Which bound is reached.
    pub bound: BoundReached,
    /// Until the first leaf that counts expires.
    pub retry_after: Duration,
}

/// The unexpired leaves, by SPIFFE ID.
#[derive(Debug)]
pub(super) struct IssuedCertificates {
    by_identity: HashMap<Arc<str>, Leaves>,
    totals: Totals,
    /// The longest lifetime of a leaf.
    max_lifetime: Duration,
    /// Registered identities, at least 1.
    registered: usize,
    /// Leaves on the CRLs that count as unexpired.
    revoked: usize,
    /// The latest time that a caller gave, since the clock was last set back.
    latest: Timestamp,
    pruned_at: Timestamp,
    /// Decides what has expired for certain.
    settled: SettledClock,
    /// Whether the content differs from the file's.
    dirty: bool,
    /// How many leaves of each identity have been found to be of invocations that have ended, since the last
    /// [`IssuedCertificates::take_ended`].
    ended: HashMap<Arc<str>, usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    counted: usize,
    ahead: usize,
    expired: usize,
    /// Counted leaves beyond the shares of their identities.
    beyond_shares: usize,
}

impl IssuedCertificates {
    /// No leaves, of which each will have at most this lifetime.
    pub fn new(max_lifetime: Duration) -> IssuedCertificates {
        IssuedCertificates {
            by_identity: HashMap::new(),
            totals: Totals::default(),
            max_lifetime,
            registered: 1,
            revoked: 0,
            // The first caller's time counts as one of a clock that was set back, so that what was read from
            // the file is divided by it.
            latest: Timestamp::from_secs(u64::MAX),
            pruned_at: Timestamp::from_secs(0),
            settled: SettledClock::default(),
            dirty: false,
            ended: HashMap::new(),
        }
    }

    /// Adds the leaves of `leaves.json`; none where there is no file. Returns the identities of which some
    /// leaves are lost.
    pub fn read(&mut self, dir: &Path) -> Result<Vec<Arc<str>>, store::Error> {
        let mut damaged = Vec::new();
        let file = IssuedCertificatesFile::read(dir)?;
        let is_of_earlier_boot = file.is_of_earlier_boot();
        for (id, leaves, is_damaged) in file.into_leaves() {
            damaged.extend(is_damaged.then(|| id.clone()));
            self.by_identity.entry(id).or_default().counted.extend(leaves);
        }
        if is_of_earlier_boot {
            self.end_invocations(|_, _| true);
        }
        self.latest = Timestamp::from_secs(u64::MAX);
        self.count();
        Ok(damaged)
    }

    /// The file to write, if the content changed since the last call. Counts it as written: see
    /// [`IssuedCertificates::mark_dirty`].
    pub fn take_changes(&mut self, now: Timestamp) -> Option<IssuedCertificatesFile> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.prune(now);
        Some(self.by_identity.iter().map(|(id, leaves)| (id.clone(), leaves.iter().copied())).collect())
    }

    /// A write of the changes failed: the next [`IssuedCertificates::take_changes`] returns them again.
    pub fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// Sets the number of registered identities, from which their shares follow.
    pub fn set_registered(&mut self, registered: usize) {
        self.registered = registered.max(1);
        self.count();
    }

    /// Sets the number of leaves on the CRLs that count as unexpired.
    pub fn set_revoked(&mut self, revoked: usize) {
        self.revoked = revoked;
    }

    /// Whether this SPIFFE ID can have one more leaf.
    ///
    /// See [`quota`].
    ///
    /// # Errors
    ///
    /// [`QuotaExceeded`] with the time until the first of its leaves expires.
    pub fn check(&mut self, id: &str, now: Timestamp) -> Result<(), QuotaExceeded> {
        if now.after(CLOCK_TOLERANCE) < self.latest {
            self.prune(now);
        }
        self.latest = self.latest.max(now);
        let Err(bound) = self.check_room(id) else { return Ok(()) };
        if now.since(self.pruned_at) >= PRUNE_INTERVAL {
            self.prune(now);
            if self.check_room(id).is_ok() {
                return Ok(());
            }
        }
        let own = self.by_identity.get(id).map(|leaves| &leaves.counted[..]).unwrap_or_default();
        let first_expiry = own.iter().map(|leaf| leaf.expires).min().unwrap_or(now);
        let retry_after = first_expiry.since(now).max(PRUNE_INTERVAL);
        Err(QuotaExceeded { bound, retry_after })
    }

    /// Whether the identities whose SPIFFE IDs begin with `prefix` can have one more leaf, of at most `quota`
    /// together.
    ///
    /// # Errors
    ///
    /// The time until the first of their leaves expires.
    pub fn check_together(&self, prefix: &str, quota: u32, now: Timestamp) -> Result<(), Duration> {
        let own = self.by_identity.iter().filter(|(id, _)| id.starts_with(prefix));
        let unexpired = own
            .flat_map(|(_, leaves)| &leaves.counted)
            .map(|leaf| leaf.expires)
            .filter(|expires| *expires > now);
        let (count, first) = unexpired.fold((0, now), |(count, first), expires| {
            (count + 1, if count == 0 { expires } else { first.min(expires) })
        });
        if count < u64::from(quota) { Ok(()) } else { Err(first.since(now).max(PRUNE_INTERVAL)) }
    }

    /// Records a leaf of this SPIFFE ID.
    pub fn add(&mut self, id: &str, leaf: LeafRecord, now: Timestamp) -> Result<(), QuotaExceeded> {
        self.check(id, now)?;
        let share = self.registered_share();
        let leaves = match self.by_identity.get_mut(id) {
            Some(leaves) => leaves,
            None => self.by_identity.entry(id.into()).or_default(),
        };
        self.totals.beyond_shares += usize::from(leaves.counted.len() >= share);
        self.totals.counted += 1;
        leaves.counted.push(leaf);
        self.dirty = true;
        Ok(())
    }

    /// The number of recorded leaves of an identity that count. Some of them may have expired.
    pub fn count_for(&self, id: &str) -> usize {
        self.by_identity.get(id).map_or(0, |leaves| leaves.counted.len())
    }

    /// Whether a leaf is recorded, by its serial number in hexadecimal.
    pub fn contains(&self, id: &str, serial: &str) -> bool {
        let Ok(serial) = HEXLOWER.decode(serial.as_bytes()) else { return false };
        // The latest are at the end, and most lookups are for them.
        self.by_identity.get(id).is_some_and(|leaves| {
            leaves.iter().rev().any(|leaf| leaf.serial[..] == serial && !leaf.has_ended())
        })
    }

    /// Marks the leaves of invocations that have ended: they are no longer valid, and their records stay until they
    /// are on the revocation lists.
    pub fn end_invocations(&mut self, has_ended: impl Fn(&str, &LeafRecord) -> bool) {
        for (id, leaves) in &mut self.by_identity {
            let mut count = 0;
            for leaf in leaves.iter_mut().filter(|leaf| !leaf.has_ended()) {
                if has_ended(id, leaf) {
                    leaf.invocation = Some(InvocationTag::ENDED);
                    count += 1;
                }
            }
            if count > 0 {
                *self.ended.entry(id.clone()).or_default() += count;
                self.dirty = true;
            }
        }
    }

    /// How many leaves of each identity were marked since the last call.
    pub fn take_ended(&mut self) -> HashMap<Arc<str>, usize> {
        std::mem::take(&mut self.ended)
    }

    /// Has a leaf be of no invocation, because processes of several will share it.
    pub fn share(&mut self, id: &str, serial: &[u8; 16]) {
        let Some(leaves) = self.by_identity.get_mut(id) else { return };
        if let Some(leaf) = leaves.iter_mut().rev().find(|leaf| leaf.serial == *serial && !leaf.has_ended()) {
            leaf.invocation = None;
            self.dirty = true;
        }
    }

    fn registered_share(&self) -> usize {
        quota::share(self.registered)
    }

    fn check_room(&self, id: &str) -> Result<(), BoundReached> {
        let Totals { counted, beyond_shares, .. } = self.totals;
        let taken = Taken { counted, beyond_shares, revoked: self.revoked };
        quota::check_room(self.count_for(id), self.registered_share(), taken)
    }

    fn count(&mut self) {
        let share = self.registered_share();
        let mut totals = Totals::default();
        for leaves in self.by_identity.values() {
            totals.counted += leaves.counted.len();
            totals.ahead += leaves.ahead.len();
            totals.expired += leaves.expired.len();
            totals.beyond_shares += leaves.counted.len().saturating_sub(share);
        }
        self.totals = totals;
    }

    /// How many leaves there are for which `holds`.
    pub fn count_if(&self, holds: impl Fn(&LeafRecord) -> bool) -> usize {
        self.by_identity.values().flat_map(Leaves::iter).filter(|leaf| holds(leaf)).count()
    }

    /// The leaves of each SPIFFE ID for which `is_orphan` holds.
    pub fn orphaned(
        &self,
        is_orphan: impl Fn(&str, &LeafRecord) -> bool,
    ) -> Vec<(Arc<str>, Vec<LeafRecord>)> {
        let orphans = self.by_identity.iter().map(|(id, leaves)| {
            let orphans = leaves.iter().filter(|leaf| is_orphan(id, leaf)).copied();
            (id.clone(), orphans.collect::<Vec<_>>())
        });
        orphans.filter(|(_, leaves)| !leaves.is_empty()).collect()
    }

    /// Drops these leaves. Those of the same identity that were added meanwhile stay.
    pub fn remove(&mut self, id: &str, removed: &[LeafRecord]) {
        let Some(leaves) = self.by_identity.get_mut(id) else { return };
        leaves.remove(removed);
        self.dirty = true;
        if leaves.is_empty() {
            self.by_identity.remove(id);
        }
        self.count();
    }
}

#[cfg(test)]
mod tests;

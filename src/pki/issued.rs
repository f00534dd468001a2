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
mod tests {
    use super::super::quota::{MAX_BEYOND_SHARES, MAX_PER_IDENTITY, MAX_UNEXPIRED, RESERVED};
    use super::*;
    use crate::agents::MatchTag;

    pub const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
    pub const HOUR: Duration = Duration::from_secs(3600);
    pub const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    pub fn issued(registered: usize) -> IssuedCertificates {
        let mut issued = IssuedCertificates::new(HOUR);
        issued.set_registered(registered);
        issued
    }

    pub fn leaf_at(now: Timestamp, n: usize, lifetime: u64) -> LeafRecord {
        let mut serial = [0; 16];
        serial[..8].copy_from_slice(&n.to_be_bytes());
        let expires = now.after(Duration::from_secs(lifetime));
        let match_tag = MatchTag::from_bytes([0, 0, 0, n as u8]);
        LeafRecord { serial, expires, ca_tag: *b"ca 1", match_tag, invocation: None }
    }

    pub fn leaf(n: usize, lifetime: u64) -> LeafRecord {
        leaf_at(NOW, n, lifetime)
    }

    /// Adds leaves until the identity gets no more; their number.
    pub fn exhaust(issued: &mut IssuedCertificates, id: &str, now: Timestamp) -> usize {
        (0..).take_while(|n| issued.add(id, leaf_at(now, *n, 3600), now).is_ok()).count()
    }

    #[test]
    fn identity_over_quota_waits_for_its_first_expiry_without_affecting_others() {
        let mut issued = issued(2);
        for n in 0..MAX_PER_IDENTITY {
            issued.add("a", leaf(n, 100 + n as u64 % 3000), NOW).unwrap();
        }
        let exceeded = issued.add("a", leaf(0, 9), NOW).unwrap_err();
        assert_eq!(
            exceeded,
            QuotaExceeded { bound: BoundReached::OfIdentity, retry_after: Duration::from_secs(100) }
        );
        issued.add("b", leaf(0, 9), NOW).unwrap();
        issued.add("a", leaf(0, 9), NOW.after(Duration::from_secs(101))).unwrap();
    }

    /// However many identities take all they can, each registered one gets its share.
    #[test]
    fn no_set_of_identities_keeps_another_from_its_share() {
        for (registered, hogs, share, at_least) in [
            (9, 8, 1365, 1365),
            (100, 99, 122, 122),
            (1000, 8, 12, 400),
            (1000, 999, 12, 12),
            (10_000, 9_999, 1, 1),
        ] {
            let mut issued = issued(registered);
            assert_eq!(issued.registered_share(), share);
            for hog in 0..hogs {
                assert!(exhaust(&mut issued, &format!("hog {hog}"), NOW) >= share, "{registered}: {hog}");
            }
            let got = exhaust(&mut issued, "another", NOW);
            assert!(got >= at_least, "{registered} registered, {hogs} take all they can: {got}");
            let exceeded = issued.check("another", NOW).unwrap_err();
            assert_eq!(exceeded.retry_after, HOUR);
            assert!(issued.totals.counted <= RESERVED + MAX_BEYOND_SHARES, "{:?}", issued.totals);
        }
    }

    #[test]
    fn agents_that_are_added_later_get_their_share_too() {
        let mut issued = issued(8);
        let taken: usize = (0..8).map(|hog| exhaust(&mut issued, &format!("hog {hog}"), NOW)).sum();
        assert!(taken > 20_000, "{taken}");
        issued.set_registered(1008);
        for new in 0..1000 {
            assert_eq!(exhaust(&mut issued, &format!("new {new}"), NOW), 12, "{new}");
        }
        assert!(issued.totals.counted <= MAX_UNEXPIRED, "{:?}", issued.totals);
    }

    /// So that whatever is unexpired fits on the CRLs, where revoked leaves stay until they expire.
    #[test]
    fn revoked_leaves_count_in_the_total_and_leave_each_identity_its_share() {
        let mut issued = issued(8);
        let share = issued.registered_share();
        let hogs = ["a", "b", "c", "d", "e"];
        let taken: usize = hogs.iter().map(|hog| exhaust(&mut issued, hog, NOW)).sum();
        for (id, leaves) in issued.orphaned(|_, _| true) {
            issued.remove(&id, &leaves);
        }
        issued.set_revoked(taken);
        assert_eq!(exhaust(&mut issued, "a", NOW), share);
        issued.set_revoked(RESERVED + MAX_BEYOND_SHARES);
        for id in 0..7 {
            assert_eq!(exhaust(&mut issued, &id.to_string(), NOW), share, "{id}");
        }
        assert_eq!(issued.totals.counted + issued.revoked, MAX_UNEXPIRED);
        assert_eq!(issued.check("z", NOW).unwrap_err().bound, BoundReached::OfAll);
    }

    #[test]
    fn full_file_round_trips_and_fits_the_state_file_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut issued = issued(10_000);
        for n in 0..MAX_RECORDED {
            let id = format!("spiffe://{}/{:05}", "d".repeat(112), n % 10_000);
            let leaves = issued.by_identity.entry(id.as_str().into()).or_default();
            leaves.counted.push(leaf(n, 100));
        }
        issued.count();
        issued.dirty = true;
        issued.take_changes(NOW).unwrap().write(dir.path()).unwrap();
        assert!(issued.take_changes(NOW).is_none());
        let mut read = IssuedCertificates::new(HOUR);
        read.read(dir.path()).unwrap();
        assert_eq!(read.totals.counted, MAX_RECORDED);
        for (id, leaves) in &issued.by_identity {
            assert_eq!(read.by_identity[id].counted, leaves.counted);
        }
        let mut empty = IssuedCertificates::new(HOUR);
        empty.read(&dir.path().join("none")).unwrap();
        assert_eq!(empty.totals, Totals::default());
    }

    #[test]
    fn leaves_of_one_identity_are_orphaned_one_by_one() {
        let mut issued = issued(1);
        issued.add("a", leaf(1, 100), NOW).unwrap();
        issued.add("a", leaf(2, 100), NOW).unwrap();
        let orphans = issued.orphaned(|_, leaf| leaf.match_tag == MatchTag::from_bytes([0, 0, 0, 1]));
        assert_eq!(orphans, [("a".into(), vec![leaf(1, 100)])]);
    }

    #[test]
    fn leaves_of_ended_invocations_are_invalid_and_recorded_until_they_are_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let of = |id: &str| InvocationTag::of_id(id);
        let (first, second) = (of("1111111111114111"), of("2222222222224222"));
        let mut issued = issued(1);
        for (n, invocation) in [first, first, second, None].into_iter().enumerate() {
            issued.add("a", LeafRecord { invocation, ..leaf(n, 3600) }, NOW).unwrap();
        }
        let serial = |n: usize| HEXLOWER.encode(&leaf(n, 0).serial);
        issued.share("a", &leaf(1, 0).serial);
        issued.end_invocations(|_, leaf| leaf.invocation == first);
        assert_eq!(issued.take_ended(), HashMap::from([("a".into(), 1)]));
        assert!(issued.take_ended().is_empty());
        let valid = |issued: &IssuedCertificates| -> Vec<usize> {
            (0..4).filter(|n| issued.contains("a", &serial(*n))).collect()
        };
        assert_eq!(valid(&issued), [1, 2, 3]);
        issued.take_changes(NOW).unwrap().write(dir.path()).unwrap();
        let mut read = IssuedCertificates::new(HOUR);
        read.read(dir.path()).unwrap();
        assert_eq!(valid(&read), [1, 2, 3]);
        assert_eq!(read.orphaned(|_, leaf| leaf.has_ended())[0].1.len(), 1);
        // After a start of the host, all have ended.
        let path = dir.path().join("leaves.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(crate::peer::boot_id(), "another boot")).unwrap();
        let mut read = IssuedCertificates::new(HOUR);
        read.read(dir.path()).unwrap();
        assert_eq!(valid(&read), [0; 0]);
        assert_eq!(read.take_ended(), HashMap::from([("a".into(), 3)]));
    }

    #[test]
    fn remove_keeps_records_added_meanwhile() {
        let mut issued = issued(2);
        issued.add("a", leaf(1, 100), NOW).unwrap();
        issued.add("b", leaf(2, 100), NOW).unwrap();
        let orphans = issued.orphaned(|id, _| id != "b");
        assert_eq!(orphans, [("a".into(), vec![leaf(1, 100)])]);
        issued.add("a", leaf(3, 100), NOW).unwrap();
        issued.remove("a", &orphans[0].1);
        assert_eq!(issued.orphaned(|_, _| true).len(), 2);
        assert_eq!(issued.by_identity["a"].counted, [leaf(3, 100)]);
        assert_eq!(issued.totals, Totals { counted: 2, ..Totals::default() });
    }
}

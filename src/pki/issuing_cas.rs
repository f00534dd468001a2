//! The issuing CAs that the host keeps, and what each of them has revoked.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::ca_file::{CaRecord, RevokedCertificate};
use super::issued_file::{CaTag, LeafRecord};
use super::issuing_ca::{CLOCK_SKEW, LIFETIME};
use super::quota::MAX_UNEXPIRED;
use crate::clock::Timestamp;

/// The active issuing CA, its predecessors until they have expired for certain, and those that a clock set
/// back and forth leaves behind.
const MAX_ISSUING_CAS: usize = 100;
/// From this number on, administrators have no further one made: the rest is for renewals. The certificates of one
/// that is dropped could not be revoked any more.
pub(super) const MAX_ON_COMMAND: usize = MAX_ISSUING_CAS - 8;
/// Revoked certificates on all CRLs together: as many as may be unexpired, so that all of them can be
/// revoked. The CRLs have about 1.3 MiB then.
const MAX_REVOKED: usize = MAX_UNEXPIRED;

/// Leaves that are not on the CRLs, by their serial numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NotRevoked {
    /// The CRLs are full. This happens only to leaves of a clock that was ahead, and of an earlier release.
    pub no_room: HashSet<[u8; 16]>,
    /// The issuing CA's key is lost.
    pub no_key: HashSet<[u8; 16]>,
    /// How many leaves that earlier calls listed are no longer on the CRLs, which are full, and are not among
    /// the leaves of this call. They are of a clock that was ahead, as those of `no_room`.
    pub displaced: usize,
}

/// The leaves that were issued while the clock was ahead, if it is right now. They become valid when their
/// time has come, to whoever has their keys then.
#[derive(Debug)]
pub struct FutureLeaves {
    latest_expiry: Timestamp,
    /// The issuing CAs that are not valid yet.
    ca_tags: Vec<CaTag>,
}

impl FutureLeaves {
    pub(super) fn new(issuing_cas: &[CaRecord], now: Timestamp) -> FutureLeaves {
        let not_yet_valid = issuing_cas.iter().filter(|record| is_not_yet_valid(record, now));
        FutureLeaves {
            latest_expiry: latest_plausible_expiry(now),
            ca_tags: not_yet_valid.map(|record| record.ca.tag()).collect(),
        }
    }

    /// Whether this leaf is one of them.
    pub fn contains(&self, leaf: &LeafRecord) -> bool {
        leaf.expires > self.latest_expiry || self.ca_tags.contains(&leaf.ca_tag)
    }
}

/// Whether the CA was created while the clock was ahead: it is not valid yet.
pub(super) fn is_not_yet_valid(record: &CaRecord, now: Timestamp) -> bool {
    now.after(CLOCK_SKEW) < record.ca.created_at()
}

/// Makes a CA the active one. Beyond the bound, those that are not valid yet are dropped first, then the
/// oldest.
pub(super) fn add(issuing_cas: &mut Vec<CaRecord>, active: CaRecord, now: Timestamp) {
    issuing_cas.insert(0, active);
    while issuing_cas.len() > MAX_ISSUING_CAS {
        let not_yet_valid = issuing_cas.iter().skip(1).rposition(|record| is_not_yet_valid(record, now));
        issuing_cas.remove(not_yet_valid.map_or(issuing_cas.len() - 1, |at| at + 1));
    }
}

/// Drops issuing CAs other than the active one, and entries of CRLs, that expired at `horizon` or before.
pub(super) fn drop_expired(issuing_cas: &mut Vec<CaRecord>, horizon: Timestamp) {
    let mut is_active = true;
    issuing_cas.retain(|record| std::mem::take(&mut is_active) || record.ca.not_after() > horizon);
    for record in issuing_cas {
        record.revoked.retain(|one| one.expires > horizon);
    }
}

/// Puts leaves on the CRLs, and drops what expired at `horizon` or before. Returns those that are not on
/// them, and the issuing CAs if the CRLs changed.
pub(super) fn revoke<'a>(
    issuing_cas: &[CaRecord],
    leaves: impl Iterator<Item = &'a LeafRecord>,
    horizon: Timestamp,
    now: Timestamp,
) -> (NotRevoked, Option<Vec<CaRecord>>) {
    let mut changed = issuing_cas.to_vec();
    drop_expired(&mut changed, horizon);
    let by_tag: HashMap<_, _> =
        changed.iter().enumerate().rev().map(|(at, record)| (record.ca.tag(), at)).collect();
    let mut listed: HashSet<[u8; 16]> = revoked(&changed).map(|one| one.serial).collect();
    let mut not_revoked = NotRevoked::default();
    let (mut added, mut present) = (Vec::new(), Vec::new());
    for leaf in leaves.filter(|leaf| leaf.expires > horizon) {
        let Some(record) = by_tag.get(&leaf.ca_tag).and_then(|at| changed.get_mut(*at)) else {
            not_revoked.no_key.insert(leaf.serial);
            continue;
        };
        if listed.insert(leaf.serial) {
            record.revoked.push(RevokedCertificate {
                serial: leaf.serial,
                revoked_at: now,
                expires: leaf.expires,
            });
            added.push(leaf.serial);
        } else {
            present.push(leaf.serial);
        }
    }
    let dropped = truncate_revoked(&mut changed, now);
    let is_dropped = |serial: &[u8; 16]| dropped.contains(serial);
    if added.iter().all(is_dropped) {
        not_revoked.no_room.extend(added);
        return (not_revoked, None);
    }
    // Those that were listed before keep their records too, so that they are listed again.
    not_revoked.no_room = added.into_iter().chain(present).filter(is_dropped).collect();
    not_revoked.displaced = dropped.len() - not_revoked.no_room.len();
    (not_revoked, Some(changed))
}

/// How many entries of the CRLs expire after `horizon`, without those of a clock that was ahead.
pub(super) fn count_revoked(issuing_cas: &[CaRecord], horizon: Timestamp, now: Timestamp) -> usize {
    let last = latest_plausible_expiry(now);
    revoked(issuing_cas).filter(|one| one.expires > horizon && one.expires <= last).count()
}

/// Keeps at most [`MAX_REVOKED`] entries of all CAs, and returns the serial numbers of the others. Those that
/// were issued while the clock was ahead are dropped first, the last to expire before others: they would keep
/// their room for as long as the clock was ahead. Then those that expire first.
fn truncate_revoked(issuing_cas: &mut [CaRecord], now: Timestamp) -> HashSet<[u8; 16]> {
    let excess = revoked(issuing_cas).count().saturating_sub(MAX_REVOKED);
    if excess == 0 {
        return HashSet::new();
    }
    let latest = latest_plausible_expiry(now);
    let rank = |one: &RevokedCertificate| {
        if one.expires > latest {
            (false, Reverse(one.expires), one.expires, one.serial)
        } else {
            (true, Reverse(latest), one.expires, one.serial)
        }
    };
    let mut ranks: Vec<_> = revoked(issuing_cas).map(rank).collect();
    ranks.sort_unstable();
    let cutoff = ranks[excess - 1];
    for record in issuing_cas.iter_mut() {
        record.revoked.retain(|one| rank(one) > cutoff);
    }
    ranks.iter().take(excess).map(|(_, _, _, serial)| *serial).collect()
}

/// No leaf outlives its issuing CA: one that expires later is of a clock that was ahead.
fn latest_plausible_expiry(now: Timestamp) -> Timestamp {
    now.after(LIFETIME + CLOCK_SKEW)
}

fn revoked(issuing_cas: &[CaRecord]) -> impl Iterator<Item = &RevokedCertificate> {
    issuing_cas.iter().flat_map(|record| &record.revoked)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ca_file::tests::ca_record_at;
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn leaf(ca: &CaRecord, n: usize, expires: Timestamp) -> LeafRecord {
        // No leading zeros, which an entry leaves out.
        let mut serial = [0xFF; 16];
        serial[8..].copy_from_slice(&n.to_be_bytes());
        LeafRecord { serial, expires, ca_tag: ca.ca.tag(), match_tag: None, invocation: None }
    }

    fn leaves(ca: &CaRecord, numbers: std::ops::Range<usize>, expires: Timestamp) -> Vec<LeafRecord> {
        numbers.map(|n| leaf(ca, n, expires)).collect()
    }

    /// Revokes leaves before any has expired, and returns what is not revoked and whether the CRLs changed.
    fn apply<'a>(
        cas: &mut Vec<CaRecord>,
        leaves: impl IntoIterator<Item = &'a LeafRecord>,
        now: Timestamp,
    ) -> (NotRevoked, bool) {
        let (not_revoked, changed) = revoke(cas, leaves.into_iter(), Timestamp::from_secs(0), now);
        let has_changed = changed.is_some();
        *cas = changed.unwrap_or_else(|| std::mem::take(cas));
        (not_revoked, has_changed)
    }

    fn serials(issuing_cas: &[CaRecord]) -> HashSet<[u8; 16]> {
        revoked(issuing_cas).map(|one| one.serial).collect()
    }

    #[test]
    fn as_many_certificates_can_be_revoked_as_may_be_unexpired() {
        let mut cas = vec![ca_record_at(NOW), ca_record_at(NOW)];
        let mut all = leaves(&cas[0], 0..MAX_UNEXPIRED / 2, NOW.after(HOUR));
        all.extend(leaves(&cas[1], MAX_UNEXPIRED / 2..MAX_UNEXPIRED, NOW.after(HOUR)));
        assert_eq!(apply(&mut cas, &all, NOW), (NotRevoked::default(), true));
        assert_eq!((serials(&cas).len(), count_revoked(&cas, NOW, NOW)), (MAX_UNEXPIRED, MAX_UNEXPIRED));
        assert_eq!(apply(&mut cas, &all, NOW), (NotRevoked::default(), false));
        let lists = cas.iter().map(|record| {
            let entries = record.revoked.iter().map(|one| (one.serial, one.revoked_at));
            record.ca.sign_crl(1, entries, NOW).unwrap().len()
        });
        assert!(lists.sum::<usize>() < 1350 * 1024);
        let raw: Vec<_> = cas.iter().map(CaRecord::to_raw).collect();
        let text = serde_json::to_vec_pretty(&raw).unwrap();
        assert!(text.len() < 3 * 1024 * 1024, "{}", text.len());
    }

    #[test]
    fn what_is_not_on_the_crls_is_returned() {
        let mut cas = vec![ca_record_at(NOW)];
        let current = leaves(&cas[0], 0..MAX_REVOKED - 1, NOW.after(HOUR));
        let ahead = leaves(&cas[0], MAX_REVOKED..MAX_REVOKED + 3, NOW.after(HOUR * 100));
        let lost = LeafRecord { ca_tag: *b"lost", ..leaf(&cas[0], 99_999, NOW.after(HOUR)) };
        let all = || current.iter().chain(&ahead).chain([&lost]);
        let (not_revoked, changed) = apply(&mut cas, all(), NOW);
        assert_eq!((not_revoked.no_room.len(), changed), (2, true));
        assert!(current.iter().all(|leaf| !not_revoked.no_room.contains(&leaf.serial)));
        assert_eq!(not_revoked.no_key, HashSet::from([lost.serial]));
        assert_eq!(count_revoked(&cas, NOW, NOW), MAX_REVOKED - 1);
        // A repetition finds the same, and changes nothing.
        assert_eq!(apply(&mut cas, all(), NOW), (not_revoked, false));
        // Those of a clock that was ahead do not displace others, and are displaced by them.
        let listed =
            |cas: &[CaRecord]| ahead.iter().filter(|leaf| serials(cas).contains(&leaf.serial)).count();
        assert_eq!(listed(&cas), 1);
        let mut other_cas = cas.clone();
        let another = leaf(&cas[0], 88_888, NOW.after(HOUR));
        let displaced = NotRevoked { displaced: 1, ..NotRevoked::default() };
        assert_eq!(apply(&mut cas, &[another], NOW), (displaced, true));
        assert_eq!((listed(&cas), serials(&cas).len()), (0, MAX_REVOKED));
        // Those whose records are still there keep them.
        let no_room = ahead.iter().map(|leaf| leaf.serial).collect();
        let kept = NotRevoked { no_room, ..NotRevoked::default() };
        assert_eq!(apply(&mut other_cas, ahead.iter().chain([&another]), NOW), (kept, true));
    }

    #[test]
    fn clock_that_is_ahead_for_a_moment_undoes_no_revocation() {
        let mut clock = crate::clock::SettledClock::default();
        let boot = crate::clock::BootTime::now();
        let mut at = |ahead: Duration, elapsed: Duration| {
            let now = NOW.after(ahead + elapsed);
            (now, clock.horizon_at(now, boot.after(elapsed)))
        };
        let mut cas = vec![ca_record_at(NOW)];
        let revoked_leaf = leaf(&cas[0], 1, NOW.after(HOUR * 9));
        let (now, _) = at(Duration::ZERO, Duration::ZERO);
        apply(&mut cas, &[revoked_leaf], now);
        at(Duration::ZERO, HOUR * 2);
        // The clock is three days ahead, and an issuing CA is created.
        let (ahead, horizon) = at(HOUR * 72, HOUR * 3);
        drop_expired(&mut cas, horizon);
        add(&mut cas, ca_record_at(ahead), ahead);
        // An earlier leaf that is revoked meanwhile is on the list too.
        let another = leaf(&cas[1], 2, NOW.after(HOUR * 9));
        assert_eq!(apply(&mut cas, &[another], ahead), (NotRevoked::default(), true));
        let (now, horizon) = at(Duration::ZERO, HOUR * 3 + Duration::from_secs(12));
        drop_expired(&mut cas, horizon);
        add(&mut cas, ca_record_at(now), now);
        assert_eq!(serials(&cas), HashSet::from([revoked_leaf.serial, another.serial]));
        assert_eq!(cas.len(), 3);
        // They are dropped when they have expired by a clock that was not set for an hour.
        let (_, horizon) = at(Duration::ZERO, HOUR * 10);
        drop_expired(&mut cas, horizon);
        assert_eq!((serials(&cas).len(), cas.len()), (0, 3));
    }

    /// A leaf's lifetime may have been longer than it is configured now, but not longer than its CA's.
    #[test]
    fn leaves_of_a_clock_that_was_ahead_are_known_by_their_expiry_or_their_ca() {
        let cas = [ca_record_at(NOW.after(HOUR * 3)), ca_record_at(NOW)];
        let is_future = |ca: &CaRecord, expires| FutureLeaves::new(&cas, NOW).contains(&leaf(ca, 1, expires));
        assert!(is_future(&cas[0], NOW.after(HOUR)));
        assert!(!is_future(&cas[1], NOW.after(HOUR)));
        assert!(!is_future(&cas[1], NOW.after(LIFETIME)));
        assert!(is_future(&cas[1], NOW.after(LIFETIME + CLOCK_SKEW + Duration::from_secs(1))));
        // By a clock that is not behind, all of them are of the past.
        let later = FutureLeaves::new(&cas, NOW.after(HOUR * 4));
        assert!(!later.contains(&leaf(&cas[0], 1, NOW.after(HOUR * 5))));
    }

    #[test]
    fn issuing_cas_that_are_not_valid_yet_are_dropped_first() {
        let mut cas = vec![ca_record_at(NOW)];
        let oldest = cas[0].ca.tag();
        let last = MAX_ISSUING_CAS as u32 + 12;
        for n in 1..=last {
            add(&mut cas, ca_record_at(NOW.after(HOUR * 72 * n)), NOW);
            assert!(cas.len() <= MAX_ISSUING_CAS);
        }
        assert_eq!(cas[MAX_ISSUING_CAS - 1].ca.tag(), oldest);
        assert_eq!(cas[0].ca.created_at(), NOW.after(HOUR * 72 * last));
    }
}

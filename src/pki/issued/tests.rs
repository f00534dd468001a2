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

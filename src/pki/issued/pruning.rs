//! What is dropped of the recorded leaves, and which of them count.

use super::super::issued_file::{LeafRecord, Leaves};
use super::{CLOCK_TOLERANCE, IssuedCertificates, MAX_RECORDED, Totals};
use crate::clock::{BootTime, Timestamp};

impl IssuedCertificates {
    /// As [`IssuedCertificates::prune_at`], at the present time since the host booted.
    pub fn prune(&mut self, now: Timestamp) {
        self.prune_at(now, BootTime::now());
    }

    /// Drops leaves that have expired for certain, and divides the others by whether they count now.
    fn prune_at(&mut self, now: Timestamp, boot: BootTime) {
        let last = now.after(self.max_lifetime + CLOCK_TOLERANCE);
        let forget_until = self.settled.horizon_at(now, boot);
        self.by_identity.retain(|_, leaves| {
            leaves.update(now, last, forget_until);
            !leaves.is_empty()
        });
        self.count();
        (self.latest, self.pruned_at) = (now, now);
        self.drop_excess();
    }

    /// Drops leaves beyond the bound that do not count: those that expired first, then those that expire
    /// last, of a clock that was ahead. The revocation of these becomes impossible; they are valid only when
    /// that time has come.
    fn drop_excess(&mut self) {
        let excess =
            |totals: &Totals| (totals.counted + totals.ahead + totals.expired).saturating_sub(MAX_RECORDED);
        if let Some(cutoff) = self.nth_expiry(|leaves| &leaves.expired, excess(&self.totals)) {
            for leaves in self.by_identity.values_mut() {
                leaves.expired.retain(|leaf| leaf.expires > cutoff);
            }
            self.count();
        }
        let (ahead, kept) = (self.totals.ahead, self.totals.ahead.saturating_sub(excess(&self.totals)));
        if kept == ahead {
            return;
        }
        let Some(cutoff) = self.nth_expiry(|leaves| &leaves.ahead, kept + 1) else { return };
        for leaves in self.by_identity.values_mut() {
            leaves.ahead.retain(|leaf| leaf.expires < cutoff);
        }
        self.count();
        tracing::warn!(
            "{} certificates that were issued while the clock was ahead are no longer remembered: they cannot \
             be revoked, and become valid at {cutoff} at the earliest",
            ahead - self.totals.ahead
        );
    }

    /// The expiry of the `n`th leaf (from 1) of one kind, or of the last; `None` for 0 or if there is none.
    fn nth_expiry(&self, kind: impl Fn(&Leaves) -> &Vec<LeafRecord>, n: usize) -> Option<Timestamp> {
        if n == 0 {
            return None;
        }
        let mut expiries: Vec<Timestamp> = self
            .by_identity
            .values()
            .flat_map(|leaves| kind(leaves).iter().map(|leaf| leaf.expires))
            .collect();
        expiries.sort_unstable();
        expiries.get(n - 1).or(expiries.last()).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use data_encoding::HEXLOWER;

    use super::super::super::quota::MAX_PER_IDENTITY;
    use super::super::tests::{HOUR, NOW, YEAR, exhaust, issued, leaf};
    use super::*;

    #[test]
    fn clock_that_is_ahead_for_a_moment_drops_no_record() {
        let (mut issued, boot) = (issued(1), BootTime::now());
        issued.add("a", leaf(1, 3600), NOW).unwrap();
        let prune = |issued: &mut IssuedCertificates, ahead: Duration, elapsed: Duration| {
            issued.prune_at(NOW.after(ahead + elapsed), boot.after(elapsed));
            (issued.totals.counted, issued.totals.expired)
        };
        const SECOND: Duration = Duration::from_secs(1);
        assert_eq!(prune(&mut issued, Duration::ZERO, SECOND), (1, 0));
        assert_eq!(prune(&mut issued, YEAR, SECOND * 2), (0, 1));
        // The file has it too, for a restart in between.
        let dir = tempfile::tempdir().unwrap();
        issued.dirty = true;
        issued.take_changes(NOW.after(YEAR)).unwrap().write(dir.path()).unwrap();
        let mut read = IssuedCertificates::new(HOUR);
        read.read(dir.path()).unwrap();
        assert_eq!(prune(&mut read, YEAR, SECOND * 3), (0, 1));
        assert!(read.contains("a", &HEXLOWER.encode(&leaf(1, 3600).serial)));
        for issued in [&mut issued, &mut read] {
            assert_eq!(prune(issued, Duration::ZERO, SECOND * 14), (1, 0));
            assert_eq!(prune(issued, Duration::ZERO, HOUR), (0, 1));
            assert_eq!(prune(issued, Duration::ZERO, HOUR + SECOND * 14), (0, 0));
        }
    }

    #[test]
    fn leaves_of_a_clock_that_was_ahead_do_not_count_and_can_be_revoked() {
        let mut issued = issued(1);
        let ahead = NOW.after(YEAR * 3);
        assert_eq!(exhaust(&mut issued, "a", ahead), MAX_PER_IDENTITY);
        // The clock is right again.
        assert_eq!(exhaust(&mut issued, "a", NOW), MAX_PER_IDENTITY, "none of them counts");
        assert_eq!(issued.count_for("a"), MAX_PER_IDENTITY);
        assert_eq!(issued.orphaned(|_, _| true)[0].1.len(), 2 * MAX_PER_IDENTITY);
        // As the file stores no time of issue, the first request after a restart decides again.
        let dir = tempfile::tempdir().unwrap();
        issued.take_changes(NOW).unwrap().write(dir.path()).unwrap();
        let mut read = IssuedCertificates::new(HOUR);
        read.read(dir.path()).unwrap();
        assert_eq!(exhaust(&mut read, "a", NOW.after(HOUR)), MAX_PER_IDENTITY);
        // When their time has come, they count.
        assert!(read.check("a", ahead).is_err());
        // A clock that is behind makes all of them leaves of the future, and drops none.
        read.check("a", Timestamp::from_secs(1000)).unwrap();
        assert_eq!((read.totals.counted, read.totals.ahead), (0, 3 * MAX_PER_IDENTITY));
    }

    #[test]
    fn leaves_of_clocks_that_were_ahead_are_bounded() {
        let mut issued = issued(1000);
        for jump in (1..=12).rev() {
            let now = NOW.after(YEAR * jump);
            for hog in 0..8 {
                exhaust(&mut issued, &format!("hog {hog}"), now);
            }
        }
        assert!(exhaust(&mut issued, "another", NOW) >= 400);
        issued.prune(NOW);
        assert!(issued.totals.counted + issued.totals.ahead <= MAX_RECORDED, "{:?}", issued.totals);
        assert!(issued.totals.ahead > 40_000, "{:?}", issued.totals);
    }
}

//! Counts what ends within an hour, such as tokens, in memory of a fixed size.

use std::time::Duration;

use super::timestamp::BootTime;

/// What ends is counted by the minute in which it does.
const SLOT: u64 = 60;
/// Nothing that is counted ends later than after an hour, so it ends in one of these minutes.
const SLOTS: usize = 62;

/// The number of things that have not ended. Each counts until the end of the minute in which it ends.
///
/// The time is that since the host started, so that setting the clock ends nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiringCount {
    counts: [u32; SLOTS],
    total: u32,
    /// The minute up to which the counts were cleared.
    minute: u64,
}

impl Default for ExpiringCount {
    fn default() -> ExpiringCount {
        ExpiringCount { counts: [0; SLOTS], total: 0, minute: 0 }
    }
}

impl ExpiringCount {
    /// Counts one that ends after `lifetime`; one that ends after more than an hour counts for an hour.
    pub fn add(&mut self, lifetime: Duration, now: BootTime) {
        self.drop_ended(now);
        let slot = self.slot_after(lifetime, now);
        // Beyond 4 billion, further ones are not counted, so that the total stays the sum.
        if let Some(total) = self.total.checked_add(1) {
            self.counts[slot] += 1;
            self.total = total;
        }
    }

    /// Takes one back that ends after `lifetime`. Nothing happens where none is counted in its minute.
    pub fn take_back(&mut self, lifetime: Duration, now: BootTime) {
        self.drop_ended(now);
        let slot = self.slot_after(lifetime, now);
        if self.counts[slot] > 0 {
            self.counts[slot] -= 1;
            self.total -= 1;
        }
    }

    /// Counts what another count has, too.
    pub fn add_all(&mut self, mut other: ExpiringCount, now: BootTime) {
        self.drop_ended(now);
        other.drop_ended(now);
        // Both begin at the same minute now, or one of them at a later one that was told before.
        for (own, more) in self.counts.iter_mut().zip(other.counts) {
            *own = own.saturating_add(more);
        }
        self.minute = self.minute.max(other.minute);
        self.total = self.counts.iter().fold(0, |total, count| total.saturating_add(*count));
    }

    /// How many have not ended.
    pub fn count(&mut self, now: BootTime) -> u32 {
        self.drop_ended(now);
        self.total
    }

    /// When the first of them has ended, at least one second from `now`.
    pub fn until_first_end(&self, now: BootTime) -> Duration {
        let minutes = self.minute..self.minute + SLOTS as u64;
        let first = minutes.clone().find(|minute| self.counts[slot(*minute)] > 0).unwrap_or(minutes.start);
        Duration::from_secs(((first + 1) * SLOT).saturating_sub(now.as_secs()).max(1))
    }

    /// Drops those of the minutes that have ended.
    fn drop_ended(&mut self, now: BootTime) {
        let minute = now.as_secs() / SLOT;
        let ended = minute.saturating_sub(self.minute).min(SLOTS as u64);
        for past in 0..ended {
            self.total -= std::mem::take(&mut self.counts[slot(self.minute + past)]);
        }
        self.minute = self.minute.max(minute);
    }

    fn slot_after(&self, lifetime: Duration, now: BootTime) -> usize {
        let last = self.minute + SLOTS as u64 - 1;
        slot((now.as_secs().saturating_add(lifetime.as_secs()) / SLOT).clamp(self.minute, last))
    }
}

fn slot(minute: u64) -> usize {
    (minute % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counts_until_its_minute_has_ended() {
        let (mut count, start) = (ExpiringCount::default(), BootTime::now());
        let at = |secs: u64| start.after(Duration::from_secs(secs));
        for lifetime in [1, 300, 3600] {
            count.add(Duration::from_secs(lifetime), start);
        }
        assert_eq!(count.count(start), 3);
        let first = count.until_first_end(start).as_secs();
        assert!((1..=61).contains(&first), "{first}");
        assert_eq!(count.count(at(61)), 2);
        assert_eq!(count.count(at(361)), 1);
        assert_eq!(count.count(at(3599)), 1);
        assert_eq!(count.count(at(3661)), 0);
        // A time that is earlier than the last one changes nothing.
        count.add(Duration::from_secs(60), at(3700));
        assert_eq!(count.count(at(10)), 1);
        assert_eq!(count.count(at(1_000_000)), 0);
    }

    #[test]
    fn one_that_is_taken_back_does_not_count() {
        let (mut count, now) = (ExpiringCount::default(), BootTime::now());
        let minute = Duration::from_secs(60);
        count.add(minute, now);
        count.add(minute, now);
        count.take_back(minute, now);
        assert_eq!(count.count(now), 1);
        count.take_back(Duration::from_secs(1800), now);
        assert_eq!(count.count(now), 1, "none ends then");
        count.add(Duration::from_secs(u64::MAX), now);
        assert_eq!(count.count(now.after(Duration::from_secs(3000))), 1);
        assert_eq!(count.count(now.after(Duration::from_secs(3800))), 0);
    }

    #[test]
    fn counts_are_added() {
        let (mut one, mut other, now) = (ExpiringCount::default(), ExpiringCount::default(), BootTime::now());
        one.add(Duration::from_secs(60), now);
        other.add(Duration::from_secs(60), now);
        other.add(Duration::from_secs(600), now);
        one.add_all(other, now.after(Duration::from_secs(1)));
        assert_eq!(one.count(now), 3);
        assert_eq!(one.count(now.after(Duration::from_secs(300))), 1);
        assert_eq!(one.count(now.after(Duration::from_secs(700))), 0);
    }
}

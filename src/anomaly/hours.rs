//! The rule `hours`: use at an hour at which the agent was not used before.
//!
//! Hours are those of `[policy] timezone`. Those of Monday to Friday and those of Saturday and Sunday are learnt
//! separately: for each of the 24 hours, on how many days the agent was used in it, at most once a day. A use is
//! unusual if there was none in this hour, the one before and the one after, on any such day, and what is known
//! suffices:
//!
//! - 5 working days, or 4 days of weekends, have passed, and the agent was used on such days so regularly that a new
//!   hour is improbable: `(s + 1) / (a + 1) <= 0.2`, where *a* is the sum of all counts and *s* the number of hours
//!   that were used on one day only (the estimate of Good and Turing of the probability of something new);
//! - or the agent was never used on such days, and the sum of the counts of the others is 20 or more.
//!
//! An unusual hour is learnt once it was unusual on three days.

use serde::{Deserialize, Serialize};

use crate::clock::{LocalTime, Timestamp, Weekday};

const SECONDS_OF_DAY: u64 = 24 * 3600;
/// Days that have to pass before hours are judged: working days, days of weekends.
const NEEDED_DAYS: [u16; 2] = [5, 4];
/// The greatest probability of a new hour at which one is unusual.
const MAX_NOVELTY: f64 = 0.2;
/// Uses on other days after which a use on the first such day is unusual.
const NEEDED_USES: u32 = 20;
/// Days on which an hour has to be unusual until it is not any more.
const DAYS_TO_ACCEPT: u8 = 3;
/// Days without an observation that count as days that have passed.
const MAX_GAP: u64 = 14;

/// The hours of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LearntHours {
    /// Days on which each hour was used: working days, weekends.
    used: [[u8; 24]; 2],
    /// Days on which each hour was unusual.
    unusual: [[u8; 24]; 2],
    /// Days that have passed.
    days: [u16; 2],
    /// The number of the latest day, in the zone, and its hours that were looked at.
    today: u64,
    seen_today: u32,
}

impl LearntHours {
    /// Takes note of a use. Returns whether its hour is unusual.
    pub fn observe(&mut self, time: Timestamp, local: LocalTime, is_learnt: bool) -> bool {
        self.turn_to(day_number(time, local.weekday));
        let (kind, hour) = (kind_of(local.weekday), usize::from(local.hour % 24));
        if self.seen_today & (1 << hour) != 0 {
            return false;
        }
        self.seen_today |= 1 << hour;
        if !(is_learnt && self.is_unusual(kind, hour)) {
            self.used[kind][hour] = self.used[kind][hour].saturating_add(1);
            return false;
        }
        let unusual = &mut self.unusual[kind][hour];
        *unusual = unusual.saturating_add(1);
        if *unusual >= DAYS_TO_ACCEPT {
            *unusual = 0;
            self.used[kind][hour] = 1;
        }
        true
    }

    /// The hours of working days or of weekends at which the agent was used.
    pub fn used(&self, on_weekends: bool) -> impl Iterator<Item = usize> + '_ {
        (0..24).filter(move |hour| self.used[usize::from(on_weekends)][*hour] > 0)
    }

    fn is_unusual(&self, kind: usize, hour: usize) -> bool {
        let counts = &self.used[kind];
        if [hour + 23, hour, hour + 1].iter().any(|near| counts[near % 24] > 0) {
            return false;
        }
        let sum = |counts: &[u8; 24]| counts.iter().map(|count| u32::from(*count)).sum::<u32>();
        let all = sum(counts);
        if self.days[kind] < NEEDED_DAYS[kind] {
            return false;
        }
        if all == 0 {
            return sum(&self.used[1 - kind]) >= NEEDED_USES;
        }
        let single = counts.iter().filter(|count| **count == 1).count() as u32;
        f64::from(single + 1) / f64::from(all + 1) <= MAX_NOVELTY
    }

    fn turn_to(&mut self, day: u64) {
        if day == self.today {
            return;
        }
        // Of a clock that was set back, or of a long pause, the day itself counts.
        let first = match self.today {
            0 => day,
            today if day < today => day,
            today => (today + 1).max(day.saturating_sub(MAX_GAP)),
        };
        for passed in first..=day {
            let days = &mut self.days[usize::from(is_weekend(passed))];
            *days = days.saturating_add(1);
        }
        (self.today, self.seen_today) = (day, 0);
    }
}

/// 0 for working days, 1 for weekends.
fn kind_of(weekday: Weekday) -> usize {
    usize::from(matches!(weekday, Weekday::Saturday | Weekday::Sunday))
}

/// Days since 1970 on the calendar of the zone, which is at most a day from that of UTC.
fn day_number(time: Timestamp, weekday: Weekday) -> u64 {
    let utc = time.as_secs() / SECONDS_OF_DAY;
    match (weekday as u64 + 7 - weekday_of(utc)) % 7 {
        1 => utc + 1,
        6 => utc.saturating_sub(1),
        _ => utc,
    }
}

/// Monday is 0. The first day of 1970 was a Thursday.
fn weekday_of(day: u64) -> u64 {
    (day + 3) % 7
}

fn is_weekend(day: u64) -> bool {
    weekday_of(day) >= 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Zone;

    /// A Monday, 00:00 UTC.
    const MONDAY: u64 = 1_799_625_600;

    fn observe(hours: &mut LearntHours, day: u64, hour: u64, is_learnt: bool) -> bool {
        let time = Timestamp::from_secs(MONDAY + day * SECONDS_OF_DAY + hour * 3600);
        hours.observe(time, Zone::utc().local_time(time), is_learnt)
    }

    fn office(weeks: u64) -> LearntHours {
        let mut hours = LearntHours::default();
        for day in (0..weeks * 7).filter(|day| day % 7 < 5) {
            for hour in 9..17 {
                assert!(!observe(&mut hours, day, hour, day >= 7));
            }
        }
        hours
    }

    #[test]
    fn the_day_is_that_of_the_calendar() {
        let time = Timestamp::from_secs(MONDAY);
        assert_eq!(Zone::utc().local_time(time).weekday, Weekday::Monday);
        let day = MONDAY / SECONDS_OF_DAY;
        let days =
            [Weekday::Sunday, Weekday::Monday, Weekday::Tuesday].map(|weekday| day_number(time, weekday));
        assert_eq!(days, [day - 1, day, day + 1]);
    }

    #[test]
    fn a_use_at_night_is_unusual_for_three_days() {
        let mut hours = office(2);
        assert!(
            !observe(&mut hours, 14, 8, true) && !observe(&mut hours, 14, 17, true),
            "beside known hours"
        );
        for day in 15..18 {
            assert!(observe(&mut hours, day, 3, true));
            assert!(!observe(&mut hours, day, 3, true), "once a day");
        }
        assert!(!observe(&mut hours, 18, 3, true), "learnt");
    }

    #[test]
    fn a_use_on_a_weekend_is_unusual_after_two_weekends_without() {
        assert!(!observe(&mut office(1), 5, 10, true));
        assert!(observe(&mut office(3), 19, 10, true));
    }

    #[test]
    fn hours_of_an_irregular_agent_are_not_judged() {
        let mut hours = LearntHours::default();
        for day in 0..10 {
            assert!(!observe(&mut hours, day, (day * 7) % 24, day >= 5), "{day}");
        }
    }
}

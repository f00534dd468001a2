//! Hours of the week in a named zone, such as `Mon-Fri 08:00-18:00 Europe/Berlin`.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::clock::{LocalTime, Timestamp, UnknownZone, Weekday, Zone};

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Minutes of a week.
const WEEK: u32 = 7 * DAY as u32;
/// Periods of one text, of all its groups.
const MAX_PERIODS: usize = 64;
/// Length of the longest text, in bytes.
const MAX_TEXT_LEN: usize = 1024;
/// More than any change of daylight saving moves a clock, in minutes.
const MAX_SHIFT: u64 = 180;
/// Starts that are tried to find the next one: those of a day on which the clock skips them, and one more.
const MAX_TRIED_STARTS: usize = 2 * MAX_PERIODS;

/// Hours of the week. Displayed as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    text: Box<str>,
    periods: Box<[Period]>,
    zone: Zone,
}

/// A period that begins on some days of the week, by the clock on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Period {
    /// The days on which it begins: one bit for each weekday, Monday the lowest.
    days: u8,
    /// Minutes after midnight: 0 to 1439.
    start: u16,
    /// Minutes after midnight, exclusive: 1 to 1440. If it is not after `start`, the period ends on the day after.
    end: u16,
}

/// Why a text does not say hours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HoursError {
    /// The form is another one.
    #[error(
        "hours are days, times and a zone, such as \"Mon-Fri 08:00-18:00 Europe/Berlin\", with further groups \
         after a semicolon: \"Mon-Thu 08:00-12:00,13:00-18:00; Sat,Sun 22:00-06:00 UTC\"; {0}"
    )]
    Form(String),
    /// The zone is not one of this host.
    #[error(transparent)]
    Zone(#[from] UnknownZone),
}

impl Hours {
    /// Reads a text. Blocking: reads the zone from the host's database.
    pub(super) fn parse(text: &str) -> Result<Hours, HoursError> {
        let form = HoursError::Form;
        if text.len() > MAX_TEXT_LEN {
            return Err(form(format!("this has more than {MAX_TEXT_LEN} bytes")));
        }
        let (groups, zone) =
            text.trim().rsplit_once(char::is_whitespace).ok_or_else(|| form("this has no zone".into()))?;
        if zone.contains(':') {
            return Err(form("this has no zone at its end".into()));
        }
        let mut periods = Vec::new();
        for group in groups.split(';') {
            let words: Vec<&str> = group.split_whitespace().collect();
            let (days, times) = match words[..] {
                [times] => (ALL_DAYS, times),
                [days, times] => (parse_days(days).map_err(form)?, times),
                _ => return Err(form(format!("\"{}\" is not days and times", group.trim()))),
            };
            for time in times.split(',') {
                let (start, end) = parse_period(time).map_err(form)?;
                periods.push(Period { days, start, end });
            }
            if periods.len() > MAX_PERIODS {
                return Err(form(format!("this has more than {MAX_PERIODS} periods")));
            }
        }
        let zone = Zone::read(zone)?;
        Ok(Hours { text: text.trim().into(), periods: periods.into(), zone })
    }

    /// Whether `time` is within the hours.
    pub fn contain(&self, time: Timestamp) -> bool {
        self.contain_minute(minute_of_week(self.zone.local_time(time)))
    }

    /// When the hours begin next, if `time` is outside of them: a full minute.
    pub fn next_start(&self, time: Timestamp) -> Option<Timestamp> {
        let now = minute_of_week(self.zone.local_time(time));
        let starts = self.periods.iter().flat_map(|period| period.starts());
        let deltas: BTreeSet<u32> =
            starts.map(|start| (start + WEEK - now) % WEEK).flat_map(|delta| [delta, delta + WEEK]).collect();
        let minute = Timestamp::from_secs(time.as_secs() / 60 * 60);
        deltas.into_iter().take(MAX_TRIED_STARTS).find_map(|delta| {
            // A change of daylight saving in between moves the start, or leaves it out.
            let minutes = u64::from(delta).saturating_sub(MAX_SHIFT)..=u64::from(delta) + MAX_SHIFT;
            let mut candidates = minutes.map(|minutes| minute.after(Duration::from_secs(minutes * 60)));
            candidates.find(|candidate| *candidate > time && self.contain(*candidate))
        })
    }

    /// Whether each minute of these hours is one of `other`. Hours of different zones are compared as if there
    /// was no other time, and are not within each other.
    pub(super) fn are_within(&self, other: &Hours) -> bool {
        let (own, others) = (self.minutes(), other.minutes());
        self.zone == other.zone && own.iter().zip(&others).all(|(own, other)| !own || *other)
    }

    /// For each minute of the week whether it is within the hours.
    fn minutes(&self) -> Vec<bool> {
        let mut minutes = vec![false; WEEK as usize];
        for period in &self.periods {
            for minute in period.starts().flat_map(|start| start..start + period.length()) {
                minutes[(minute % WEEK) as usize] = true;
            }
        }
        minutes
    }

    fn contain_minute(&self, minute: u32) -> bool {
        self.periods.iter().any(|period| period.contains(minute))
    }
}

impl Period {
    fn contains(self, minute: u32) -> bool {
        self.starts().any(|start| (minute + WEEK - start) % WEEK < self.length())
    }

    /// Minutes of the week at which the period begins.
    fn starts(self) -> impl Iterator<Item = u32> {
        (0..7)
            .filter(move |day| self.days & (1 << day) != 0)
            .map(move |day| day * u32::from(DAY) + u32::from(self.start))
    }

    fn length(self) -> u32 {
        match self.end > self.start {
            true => u32::from(self.end - self.start),
            false => u32::from(DAY - self.start + self.end),
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A bit for each day.
const ALL_DAYS: u8 = 0x7f;

fn minute_of_week(time: LocalTime) -> u32 {
    let LocalTime { weekday, hour, minute } = time;
    weekday as u32 * u32::from(DAY) + u32::from(hour) * 60 + u32::from(minute)
}

/// `Mon`, `Mon-Fri`, `Fri-Mon`, `Mon,Wed,Fri`.
fn parse_days(text: &str) -> Result<u8, String> {
    let day = |name: &str| {
        Weekday::from_name(name)
            .map(|day| day as u8)
            .ok_or_else(|| format!("\"{name}\" is not one of the days Mon, Tue, Wed, Thu, Fri, Sat and Sun"))
    };
    let mut days = 0;
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (day(first)?, day(last)?);
        // After Sunday comes Monday.
        let count = (last + 7 - first) % 7;
        days |= (0..=count).fold(0, |days, offset| days | 1 << ((first + offset) % 7));
    }
    Ok(days)
}

/// `08:00-18:00`, `22:00-06:00`, `00:00-24:00`: minutes after midnight.
fn parse_period(text: &str) -> Result<(u16, u16), String> {
    let not_a_period = || format!("\"{text}\" is not a period such as 08:00-18:00");
    let time = |text: &str| -> Option<u16> {
        let (hour, minute) = text.split_once(':')?;
        let number = |text: &str| {
            (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u16>().ok())?
        };
        let (hour, minute) = (number(hour)?, number(minute)?);
        (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
    };
    let (start, end) = text.split_once('-').ok_or_else(not_a_period)?;
    let (start, end) = (time(start).ok_or_else(not_a_period)?, time(end).ok_or_else(not_a_period)?);
    match (start, end) {
        (DAY, _) => Err(format!("\"{text}\" begins at 24:00; write 00:00 of the next day")),
        _ if start == end => Err(format!("\"{text}\" is empty; a whole day is 00:00-24:00")),
        // 00:00 as an end is the midnight after.
        (_, 0) => Ok((start, DAY)),
        _ => Ok((start, end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether these hours contain each of the times, in RFC 3339.
    fn contain(hours: &str, times: &[&str]) -> Vec<bool> {
        let hours = Hours::parse(hours).unwrap();
        times.iter().map(|time| hours.contain(crate::clock::parse_rfc3339(time).unwrap())).collect()
    }

    fn next(hours: &str, time: &str) -> String {
        let time = crate::clock::parse_rfc3339(time).unwrap();
        Hours::parse(hours).unwrap().next_start(time).unwrap().to_rfc3339_seconds()
    }

    #[test]
    fn weekdays_and_times_are_those_of_the_zone() {
        let hours = "Mon-Fri 08:00-18:00 Europe/Berlin";
        // 2026-11-27 is a Friday; Berlin is one hour ahead.
        let times = [
            "2026-11-27T06:59:59Z",
            "2026-11-27T07:00:00Z",
            "2026-11-27T16:59:59Z",
            "2026-11-27T17:00:00Z",
            "2026-11-28T10:00:00Z",
            "2026-11-30T10:00:00Z",
        ];
        assert_eq!(contain(hours, &times), [false, true, true, false, false, true]);
        // In summer, two hours.
        assert_eq!(contain(hours, &["2026-06-26T06:00:00Z", "2026-06-26T16:00:00Z"]), [true, false]);
        assert_eq!(next(hours, "2026-11-27T17:00:00Z"), "2026-11-30T07:00:00Z");
        assert_eq!(next(hours, "2026-11-27T03:12:44Z"), "2026-11-27T07:00:00Z");
    }

    #[test]
    fn lists_groups_and_periods_over_midnight_are_read() {
        let hours = "Mon,Wed 08:00-12:00,13:00-18:00; Fri-Sat 22:00-06:00; Sun 00:00-24:00 UTC";
        let times = [
            "2026-11-23T08:00:00Z",
            "2026-11-23T12:30:00Z",
            "2026-11-24T09:00:00Z",
            "2026-11-25T17:59:00Z",
            "2026-11-27T05:00:00Z",
            "2026-11-27T22:00:00Z",
            "2026-11-28T05:59:59Z",
            "2026-11-28T06:00:00Z",
            "2026-11-29T23:59:59Z",
            "2026-11-30T00:00:00Z",
        ];
        let expected = [true, false, false, true, false, true, true, false, true, false];
        assert_eq!(contain(hours, &times), expected);
        // Sunday to Monday, and every day.
        assert_eq!(
            contain("Sun 22:00-06:00 UTC", &["2026-11-30T05:59:00Z", "2026-11-30T06:00:00Z"]),
            [true, false]
        );
        assert_eq!(
            contain("20:00-00:00 UTC", &["2026-11-24T23:59:59Z", "2026-11-25T00:00:00Z"]),
            [true, false]
        );
        assert_eq!(
            contain("Sat-Mon 10:00-11:00 UTC", &["2026-11-29T10:00:00Z", "2026-11-27T10:00:00Z"]),
            [true, false]
        );
    }

    /// In Berlin, 02:00 to 03:00 does not exist on 29 March 2026, and is twice there on 25 October.
    #[test]
    fn daylight_saving_moves_and_doubles_hours() {
        let night = "Sun 02:30-03:30 Europe/Berlin";
        let spring = ["2026-03-29T00:59:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"];
        assert_eq!(contain(night, &spring), [false, true, false]);
        assert_eq!(next(night, "2026-03-29T00:30:00Z"), "2026-03-29T01:00:00Z", "the clock shows 03:00 then");
        let autumn =
            ["2026-10-25T00:30:00Z", "2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"];
        assert_eq!(contain(night, &autumn), [true, false, true, false]);
        assert_eq!(next(night, "2026-10-25T01:10:00Z"), "2026-10-25T01:30:00Z", "the second 02:30");
        // A start beyond the change.
        let day = "Mon 08:00-18:00 Europe/Berlin";
        assert_eq!(next(day, "2026-03-28T12:00:00Z"), "2026-03-30T06:00:00Z");
        assert_eq!(next(day, "2026-10-24T12:00:00Z"), "2026-10-26T07:00:00Z");
        assert_eq!(next("Sun 02:00-02:30 Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-04-05T00:00:00Z");
    }

    #[test]
    fn other_texts_are_faults() {
        for (text, expected) in [
            ("", "has no zone"),
            ("Mon-Fri 08:00-18:00", "has no zone at its end"),
            ("Mon-Fri 08:00-18:00 Europe/Atlantis", "is no time zone of this host"),
            ("Mo-Fr 08:00-18:00 UTC", "\"Mo\" is not one of the days"),
            ("Mon-Fri 8:00-18:00 UTC", "is not a period"),
            ("Mon-Fri 08:00-24:01 UTC", "is not a period"),
            ("Mon-Fri 08:60-09:00 UTC", "is not a period"),
            ("Mon-Fri 08:00 UTC", "is not a period"),
            ("Mon-Fri 08:00-08:00 UTC", "is empty"),
            ("Mon 24:00-08:00 UTC", "begins at 24:00"),
            ("Mon Tue 08:00-18:00 UTC", "is not days and times"),
            ("Mon 08:00-18:00;; Tue 08:00-18:00 UTC", "is not days and times"),
        ] {
            let error = Hours::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(Hours::parse(&format!("{} UTC", "08:00-09:00,".repeat(200))).is_err());
        let many = ["Mon 08:00-09:00"; MAX_PERIODS + 1].join(";") + " UTC";
        assert!(Hours::parse(&many).is_err());
    }

    #[test]
    fn wider_hours_are_recognized() {
        let within =
            |inner: &str, outer: &str| Hours::parse(inner).unwrap().are_within(&Hours::parse(outer).unwrap());
        assert!(within("Mon 08:00-09:00 UTC", "Mon-Fri 08:00-18:00 UTC"));
        assert!(within("Mon,Tue 08:00-09:00 UTC", "Mon 08:00-09:00; Tue 07:00-09:00 UTC"));
        assert!(!within("Mon 08:00-09:01 UTC", "Mon 08:00-09:00 UTC"));
        assert!(within("Mon 23:00-01:00 UTC", "Mon 23:00-24:00; Tue 00:00-01:00 UTC"));
        assert!(!within("Mon 08:00-09:00 UTC", "Mon-Fri 08:00-18:00 Europe/Berlin"));
    }
}

//! When a grant or credential of an agent counts: until a time, and at hours of the week.

use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::value::{Datetime, Offset};

use crate::clock::{TimeAtDecision, Timestamp, end_of_day_utc, parse_rfc3339};
use crate::config::{Diagnostic, Key, Kind, SourceFile};

use super::hours::Hours;

/// The keys of the limits in each table that has them.
pub(super) const EXPIRES_KEY: Key = Key::optional("expires", Kind::Date("2027-03-31"));
/// As [`EXPIRES_KEY`].
pub(super) const HOURS_KEY: Key = Key::optional("hours", Kind::Text("\"Mon-Fri 08:00-18:00 Europe/Berlin\""));

/// When a grant or credential counts. The default is always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// The moment at which it ends.
    pub expires: Option<Timestamp>,
    /// The hours of the week at which it counts.
    pub hours: Option<Arc<Hours>>,
}

/// Why a grant or credential does not count now. Displayed for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// It has ended.
    #[error("it expired at {}", .0.to_rfc3339_seconds())]
    Expired(Timestamp),
    /// It has ended, as far as the host knows; its clock was set back since.
    #[error(
        "it expired at {}, and the host's clock was set back since; if that time had been wrong, an \
         administrator accepts the clock", .0.to_rfc3339_seconds()
    )]
    ExpiredBefore(Timestamp),
    /// The time of day is not known, because the clock was set back.
    #[error(
        "it counts at certain hours, and the host's clock is behind an earlier time; an administrator has to \
         correct or accept the clock"
    )]
    ClockBehind,
    /// It is another time of day.
    #[error("it counts at {hours}{}", next.map(|next| format!(", next from {} on", next.to_rfc3339_seconds())).unwrap_or_default())]
    OutsideHours {
        /// The hours as written.
        hours: Arc<Hours>,
        /// When they begin next.
        next: Option<Timestamp>,
    },
}

impl TimeLimits {
    /// Whether something with these limits counts at this time.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, time: TimeAtDecision) -> Result<(), NotNow> {
        if let Some(expires) = self.expires {
            if expires <= time.now {
                return Err(NotNow::Expired(expires));
            }
            if expires <= time.not_before() {
                return Err(NotNow::ExpiredBefore(expires));
            }
        }
        let Some(hours) = &self.hours else { return Ok(()) };
        if time.is_behind() {
            return Err(NotNow::ClockBehind);
        }
        match hours.contain(time.now) {
            true => Ok(()),
            false => Err(NotNow::OutsideHours { hours: hours.clone(), next: hours.next_start(time.now) }),
        }
    }

    /// The longest lifetime, up to `longest`, that does not outlast the expiry. Rounded down to a second where the
    /// expiry shortens it, to at least 1 s.
    pub fn cap(&self, longest: Duration, now: Timestamp) -> Duration {
        let Some(expires) = self.expires else { return longest };
        let remaining = Duration::from_secs(expires.since(now).as_secs().max(1));
        longest.min(remaining)
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.expires.is_some() || self.hours.is_some()
    }
}

/// Checks the two keys of a table and appends their faults.
pub(super) fn validate(
    expires: Option<Spanned<Datetime>>,
    hours: Option<Spanned<String>>,
    source: &SourceFile,
    faults: &mut Vec<Diagnostic>,
) -> TimeLimits {
    let expires = expires.and_then(|expires| {
        let moment = moment(*expires.get_ref());
        if moment.is_none() {
            let message = "expires must be a date, which counts until its end in UTC, such as 2027-03-31, or a \
                           date and time with its offset, such as 2027-03-31T18:00:00+02:00";
            faults.push(source.diagnostic(expires.span(), message));
        }
        moment
    });
    let hours = hours.and_then(|hours| match Hours::parse(hours.get_ref()) {
        Ok(parsed) => Some(Arc::new(parsed)),
        Err(e) => {
            faults.push(source.diagnostic(hours.span(), e.to_string()));
            None
        }
    });
    TimeLimits { expires, hours }
}

/// The end of a day, or a moment with an offset.
fn moment(written: Datetime) -> Option<Timestamp> {
    match (written.date, written.time, written.offset) {
        (Some(date), None, None) => end_of_day_utc(date.year, date.month, date.day),
        (Some(_), Some(_), Some(Offset::Z | Offset::Custom { .. })) => parse_rfc3339(&written.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn at(now: Timestamp) -> TimeAtDecision {
        TimeAtDecision { now, latest: now }
    }

    #[test]
    fn an_expired_limit_stays_so_when_the_clock_is_set_back() {
        let limits = TimeLimits { expires: Some(NOW), hours: None };
        assert_eq!(limits.check(at(NOW.before(Duration::from_secs(1)))), Ok(()));
        assert_eq!(limits.check(at(NOW)), Err(NotNow::Expired(NOW)));
        let set_back = TimeAtDecision { now: NOW.before(HOUR * 24 * 365), latest: NOW };
        let refused = limits.check(set_back).unwrap_err();
        assert_eq!(refused, NotNow::ExpiredBefore(NOW));
        assert!(refused.to_string().contains("set back"), "{refused}");
    }

    #[test]
    fn hours_need_a_clock_that_is_not_behind() {
        // NOW is a Friday, 08:00 UTC.
        let limits =
            TimeLimits { expires: None, hours: Some(Arc::new(Hours::parse("Fri 08:00-09:00 UTC").unwrap())) };
        assert_eq!(limits.check(at(NOW)), Ok(()));
        let refused = limits.check(at(NOW.after(HOUR))).unwrap_err().to_string();
        assert_eq!(refused, "it counts at Fri 08:00-09:00 UTC, next from 2027-01-22T08:00:00Z on");
        let set_back = TimeAtDecision { now: NOW, latest: NOW.after(HOUR) };
        assert_eq!(limits.check(set_back), Err(NotNow::ClockBehind));
    }

    #[test]
    fn a_token_does_not_outlast_the_expiry() {
        let limits = TimeLimits { expires: Some(NOW), hours: None };
        assert_eq!(limits.cap(HOUR, NOW.before(HOUR * 2)), HOUR);
        assert_eq!(limits.cap(HOUR, NOW.before(Duration::from_millis(9500))), Duration::from_secs(9));
        assert_eq!(limits.cap(HOUR, NOW.before(Duration::from_millis(1))), Duration::from_secs(1));
        assert_eq!(TimeLimits::default().cap(HOUR, NOW), HOUR);
    }
}

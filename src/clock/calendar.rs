//! Dates that administrators write.

use std::time::Duration;

use super::timestamp::Timestamp;

/// The end of a day of the calendar in UTC: the start of the next day. `None` if there is no such day.
pub fn end_of_day_utc(year: u16, month: u8, day: u8) -> Option<Timestamp> {
    // The parser knows the lengths of months.
    let start = parse_rfc3339(&format!("{year:04}-{month:02}-{day:02}T00:00:00Z"))?;
    Some(start.after(Duration::from_secs(24 * 3600)))
}

/// The moment that a date-time with an offset names (RFC 3339). `None` if it names none. Times before 1970
/// count as 1970.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp(u64::try_from(time.as_microsecond()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_end_at_midnight_utc() {
        let end = |year, month, day| end_of_day_utc(year, month, day).map(Timestamp::to_rfc3339_seconds);
        assert_eq!(end(2027, 3, 31).as_deref(), Some("2027-04-01T00:00:00Z"));
        assert_eq!(end(2028, 2, 29).as_deref(), Some("2028-03-01T00:00:00Z"));
        assert_eq!((end(2027, 2, 29), end(2027, 13, 1), end(2027, 1, 0)), (None, None, None));
        assert_eq!(end_of_day_utc(1969, 12, 1), Some(Timestamp::from_secs(24 * 3600)), "counts as 1970");
    }

    #[test]
    fn offsets_are_observed() {
        let secs = |text| parse_rfc3339(text).map(Timestamp::as_secs);
        assert_eq!(secs("2027-03-31T18:00:00+02:00"), secs("2027-03-31T16:00:00Z"));
        assert_eq!(secs("1970-01-01T00:00:01.5Z"), Some(1));
        assert_eq!(secs("2027-03-31T18:00:00"), None, "no offset");
    }
}

//! Times of day in a named time zone, with daylight saving.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::timestamp::Timestamp;

/// The host's time zone database (package tzdata).
const ZONE_DIR: &str = "/usr/share/zoneinfo";
/// Length of the longest name of a zone, in bytes.
const MAX_NAME_LEN: usize = 64;

/// A time zone of the IANA database, such as `Europe/Berlin`, with the rules that the host had when the zone
/// was read; or UTC, which needs no database. Displayed as its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    name: Box<str>,
    zone: TimeZone,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// What a clock on the wall of a zone shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// The day of the week.
    pub weekday: Weekday,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
}

/// A name is not that of a zone of this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{}\" is no time zone of this host; use a name below /usr/share/zoneinfo, such as \"Europe/Berlin\", or \
     \"UTC\", and install the package tzdata if that directory is missing", .0.escape_debug()
)]
pub struct UnknownZone(String);

impl Zone {
    /// Coordinated Universal Time.
    pub fn utc() -> Zone {
        Zone { name: "UTC".into(), zone: TimeZone::UTC }
    }

    /// Reads the zone of this name. Blocking.
    ///
    /// # Errors
    /// The host's database has no such zone.
    pub fn read(name: &str) -> Result<Zone, UnknownZone> {
        if name == "UTC" {
            return Ok(Zone::utc());
        }
        let unknown = || UnknownZone(name.chars().take(MAX_NAME_LEN).collect());
        // The library compares names without regard to case; a name is written as the database writes it.
        let path = Path::new(ZONE_DIR).join(name);
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+');
        if name.len() > MAX_NAME_LEN || !name.bytes().all(is_name) || name.starts_with('/') || !path.is_file()
        {
            return Err(unknown());
        }
        let zone = database().and_then(|database| database.get(name).ok()).ok_or_else(unknown)?;
        Ok(Zone { name: name.into(), zone })
    }

    /// What a clock in this zone shows at `time`. Times that the calendar does not have, after the year 9999,
    /// count as its last one.
    pub fn local_time(&self, time: Timestamp) -> LocalTime {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
        let local = self.zone.to_datetime(time);
        LocalTime {
            weekday: match local.weekday() {
                jiff::civil::Weekday::Monday => Weekday::Monday,
                jiff::civil::Weekday::Tuesday => Weekday::Tuesday,
                jiff::civil::Weekday::Wednesday => Weekday::Wednesday,
                jiff::civil::Weekday::Thursday => Weekday::Thursday,
                jiff::civil::Weekday::Friday => Weekday::Friday,
                jiff::civil::Weekday::Saturday => Weekday::Saturday,
                jiff::civil::Weekday::Sunday => Weekday::Sunday,
            },
            hour: u8::try_from(local.hour()).unwrap_or(0),
            minute: u8::try_from(local.minute()).unwrap_or(0),
        }
    }
}

/// The host's database, which is listed once: thousands of agents may name zones. It reads a zone again when
/// that is older than some minutes.
fn database() -> Option<&'static TimeZoneDatabase> {
    static DATABASE: OnceLock<TimeZoneDatabase> = OnceLock::new();
    match DATABASE.get() {
        Some(database) => Some(database),
        None => {
            let database = TimeZoneDatabase::from_dir(ZONE_DIR).ok()?;
            Some(DATABASE.get_or_init(|| database))
        }
    }
}

impl Default for Zone {
    fn default() -> Zone {
        Zone::utc()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Weekday {
    /// All days, from Monday on.
    pub const ALL: [Weekday; 7] = [
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
        Weekday::Sunday,
    ];

    /// `Mon` to `Sun`.
    pub fn as_str(self) -> &'static str {
        match self {
            Weekday::Monday => "Mon",
            Weekday::Tuesday => "Tue",
            Weekday::Wednesday => "Wed",
            Weekday::Thursday => "Thu",
            Weekday::Friday => "Fri",
            Weekday::Saturday => "Sat",
            Weekday::Sunday => "Sun",
        }
    }

    /// The day with this name, `Mon` to `Sun`.
    pub fn from_name(name: &str) -> Option<Weekday> {
        Weekday::ALL.into_iter().find(|day| day.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since 1970 of moments around the changes of 2026 in Europe: 29 March and 25 October, 01:00 UTC.
    #[test]
    fn daylight_saving_begins_and_ends_at_the_right_second() {
        let berlin = Zone::read("Europe/Berlin").unwrap();
        let show = |zone: &Zone, secs| {
            let LocalTime { weekday, hour, minute } = zone.local_time(Timestamp::from_secs(secs));
            format!("{} {hour:02}:{minute:02}", weekday.as_str())
        };
        let (spring, autumn) = (1_774_746_000, 1_792_890_000);
        assert_eq!(show(&Zone::utc(), spring), "Sun 01:00");
        assert_eq!(
            (show(&berlin, spring - 1), show(&berlin, spring)),
            ("Sun 01:59".into(), "Sun 03:00".into())
        );
        assert_eq!(
            (show(&berlin, autumn - 1), show(&berlin, autumn)),
            ("Sun 02:59".into(), "Sun 02:00".into())
        );
        assert_eq!(show(&Zone::utc(), 0), "Thu 00:00");
        assert_eq!(show(&berlin, u64::MAX), show(&berlin, u64::MAX / 2));
    }

    #[test]
    fn zones_that_the_host_does_not_have_are_errors() {
        let long = "a/".repeat(100);
        for name in
            ["", "Europe/Atlantis", "europe/berlin", "../../../etc/passwd", "/etc/localtime", &long, "a\0b"]
        {
            let error = Zone::read(name).unwrap_err().to_string();
            assert!(error.contains("is no time zone of this host") && error.len() < 300, "{error}");
        }
        assert_eq!(Zone::read("UTC").unwrap().to_string(), "UTC");
    }
}

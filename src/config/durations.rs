//! Durations: how people write them, and deserializers with bounds.

use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// `"1y"` as humantime parses it: 365.25 days.
pub(super) const YEAR: Duration = Duration::from_secs(31_557_600);

/// A duration as a person writes it: a number of whole seconds, or a number with a unit such as `90s` or
/// `5m`. Files, requests and options have the same rule.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    humantime::parse_duration(text).ok()
}

/// A duration in a file, not yet parsed: a text, or a number of whole seconds without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDuration(String);

impl RawDuration {
    /// The duration; `None` if the text is none.
    pub fn parse(&self) -> Option<Duration> {
        parse_duration(&self.0)
    }
}

impl<'de> Deserialize<'de> for RawDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawDuration, D::Error> {
        struct TextOrNumber;

        impl Visitor<'_> for TextOrNumber {
            type Value = RawDuration;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a duration like \"5m\" or a number of seconds")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawDuration, E> {
                Ok(RawDuration(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, seconds: i64) -> Result<RawDuration, E> {
                Ok(RawDuration(seconds.to_string()))
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<RawDuration, E> {
                Ok(RawDuration(seconds.to_string()))
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

/// A duration from 1 ns to 24 h, such as `"5s"`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, Duration::from_nanos(1), DAY, "from \"1ns\" to \"24h\", such as \"5s\"")
}

/// A duration from 100 ms to 1 h, such as `"1500ms"`: more frequent probes would leave a slow TPM no time for
/// requests.
pub(super) fn probe_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(
        deserializer,
        Duration::from_millis(100),
        HOUR,
        "from \"100ms\" to \"1h\", such as \"1500ms\"",
    )
}

/// A duration from 1 s to 1 y, such as `"30d"`.
pub(super) fn long_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, Duration::from_secs(1), YEAR, "from \"1s\" to \"1y\", such as \"30d\"")
}

/// As [`long_duration`], for a key whose default depends on others.
pub(super) fn optional_long_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    long_duration(deserializer).map(Some)
}

/// A duration from `min` to `max`; `accepted` says so.
pub(super) fn bounded_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
    min: Duration,
    max: Duration,
    accepted: &str,
) -> Result<Duration, D::Error> {
    let raw = RawDuration::deserialize(deserializer)?;
    match raw.parse() {
        Some(d) if d >= min && d <= max => Ok(d),
        _ => Err(D::Error::custom(format!("\"{}\" must be a duration {accepted}", raw.0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct TestSection {
        ttl: RawDuration,
    }

    #[test]
    fn a_number_without_a_unit_is_in_seconds() {
        for (text, seconds) in [("10", Some(10)), ("10s", Some(10)), ("5m", Some(300)), ("0", Some(0))] {
            assert_eq!(parse_duration(text), seconds.map(Duration::from_secs), "{text}");
        }
        for text in ["", "-5", "+5", "5.5", "ten", "1e3", "99999999999999999999", " 5"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["ttl = 10", "ttl = \"10\"", "ttl = \"10s\""] {
            let section: TestSection = toml::from_str(text).unwrap();
            assert_eq!(section.ttl.parse(), Some(Duration::from_secs(10)), "{text}");
        }
        assert_eq!(toml::from_str::<TestSection>("ttl = -10").unwrap().ttl.parse(), None);
        assert!(toml::from_str::<TestSection>("ttl = 1.5").is_err());
    }
}

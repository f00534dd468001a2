//! Deserializers of durations, each with its bounds.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// `"1y"` as humantime parses it: 365.25 days.
pub(super) const YEAR: Duration = Duration::from_secs(31_557_600);

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

/// A duration from `min` to `max`; `accepted` says so.
pub(super) fn bounded_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
    min: Duration,
    max: Duration,
    accepted: &str,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    match humantime::parse_duration(&text) {
        Ok(d) if d >= min && d <= max => Ok(d),
        _ => Err(serde::de::Error::custom(format!("\"{text}\" must be a duration {accepted}"))),
    }
}

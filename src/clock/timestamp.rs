//! Points in time.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// How long before its creation a certificate, revocation list, token or statement of this host is valid: a
/// relying party whose clock is behind by less accepts it at once, with no leeway of its own.
pub const BACKDATE: Duration = Duration::from_secs(10);

/// The last time that RFC 3339 can write.
const MAX_RFC3339_MICROS: u64 = 253_402_300_799_999_999;

/// A point in time, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub(super) u64);

impl Timestamp {
    /// The time `secs` seconds after the epoch; saturates.
    pub const fn from_secs(secs: u64) -> Self {
        Timestamp(secs.saturating_mul(1_000_000))
    }

    /// Seconds since the epoch, rounded down, as JWT's NumericDate (RFC 7519, section 2).
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Seconds since the epoch with their fraction.
    pub fn as_secs_f64(self) -> f64 {
        Duration::from_micros(self.0).as_secs_f64()
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time that is so many microseconds after the epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Timestamp(micros)
    }

    /// The time `duration` later; saturates at the last representable one.
    pub const fn after(self, duration: Duration) -> Timestamp {
        // Microseconds beyond u64 exceed any representable time.
        let micros = duration.as_micros();
        Timestamp(self.0.saturating_add(if micros > u64::MAX as u128 { u64::MAX } else { micros as u64 }))
    }

    /// The time [`BACKDATE`] earlier, from which a certificate or token that is made now is valid.
    pub const fn backdated(self) -> Timestamp {
        Timestamp::from_secs(self.as_secs().saturating_sub(BACKDATE.as_secs()))
    }

    /// The time `duration` earlier; saturates at 1970.
    pub const fn before(self, duration: Duration) -> Timestamp {
        let micros = duration.as_micros();
        Timestamp(self.0.saturating_sub(if micros > u64::MAX as u128 { u64::MAX } else { micros as u64 }))
    }

    /// This time rounded up to a whole second, for times stored in seconds that must not become earlier.
    pub const fn ceil_to_second(self) -> Timestamp {
        Timestamp::from_secs(self.0.div_ceil(1_000_000))
    }

    /// RFC 3339 in UTC, in whole seconds.
    pub fn to_rfc3339_seconds(self) -> String {
        let time = UNIX_EPOCH + Duration::from_micros(self.0.min(MAX_RFC3339_MICROS));
        humantime::format_rfc3339_seconds(time).to_string()
    }

    /// The time elapsed since `earlier`; zero if the clock was set back.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Time since the host booted (`CLOCK_BOOTTIME`), for measuring ages. The clock cannot be set and, unlike
/// [`std::time::Instant`], includes time in suspend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub(super) Duration);

impl BootTime {
    /// The current time.
    pub fn now() -> BootTime {
        // All supported kernels have this clock.
        BootTime(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }

    /// The time `duration` later; saturates.
    pub fn after(self, duration: Duration) -> BootTime {
        BootTime(self.0.saturating_add(duration))
    }

    /// Microseconds; saturates.
    pub fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }

    /// Whole seconds.
    pub fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// The time elapsed since `earlier`; zero if that is later.
    pub fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// RFC 3339 in UTC with microseconds. The format's years have four digits, so later times, which a damaged
/// file may hold, are displayed as the last of 9999.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(self.0.min(MAX_RFC3339_MICROS)))
            .fmt(f)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// RFC 3339 in UTC, as [`Timestamp`] is written.
impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)?;
        let micros = time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros());
        Ok(Timestamp(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time namespace with an offset of CLOCK_BOOTTIME simulates a long suspend.
    #[test]
    fn boot_time_includes_suspend() {
        const CHILD_ENV: &str = "HOSTBADGE_TEST_SUSPENDED";
        const OFFSET_SECS: u64 = 1_000_000;
        if let Ok(before) = std::env::var(CHILD_ENV) {
            let before = BootTime(Duration::from_secs(before.parse().unwrap()));
            assert!(BootTime::now().since(before) >= Duration::from_secs(OFFSET_SECS - 1));
            return;
        }
        let output = std::process::Command::new("unshare")
            .args(["--map-root-user", "--time", "--boottime", &OFFSET_SECS.to_string(), "--fork", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "clock::timestamp::tests::boot_time_includes_suspend"])
            .env(CHILD_ENV, BootTime::now().0.as_secs().to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    }

    #[test]
    fn timestamps_saturate_at_the_maximum() {
        let last = Timestamp::from_secs(u64::MAX).after(Duration::MAX);
        assert_eq!(last.to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp(1_000_001).ceil_to_second(), Timestamp::from_secs(2));
        assert_eq!(
            Timestamp(1_000_000).ceil_to_second().after(Duration::from_secs(4)),
            Timestamp::from_secs(5)
        );
    }

    #[test]
    fn timestamp_is_read_as_it_is_written() {
        for timestamp in [Timestamp(0), Timestamp(1_000_001), Timestamp(253_402_300_799_999_999)] {
            let text = serde_json::to_string(&timestamp).unwrap();
            assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), timestamp, "{text}");
        }
        assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
    }

    #[test]
    fn since_is_zero_after_clock_went_back() {
        assert_eq!(Timestamp::from_secs(5).since(Timestamp::from_secs(9)), Duration::ZERO);
    }
}

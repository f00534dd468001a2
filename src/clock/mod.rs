//! Time as a parameter.
//!
//! Code that depends on the time of day takes a [`Clock`], which tests advance instead of sleeping. Whether
//! the time can be right is a [`ClockSync`] and a [`ClockState`].

mod calendar;
mod expiring_count;
mod manual;
mod settled;
mod source;
mod state;
mod sync;
mod timestamp;
mod zone;

use std::time::Duration;

pub use calendar::{end_of_day_utc, parse_rfc3339};
pub use expiring_count::ExpiringCount;
pub use manual::ManualClock;
pub use settled::SettledClock;
pub use source::{Clock, ClockQuality};
pub use state::{ClockChange, ClockState, TimeAtDecision};
pub use sync::ClockSync;
pub use timestamp::{BACKDATE, BootTime, Timestamp};
pub use zone::{LocalTime, UnknownZone, Weekday, Zone};

/// The part of `max` that `seed` selects: zero for 0, `max` for [`u32::MAX`]. Renewals and retries are
/// shifted by a jitter, so that processes and hosts that started together do not act in lockstep.
pub(crate) fn jitter(max: Duration, seed: u32) -> Duration {
    max.mul_f64(f64::from(seed) / f64::from(u32::MAX))
}

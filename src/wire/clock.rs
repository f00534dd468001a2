//! The host's clock: `GET /v1/clock`, `POST /v1/clock/accept`, and a member of status.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::{self, Timestamp};

/// Whether the kernel regards the host's clock as synchronized with a source of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClockSync {
    /// A time service keeps it right.
    Synchronized,
    /// No time service has set it since the boot, since it was set by hand, or for hours.
    Unsynchronized,
    /// The kernel does not say.
    Unknown,
}

/// The host's clock, and what contradicts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClockStatus {
    /// The daemon's time.
    pub time: Timestamp,
    /// Whether the clock is synchronized.
    pub sync: ClockSync,
    /// Whether the configuration requires that: then nothing is issued while it is not.
    pub required: bool,
    /// Whether an administrator said that the clock is right, since it was last set.
    pub accepted: bool,
    /// A later time that the clock has had already, if it is behind that by more than 5 minutes: grants with
    /// hours do not count meanwhile, and those that had expired stay so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<Timestamp>,
    /// Certificates that were issued while the clock was ahead, if it is right now.
    pub future_certificates: usize,
    /// Keys that were published, activated or retired while the clock was ahead, if it is right now.
    pub future_keys: usize,
}

impl From<clock::ClockSync> for ClockSync {
    fn from(sync: clock::ClockSync) -> ClockSync {
        match sync {
            clock::ClockSync::Synchronized => ClockSync::Synchronized,
            clock::ClockSync::Unsynchronized => ClockSync::Unsynchronized,
            clock::ClockSync::Unknown => ClockSync::Unknown,
        }
    }
}

impl fmt::Display for ClockSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClockSync::Synchronized => "synchronized",
            ClockSync::Unsynchronized => "not synchronized",
            ClockSync::Unknown => "the kernel does not say whether it is synchronized",
        })
    }
}

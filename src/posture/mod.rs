//! Is the host itself: the third step of the road.
//!
//! This release measures nothing yet and says so: every token, record and health answer carries `off`, so that a
//! relying party can tell an unmeasured host from a measured one.

mod boot_log;
mod explain;

use std::fmt;

use serde::Serialize;

pub use boot_log::BootLog;
pub use explain::{Pcrs, changed, explain};

/// What is known of the host's integrity at the moment of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Posture {
    /// Not measured.
    Off,
}

impl Posture {
    /// The host's posture now.
    pub fn now() -> Posture {
        Posture::Off
    }
}

impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("off")
    }
}

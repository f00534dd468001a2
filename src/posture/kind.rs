//! The result of comparing the host with its baseline.

use std::fmt;

use serde::Serialize;

/// The integrity of the host at the moment of a decision. In JSON and in messages it is one lower-case word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Posture {
    /// The posture is not evaluated: neither the configuration nor a grant depends on it.
    Off,
    /// The compared PCRs are those of the accepted baseline.
    Accepted,
    /// A compared PCR differs from the accepted baseline.
    Changed,
    /// No administrator has accepted a baseline that has all compared PCRs.
    Unaccepted,
    /// The last reading of the PCRs is older than `posture.max_age`, or there was none.
    Stale,
}

impl Posture {
    /// The word, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Posture::Off => "off",
            Posture::Accepted => "accepted",
            Posture::Changed => "changed",
            Posture::Unaccepted => "unaccepted",
            Posture::Stale => "stale",
        }
    }
}

impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! The state of the host, as both sockets report it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether the daemon does everything that it is configured to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Tokens and SVIDs are issued, sealed credentials are released, and the TPM is ready.
    Ok,
    /// Nothing is issued, no sealed credential is released, or the TPM is not ready. `hostbadge status` gives
    /// the reason.
    Degraded,
}

/// What the TPM is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TpmKind {
    /// A chip, or firmware that the manufacturer certifies.
    Hardware,
    /// A program, such as swtpm.
    Software,
}

/// The host's measured state, compared with the baseline that an administrator accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Posture {
    /// Posture is not evaluated.
    Off,
    /// The compared PCRs equal the accepted baseline.
    Accepted,
    /// At least one compared PCR differs from the accepted baseline.
    Changed,
    /// No administrator has accepted a baseline.
    Unaccepted,
    /// The last reading of the PCRs is older than `posture.max_age`.
    Stale,
}

/// The effect that the host's posture has on what is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PostureMode {
    /// Posture has no effect.
    Off,
    /// A posture other than `accepted` is logged.
    Warn,
    /// Nothing is issued unless the posture is `accepted`.
    Enforce,
}

impl fmt::Display for TpmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TpmKind::Hardware => "hardware",
            TpmKind::Software => "software",
        })
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Ok => "ok",
            Health::Degraded => "degraded",
        })
    }
}

impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Posture::Off => "off",
            Posture::Accepted => "accepted",
            Posture::Changed => "changed",
            Posture::Unaccepted => "unaccepted",
            Posture::Stale => "stale",
        })
    }
}

impl fmt::Display for PostureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostureMode::Off => "off",
            PostureMode::Warn => "warn",
            PostureMode::Enforce => "enforce",
        })
    }
}

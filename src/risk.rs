//! Risk classes of keys, and the longest time for which a key of each class is in use.

use std::time::Duration;

use serde::Deserialize;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How much depends on a key, and how exposed it is. The longest intervals are those of NIST IR 8587 (initial public
/// draft, December 2025).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskClass {
    /// A key that signs for several organizations.
    High,
    /// A key in memory that signs for one organization.
    Moderate,
    /// A key that never leaves the TPM, that only encrypts, or of a host in its owner's own premises.
    Low,
}

impl RiskClass {
    /// The longest time for which a key of this class is in use: 2 weeks, 3 months or 1 year.
    pub const fn max_interval(self) -> Duration {
        match self {
            RiskClass::High => Duration::from_secs(14 * DAY.as_secs()),
            RiskClass::Moderate => Duration::from_secs(92 * DAY.as_secs()),
            // "1y" in the configuration file: 365.25 days.
            RiskClass::Low => Duration::from_secs(31_557_600),
        }
    }

    /// The same in the form of the configuration file.
    pub fn max_interval_text(self) -> &'static str {
        match self {
            RiskClass::High => "14d",
            RiskClass::Moderate => "92d",
            RiskClass::Low => "1y",
        }
    }

    /// The name in the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            RiskClass::High => "high",
            RiskClass::Moderate => "moderate",
            RiskClass::Low => "low",
        }
    }
}

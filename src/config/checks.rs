//! What values may be: each check gives the mend.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{CertificatesSection, KeysSection, LimitsSection, SealSection};

const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// As humantime reads `"1y"`: 365.25 days.
pub(super) const YEAR: Duration = Duration::from_secs(31_557_600);

/// SPIFFE-ID section 2.1: lower-case letters, digits, dots, dashes, underscores.
pub(super) fn check_trust_domain(domain: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    if domain.is_empty() || domain.len() > 80 || !domain.chars().all(is_allowed) {
        return Err(
            "trust_domain is a name like \"example.org\": a-z 0-9 . - _, at most 80 characters".into()
        );
    }
    Ok(())
}

/// OpenID Connect Discovery section 3: https, no query, no fragment; relying parties refuse a port.
pub(super) fn check_issuer(issuer: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '"' | '\\' | '<' | '>' | '@');
    match issuer.strip_prefix("https://") {
        Some(rest)
            if !rest.is_empty()
                && !rest.ends_with('/')
                && issuer.len() <= 255
                && rest.chars().all(is_allowed) =>
        {
            Ok(())
        }
        _ => Err(
            "issuer is an https URL without query, fragment or final slash, like \"https://id.example.org\""
                .into(),
        ),
    }
}

pub(super) fn check_keys(keys: &KeysSection) -> Vec<String> {
    let mut errors = Vec::new();
    if keys.rotate_every < HOUR || keys.rotate_every > YEAR {
        errors.push("keys.rotate_every is from \"1h\" to \"1y\"; \"30d\" is usual".into());
    }
    if keys.publish_before >= keys.rotate_every {
        errors.push(
            "keys.publish_before is shorter than keys.rotate_every, or no key would ever be in time".into(),
        );
    }
    errors
}

pub(super) fn check_certificates(certificates: &CertificatesSection) -> Vec<String> {
    match certificates.ttl < Duration::from_secs(60) || certificates.ttl > DAY {
        true => vec!["certificates.ttl is from \"1m\" to \"24h\"; \"1h\" is usual".into()],
        false => Vec::new(),
    }
}

/// In their order, since that is how the TPM takes them.
pub(super) fn check_seal(seal: &SealSection) -> Vec<String> {
    let mut errors = Vec::new();
    if seal.pcrs.iter().any(|n| *n > 15) || seal.pcrs.windows(2).any(|two| two[0] >= two[1]) {
        errors.push(
            "seal.pcrs are numbers from 0 to 15, each once, in their order, such as [0, 2, 4, 7]".into(),
        );
    }
    if seal.pcrs.contains(&10) {
        errors.push(
            "PCR 10 changes for as long as IMA measures, and what is sealed to it never opens again".into(),
        );
    }
    errors
}

pub(super) fn check_limits(limits: &LimitsSection) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, value) in [
        ("rate", limits.rate),
        ("burst", limits.burst),
        ("stranger_rate", limits.stranger_rate),
        ("stranger_burst", limits.stranger_burst),
        ("tpm_rate", limits.tpm_rate),
        ("tpm_burst", limits.tpm_burst),
    ] {
        if value == 0 || value > 10_000_000 {
            errors.push(format!("limits.{name} is {value}; give 1 to 10000000"));
        }
    }
    for (name, value) in
        [("connections", limits.connections), ("connections_per_uid", limits.connections_per_uid)]
    {
        if value == 0 || value > 100_000 {
            errors.push(format!("limits.{name} is {value}; give 1 to 100000"));
        }
    }
    errors
}

/// `"5s"`, `"250ms"`: more than nothing, at most a day.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, Duration::from_nanos(1), DAY, "\"5s\" or \"250ms\"")
}

/// `"1500ms"`, `"1m"`: a TPM that is asked more often has time for nothing else.
pub(super) fn probe_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(
        deserializer,
        Duration::from_millis(100),
        HOUR,
        "\"1500ms\" or \"1m\", from \"100ms\" to \"1h\"",
    )
}

/// `"30d"`, `"24h"`: a second to a year.
pub(super) fn long_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, Duration::from_secs(1), YEAR, "\"30d\" or \"24h\"")
}

fn bounded_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
    min: Duration,
    max: Duration,
    example: &str,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    match humantime::parse_duration(&text) {
        Ok(d) if d >= min && d <= max => Ok(d),
        _ => Err(serde::de::Error::custom(format!("\"{text}\" is no duration; give one like {example}"))),
    }
}

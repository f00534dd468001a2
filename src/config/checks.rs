//! Checks of configuration values; each message says what is accepted.

use std::time::Duration;

use super::durations::{DAY, HOUR};
use super::sections::{CertificatesSection, KeysSection, LimitsSection, SealSection, TokensSection};

/// SPIFFE-ID section 2.1: lower-case letters, digits, dots, dashes and underscores; at most 80
/// characters.
pub(super) fn check_trust_domain(domain: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    if domain.is_empty() || domain.len() > 80 || !domain.chars().all(is_allowed) {
        return Err(
            "trust_domain must be a name like \"example.org\": a-z 0-9 . - _, at most 80 characters".into()
        );
    }
    Ok(())
}

/// OpenID Connect Discovery section 3: an https URL without query or fragment; at most 255 characters.
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
        _ => Err("issuer must be an https URL without query, fragment or final slash, like \
             \"https://id.example.org\""
            .into()),
    }
}

pub(super) fn check_keys(keys: &KeysSection) -> Vec<String> {
    let mut errors = Vec::new();
    let (rotate_every, risk) = (keys.rotate_every(), keys.risk);
    if rotate_every < HOUR {
        errors.push("keys.rotate_every must be at least \"1h\"; the default is \"30d\"".into());
    }
    if rotate_every > risk.max_interval() {
        errors.push(format!(
            "keys.rotate_every must be at most \"{}\" with keys.risk = \"{}\" (NIST IR 8587); the class \"low\", for \
             hosts of one organization in its own premises, allows \"1y\"",
            risk.max_interval_text(),
            risk.name()
        ));
    }
    if keys.rotate_encryption_every < DAY {
        errors
            .push("keys.rotate_encryption_every must be from \"1d\" to \"1y\"; the default is \"1y\"".into());
    }
    if keys.rotate_rsa_every < DAY {
        errors.push("keys.rotate_rsa_every must be from \"1d\" to \"1y\"; the default is \"1y\"".into());
    }
    if keys.publish_before >= keys.rotate_rsa_every {
        errors.push("keys.rotate_rsa_every must be longer than keys.publish_before".into());
    }
    if keys.publish_before >= rotate_every {
        errors.push(
            "keys.publish_before must be shorter than keys.rotate_every, so that a key is published before \
             it signs"
                .into(),
        );
    }
    errors
}

pub(super) fn check_tokens(tokens: &TokensSection) -> Vec<String> {
    let ttl = tokens.status_list_ttl;
    if ttl < Duration::from_secs(10) || ttl > HOUR || ttl.subsec_nanos() != 0 {
        let message =
            "tokens.status_list_ttl must be from \"10s\" to \"1h\", in whole seconds; the default is \"5m\"";
        return vec![message.into()];
    }
    Vec::new()
}

pub(super) fn check_certificates(certificates: &CertificatesSection) -> Vec<String> {
    if certificates.ttl < Duration::from_secs(60) || certificates.ttl > DAY {
        return vec!["certificates.ttl must be from \"1m\" to \"24h\"; the default is \"1h\"".into()];
    }
    Vec::new()
}

/// PCRs 0 to 15 without 10, ascending, as the TPM module requires them.
pub(super) fn check_seal(seal: &SealSection) -> Vec<String> {
    let mut errors = Vec::new();
    if seal.pcrs.iter().any(|n| *n > 15) || seal.pcrs.windows(2).any(|two| two[0] >= two[1]) {
        errors.push(
            "seal.pcrs must be numbers from 0 to 15, each once, in ascending order, such as [0, 2, 4, 7]"
                .into(),
        );
    }
    if seal.pcrs.contains(&10) {
        errors.push(
            "seal.pcrs: PCR 10 changes with every file that IMA measures, so keys sealed to it cannot be \
             unsealed; leave it out"
                .into(),
        );
    }
    errors
}

pub(super) fn check_limits(limits: &LimitsSection) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, value) in [
        ("rate", limits.rate),
        ("burst", limits.burst),
        ("unknown_rate", limits.unknown_rate),
        ("unknown_burst", limits.unknown_burst),
        ("public_rate", limits.public_rate),
        ("public_burst", limits.public_burst),
        ("tpm_rate", limits.tpm_rate),
        ("tpm_burst", limits.tpm_burst),
    ] {
        if value == 0 || value > 10_000_000 {
            errors.push(format!("limits.{name} is {value}; it must be from 1 to 10000000"));
        }
    }
    for (name, value) in
        [("connections", limits.connections), ("connections_per_uid", limits.connections_per_uid)]
    {
        if value == 0 || value > 100_000 {
            errors.push(format!("limits.{name} is {value}; it must be from 1 to 100000"));
        }
    }
    errors
}

//! The limits that `[delegate]` and `[run]` have in common: how many sub-agents at once, and for how long.

use std::time::Duration;

use toml::Spanned;

use crate::config::{Diagnostic, RawDuration, SourceFile};

/// How many sub-agents there may be at once, with theirs, if the table does not say it, and at most.
const DEFAULT_MAX: u32 = 16;
pub(super) const MAX_MAX: u32 = 256;
/// The longest time for which a sub-agent exists without being delegated again, if the table does not say it, and at
/// most.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// The key `max` of a table; its fault is appended.
pub(super) fn max(raw: Option<Spanned<u32>>, source: &SourceFile, faults: &mut Vec<Diagnostic>) -> u32 {
    number(raw, "max", DEFAULT_MAX, MAX_MAX, source, faults)
}

/// A key with a number from 1 to `most`; its fault is appended.
pub(super) fn number(
    raw: Option<Spanned<u32>>,
    key: &str,
    default: u32,
    most: u32,
    source: &SourceFile,
    faults: &mut Vec<Diagnostic>,
) -> u32 {
    match raw {
        None => default,
        Some(raw) if (1..=most).contains(raw.get_ref()) => raw.into_inner(),
        Some(raw) => {
            faults.push(source.diagnostic(raw.span(), format!("{key} must be 1 to {most}")));
            default
        }
    }
}

/// The key `ttl` of a table; its fault is appended.
pub(super) fn ttl(
    raw: Option<Spanned<RawDuration>>,
    source: &SourceFile,
    faults: &mut Vec<Diagnostic>,
) -> Duration {
    raw.map_or(DEFAULT_TTL, |raw| match raw.get_ref().parse() {
        Some(ttl) if ttl >= Duration::from_secs(1) && ttl <= MAX_TTL => ttl,
        _ => {
            let message = "ttl must be a duration of at least 1s and at most 24h, like \"1h\"";
            faults.push(source.diagnostic(raw.span(), message));
            DEFAULT_TTL
        }
    })
}

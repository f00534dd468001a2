//! What a secret is, as far as it says so itself.

use super::finding::What;
use crate::clock::Timestamp;
use crate::secrets::{SecretKind, fingerprint};
use crate::verify::unverified_token;

/// A token that a hostbadge issued.
const HOSTBADGE_TOKEN: &str = "hostbadge-token";
/// Characters of an issuer that are shown.
const MAX_ISSUER_LEN: usize = 200;

/// Describes a secret. `own_issuer` is the issuer of this host's tokens.
pub(super) fn describe(kind: SecretKind, value: &[u8], own_issuer: Option<&str>, now: Timestamp) -> What {
    let digest = kind.is_random().then(|| fingerprint(value));
    let what = What { kind: kind.name(), digest, issuer: None, expired: None };
    let token = match kind {
        SecretKind::Jwt => std::str::from_utf8(value).ok().and_then(unverified_token),
        _ => None,
    };
    let Some(token) = token else { return what };
    let is_own = |issuer: &String| own_issuer.is_some_and(|own| is_below(issuer, own));
    let is_hostbadge = token.host.is_some() || token.issuer.as_ref().is_some_and(is_own);
    What {
        kind: if is_hostbadge { HOSTBADGE_TOKEN } else { what.kind },
        issuer: token.issuer.map(|issuer| issuer.chars().take(MAX_ISSUER_LEN).collect()),
        expired: token.expires.map(|expires| expires <= now.as_secs()),
        ..what
    }
}

/// Whether an issuer is this one, or that of one of its tenants.
fn is_below(issuer: &str, own: &str) -> bool {
    issuer.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

//! What an agent may ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use toml::Spanned;

use crate::config::{Diagnostic, PostureMode, SourceFile};

/// No token lives longer, whatever a file says.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(3600);
const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(300);
/// Longest audience and scope.
const MAX_AUDIENCE_OR_SCOPE_LEN: usize = 512;
const MAX_SCOPES: usize = 128;

/// An audience, its scopes and the longest lifetime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    pub audience: String,
    pub scopes: BTreeSet<String>,
    /// In seconds when shown.
    #[serde(serialize_with = "seconds")]
    pub ttl: Duration,
    pub assurance: Assurance,
    pub alg: Algorithm,
    /// What the host's posture leads to; none means what the host's configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posture: Option<PostureMode>,
}

/// Which key signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// The issuing key, in memory, sealed to the TPM at rest.
    #[default]
    Sealed,
    /// The TPM itself.
    Tpm,
}

/// How the tokens of a grant are signed (RFC 7518 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// By an RSA key of the TPM: for relying parties that take nothing else.
    #[serde(rename = "RS256")]
    Rs256,
}

/// A grant as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrant {
    audience: Spanned<String>,
    #[serde(default)]
    scopes: Vec<Spanned<String>>,
    ttl: Option<Spanned<String>>,
    assurance: Option<Spanned<Assurance>>,
    alg: Option<Spanned<Algorithm>>,
    posture: Option<PostureMode>,
}

impl RawGrant {
    pub(super) fn validate(self, source: &SourceFile, faults: &mut Vec<Diagnostic>) -> Grant {
        let (span, audience) = (self.audience.span(), self.audience.into_inner());
        if audience.is_empty()
            || audience.len() > MAX_AUDIENCE_OR_SCOPE_LEN
            || !audience.chars().all(|c| c.is_ascii_graphic())
        {
            faults.push(source.diagnostic(
                span,
                format!(
                    "an audience is 1 to {MAX_AUDIENCE_OR_SCOPE_LEN} visible ASCII characters, as the relying party writes it"
                ),
            ));
        }
        if self.scopes.len() > MAX_SCOPES {
            faults.push(source.diagnostic(
                self.scopes[MAX_SCOPES].span(),
                format!("more than {MAX_SCOPES} scopes in one grant"),
            ));
        }
        let mut scopes = BTreeSet::new();
        for scope in self.scopes {
            let (span, scope) = (scope.span(), scope.into_inner());
            if !is_scope(&scope) {
                faults.push(
                    source.diagnostic(
                        span,
                        "a scope is one word of visible ASCII without quotes or backslashes",
                    ),
                );
            } else if !scopes.insert(scope) {
                faults.push(source.diagnostic(span, "this scope stands here twice; drop one"));
            }
        }
        let ttl = self.ttl.map_or(DEFAULT_TOKEN_TTL, |raw| match humantime::parse_duration(raw.get_ref()) {
            Ok(ttl) if ttl >= Duration::from_secs(1) && ttl <= MAX_TOKEN_TTL => ttl,
            Ok(_) => {
                faults.push(source.diagnostic(raw.span(), "ttl is at least 1s and never above 1h"));
                DEFAULT_TOKEN_TTL
            }
            Err(_) => {
                faults.push(source.diagnostic(raw.span(), "ttl is a duration like \"5m\""));
                DEFAULT_TOKEN_TTL
            }
        });
        let alg = self.alg.as_ref().map_or(Algorithm::Es256, |raw| *raw.get_ref());
        let assurance = match (self.assurance, alg) {
            (Some(raw), Algorithm::Rs256) if *raw.get_ref() == Assurance::Sealed => {
                let message = "alg = \"RS256\" is signed by the TPM itself; drop assurance, or write \"tpm\"";
                faults.push(source.diagnostic(raw.span(), message));
                Assurance::Sealed
            }
            (_, Algorithm::Rs256) => Assurance::Tpm,
            (raw, Algorithm::Es256) => raw.map_or(Assurance::Sealed, Spanned::into_inner),
        };
        Grant { audience, scopes, ttl, assurance, alg, posture: self.posture }
    }
}

/// RFC 6749 section 3.3: scope-token.
pub(crate) fn is_scope(text: &str) -> bool {
    let is_scope_char = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    !text.is_empty() && text.len() <= MAX_AUDIENCE_OR_SCOPE_LEN && text.bytes().all(is_scope_char)
}

fn seconds<S: Serializer>(ttl: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(ttl.as_secs())
}

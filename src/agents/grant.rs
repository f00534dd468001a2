//! What an agent may ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use toml::Spanned;

use crate::config::{Fault, Source};

/// No token lives longer, whatever a file says.
pub const LONGEST_TTL: Duration = Duration::from_secs(3600);
const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// Longest audience and scope.
const LONGEST: usize = 512;
const MOST_SCOPES: usize = 128;

/// An audience, its scopes and the longest lifetime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    pub audience: String,
    pub scopes: BTreeSet<String>,
    /// In seconds when shown.
    #[serde(serialize_with = "seconds")]
    pub ttl: Duration,
    pub assurance: Assurance,
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

/// A grant as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    audience: Spanned<String>,
    #[serde(default)]
    scopes: Vec<Spanned<String>>,
    ttl: Option<Spanned<String>>,
    assurance: Option<Spanned<Assurance>>,
    alg: Option<Spanned<Algorithm>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
enum Algorithm {
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "RS256")]
    Rs256,
}

impl Written {
    pub(super) fn check(self, source: &Source, faults: &mut Vec<Fault>) -> Grant {
        let (at, audience) = (self.audience.span(), self.audience.into_inner());
        if audience.is_empty() || audience.len() > LONGEST || !audience.chars().all(|c| c.is_ascii_graphic())
        {
            faults.push(source.fault(
                at,
                format!(
                    "an audience is 1 to {LONGEST} visible ASCII characters, as the relying party writes it"
                ),
            ));
        }
        if self.scopes.len() > MOST_SCOPES {
            faults.push(source.fault(
                self.scopes[MOST_SCOPES].span(),
                format!("more than {MOST_SCOPES} scopes in one grant"),
            ));
        }
        let mut scopes = BTreeSet::new();
        for scope in self.scopes {
            let (at, scope) = (scope.span(), scope.into_inner());
            if !is_scope(&scope) {
                faults.push(
                    source.fault(at, "a scope is one word of visible ASCII without quotes or backslashes"),
                );
            } else if !scopes.insert(scope) {
                faults.push(source.fault(at, "this scope stands here twice; drop one"));
            }
        }
        let ttl =
            self.ttl.map_or(DEFAULT_TTL, |written| match humantime::parse_duration(written.get_ref()) {
                Ok(ttl) if ttl >= Duration::from_secs(1) && ttl <= LONGEST_TTL => ttl,
                Ok(_) => {
                    faults.push(source.fault(written.span(), "ttl is at least 1s and never above 1h"));
                    DEFAULT_TTL
                }
                Err(_) => {
                    faults.push(source.fault(written.span(), "ttl is a duration like \"5m\""));
                    DEFAULT_TTL
                }
            });
        let not_yet = "this release signs with the sealed issuing key only; drop this line";
        let assurance = self.assurance.map_or(Assurance::Sealed, |written| {
            if *written.get_ref() == Assurance::Tpm {
                faults.push(source.fault(written.span(), format!("assurance = \"tpm\": {not_yet}")));
            }
            written.into_inner()
        });
        if let Some(alg) = self.alg.filter(|alg| *alg.get_ref() == Algorithm::Rs256) {
            faults.push(source.fault(alg.span(), format!("alg = \"RS256\": {not_yet}")));
        }
        Grant { audience, scopes, ttl, assurance }
    }
}

/// RFC 6749 section 3.3: scope-token.
pub(crate) fn is_scope(text: &str) -> bool {
    let fine = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(fine)
}

fn seconds<S: Serializer>(ttl: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(ttl.as_secs())
}

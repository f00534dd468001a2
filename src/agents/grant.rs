//! Grants: which tokens an agent may request.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use toml::Spanned;
use toml::value::Datetime;

use crate::config::{Diagnostic, Key, Kind, PostureMode, RawDuration, SourceFile};

use super::approval_mode::ApprovalMode;
use super::binding::Binding;
use super::proofs::{ProofGrant, RawProofs};
use super::time_limits::{self, EXPIRES_KEY, HOURS_KEY, TimeLimits};

/// Longest lifetime that a grant may allow: 1 hour.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(3600);
/// Lifetime if the grant has no `ttl`: 5 minutes.
const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(300);
/// Length of the longest audience and of the longest scope, in bytes.
const MAX_AUDIENCE_OR_SCOPE_LEN: usize = 512;
/// Scopes of one grant.
const MAX_SCOPES: usize = 128;
/// Grants of one file.
const MAX_GRANTS: usize = 128;

/// Permission to request tokens for one audience.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Relying party that the tokens are for: 1 to 512 visible ASCII characters, compared byte by byte.
    pub audience: String,
    /// Scopes that a token may have (RFC 6749 section 3.3), at most 128; may be empty.
    pub scopes: BTreeSet<String>,
    /// Longest lifetime of a token: 1 second to 1 hour, by default 5 minutes. Serialized in seconds.
    #[serde(serialize_with = "seconds")]
    pub ttl: Duration,
    /// Where the signing key is kept.
    pub assurance: Assurance,
    /// Signature algorithm.
    pub alg: Algorithm,
    /// The `typ` in the header of the tokens.
    pub typ: TokenTyp,
    /// How the host's posture affects the grant; `None` applies the host's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posture: Option<PostureMode>,
    /// Whether the tokens have a status in a status list; `None` applies the host's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_list: Option<bool>,
    /// Whether an administrator has to approve requests for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalMode>,
    /// What its tokens are bound to. Without, a request can choose.
    pub bind: Binding,
    /// The proofs that it gives.
    pub proofs: ProofGrant,
    /// When the grant counts.
    #[serde(skip)]
    pub limits: TimeLimits,
}

/// Where the key that signs a token is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// In memory: the issuing key, which is sealed to the TPM at rest.
    #[default]
    Sealed,
    /// In the TPM, which signs each token: the host key or the RSA key.
    Tpm,
}

/// Signature algorithm of a grant's tokens (RFC 7518 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256 by an RSA key in the TPM, for relying parties that accept no other
    /// algorithm.
    #[serde(rename = "RS256")]
    Rs256,
}

/// The header parameter `typ` of a grant's tokens (RFC 7519 section 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenTyp {
    /// RFC 9068: an access token, and no other kind of JWT.
    #[default]
    #[serde(rename = "at+jwt")]
    AtJwt,
    /// Any JWT, for relying parties that refuse `at+jwt`.
    #[serde(rename = "JWT")]
    Jwt,
}

impl TokenTyp {
    /// The text in the header.
    pub const fn as_str(self) -> &'static str {
        match self {
            TokenTyp::AtJwt => "at+jwt",
            TokenTyp::Jwt => "JWT",
        }
    }
}

/// The table `[[grant]]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrant {
    audience: Option<Spanned<String>>,
    #[serde(default)]
    scopes: Vec<Spanned<String>>,
    ttl: Option<Spanned<RawDuration>>,
    assurance: Option<Spanned<Assurance>>,
    alg: Option<Spanned<Algorithm>>,
    #[serde(default)]
    typ: TokenTyp,
    posture: Option<PostureMode>,
    status_list: Option<bool>,
    bind: Option<Spanned<Binding>>,
    proofs: Option<Spanned<Vec<Spanned<String>>>>,
    actions: Option<Vec<Spanned<String>>>,
    client_id: Option<Spanned<String>>,
    approval: Option<ApprovalMode>,
    expires: Option<Spanned<Datetime>>,
    hours: Option<Spanned<String>>,
}

impl RawGrant {
    /// The keys of the table.
    pub(super) const KEYS: &[Key] = &[
        Key::required("audience", Kind::Text("\"https://api.example.com\"")),
        Key::optional("scopes", Kind::TextList("[\"docs.read\", \"docs.write\"]")),
        Key::optional("ttl", Kind::Duration("\"5m\"")),
        Key::optional("assurance", Kind::Choice(&["sealed", "tpm"])),
        Key::optional("alg", Kind::Choice(&["ES256", "RS256"])),
        Key::optional("typ", Kind::Choice(&["at+jwt", "JWT"])),
        Key::optional("posture", Kind::Choice(&["off", "warn", "enforce"])),
        Key::optional("status_list", Kind::Boolean),
        Key::optional("bind", Kind::Choice(Binding::VALUES)),
        Key::optional("proofs", Kind::TextList("[\"dpop\"]")),
        Key::optional("actions", Kind::TextList("[\"POST https://api.example.com/v1/*\"]")),
        Key::optional("client_id", Kind::Text("\"researcher\"")),
        Key::optional("approval", Kind::Choice(ApprovalMode::VALUES)),
        EXPIRES_KEY,
        HOURS_KEY,
    ];

    /// Checks the grants of a file and appends their faults.
    pub(super) fn validate_all(
        raw_grants: Vec<Spanned<RawGrant>>,
        source: &SourceFile,
        faults: &mut Vec<Diagnostic>,
    ) -> Vec<Grant> {
        if let Some(excess) = raw_grants.get(MAX_GRANTS) {
            let message = format!("more than {MAX_GRANTS} grants in one file; split it into two");
            faults.push(source.diagnostic(excess.span(), message));
        }
        let mut grants: Vec<Grant> = Vec::new();
        for raw_grant in raw_grants {
            let span = raw_grant.span();
            let Some(grant) = raw_grant.into_inner().validate(source, faults) else { continue };
            if grants.iter().any(|existing| existing.audience == grant.audience) {
                let message = "second grant for this audience; add its scopes to the first";
                faults.push(source.diagnostic(span, message));
            }
            grants.push(grant);
        }
        grants
    }

    /// Checks the grant and appends its faults. With faults, the returned grant is incomplete and not used.
    /// `None` if the audience is missing, which is a fault of the schema.
    fn validate(self, source: &SourceFile, faults: &mut Vec<Diagnostic>) -> Option<Grant> {
        let audience = self.audience?;
        let (span, audience) = (audience.span(), audience.into_inner());
        if audience.is_empty()
            || audience.len() > MAX_AUDIENCE_OR_SCOPE_LEN
            || !audience.chars().all(|c| c.is_ascii_graphic())
        {
            faults.push(source.diagnostic(
                span,
                format!(
                    "an audience is 1 to {MAX_AUDIENCE_OR_SCOPE_LEN} visible ASCII characters, \
                     exactly as the relying party writes it"
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
                faults.push(source.diagnostic(span, "duplicate scope; remove one"));
            }
        }
        let ttl = self.ttl.map_or(DEFAULT_TOKEN_TTL, |raw| match raw.get_ref().parse() {
            Some(ttl) if ttl >= Duration::from_secs(1) && ttl <= MAX_TOKEN_TTL => ttl,
            Some(_) => {
                faults.push(source.diagnostic(raw.span(), "ttl must be at least 1s and at most 1h"));
                DEFAULT_TOKEN_TTL
            }
            None => {
                let message = "ttl must be a duration like \"5m\" or a number of seconds";
                faults.push(source.diagnostic(raw.span(), message));
                DEFAULT_TOKEN_TTL
            }
        });
        let alg = self.alg.as_ref().map_or(Algorithm::Es256, |raw| *raw.get_ref());
        let assurance = match (self.assurance, alg) {
            (Some(raw), Algorithm::Rs256) if *raw.get_ref() == Assurance::Sealed => {
                let message = "alg = \"RS256\" is signed by the TPM; remove assurance or set it to \"tpm\"";
                faults.push(source.diagnostic(raw.span(), message));
                Assurance::Sealed
            }
            (_, Algorithm::Rs256) => Assurance::Tpm,
            (raw, Algorithm::Es256) => raw.map_or(Assurance::Sealed, Spanned::into_inner),
        };
        let proofs = RawProofs { proofs: self.proofs, actions: self.actions, client_id: self.client_id };
        let proofs = proofs.validate(&audience, self.bind.as_ref(), source, faults);
        let limits = time_limits::validate(self.expires, self.hours, source, faults);
        Some(Grant {
            audience,
            scopes,
            ttl,
            assurance,
            alg,
            typ: self.typ,
            posture: self.posture,
            status_list: self.status_list,
            approval: self.approval,
            bind: self.bind.map_or(Binding::None, Spanned::into_inner),
            proofs,
            limits,
        })
    }
}

/// Checks that `text` is a scope-token (RFC 6749 section 3.3) of at most 512 bytes.
pub(crate) fn is_scope(text: &str) -> bool {
    let is_scope_char = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    !text.is_empty() && text.len() <= MAX_AUDIENCE_OR_SCOPE_LEN && text.bytes().all(is_scope_char)
}

fn seconds<S: Serializer>(ttl: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(ttl.as_secs())
}

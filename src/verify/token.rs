//! Verification of the tokens that a hostbadge issues: access tokens (RFC 9068), JWT-SVIDs and WIT-SVIDs.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::eat::EAT_TYP;
use super::endorsement::ENDORSEMENT_TYP;
use super::error::Error;
use super::jwks::Jwks;
use super::jws::Jws;
use super::spiffe_id::agent_of_id;
use crate::clock::Timestamp;
use crate::json;

/// How far the clocks of two machines may be apart, in seconds.
pub const LEEWAY: u64 = 30;
/// What the `kid` of a WIT-SVID has before the key's own.
pub(crate) const WIT_KID_PREFIX: &str = "wit-";

/// The claims that the verifier requires. With `None` a claim is not compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expectation<'a> {
    /// The claim `iss`.
    pub issuer: Option<&'a str>,
    /// The claim `aud`, or one of several.
    pub audience: Option<&'a str>,
}

/// What a token is, by its header and claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// An access token, `at+jwt` (RFC 9068), or `JWT` where the grant says so.
    AccessToken,
    /// A JWT-SVID of this host: `JWT` with a list of audiences.
    JwtSvid,
    /// A WIT-SVID, `wit+jwt`: bound to a key, and without an audience.
    WitSvid,
}

/// The claims that every kind of token has, and some that not all have.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenClaims {
    /// The issuer: the URL of the host that issued the token.
    pub iss: String,
    /// The subject: the SPIFFE ID of the agent.
    pub sub: String,
    /// The name of the agent; absent in WIT-SVIDs.
    pub client_id: Option<String>,
    /// When the token was issued, less 10 s, in seconds since 1970.
    pub iat: u64,
    /// The first second in which the token is valid, since 1970; absent in WIT-SVIDs.
    pub nbf: Option<u64>,
    /// The first second in which the token is no longer valid, since 1970.
    pub exp: u64,
    /// The unique identifier of the token.
    pub jti: String,
    /// The scopes of an access token, separated by spaces; empty where it has none.
    #[serde(default)]
    pub scope: String,
    #[serde(default)]
    aud: Audiences,
}

/// One audience, or several (RFC 7519 section 4.1.3).
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

/// A token whose signature, type, times and expected claims were verified.
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    /// What the token is.
    pub kind: TokenKind,
    /// The key that signed it.
    pub kid: String,
    /// Its claims.
    pub claims: TokenClaims,
    /// All claims, as signed.
    pub raw_claims: Value,
}

/// The claims of an access token (RFC 9068 section 2.2). Claims that are not named here are in
/// [`VerifiedAccessToken::raw_claims`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifiedTokenClaims {
    /// The issuer: the URL of the host that issued the token.
    pub iss: String,
    /// The subject: the SPIFFE ID of the agent.
    pub sub: String,
    /// The name of the agent.
    pub client_id: String,
    /// The one audience.
    pub aud: String,
    /// When the token was issued, less 10 s, in seconds since 1970.
    pub iat: u64,
    /// The first second in which the token is valid, since 1970.
    pub nbf: u64,
    /// The first second in which the token is no longer valid, since 1970.
    pub exp: u64,
    /// The unique identifier of the token.
    pub jti: String,
    /// The scopes, separated by spaces; empty where the token has none.
    #[serde(default)]
    pub scope: String,
}

/// An access token whose signature, type, times and expected claims were verified.
#[derive(Clone, Debug)]
pub struct VerifiedAccessToken {
    /// The key that signed the token.
    pub kid: String,
    /// The claims of RFC 9068.
    pub claims: VerifiedTokenClaims,
    /// All claims, as signed.
    pub raw_claims: Value,
}

impl TokenClaims {
    /// The name of the agent: `client_id`, or the end of `sub`.
    pub fn agent(&self) -> &str {
        self.client_id.as_deref().or_else(|| agent_of_id(&self.sub)).unwrap_or_default()
    }

    /// The audiences; none in a WIT-SVID.
    pub fn audiences(&self) -> &[String] {
        match &self.aud {
            Audiences::One(audience) => std::slice::from_ref(audience),
            Audiences::Several(audiences) => audiences,
        }
    }
}

impl VerifiedToken {
    /// The key that signed it, by its name in the key set: `kid` without the prefix of a WIT-SVID.
    pub fn key_id(&self) -> &str {
        key_id(self.kind == TokenKind::WitSvid, &self.kid)
    }
}

/// The name in the key set of the key with this `kid` in a token's header.
fn key_id(is_wit: bool, kid: &str) -> &str {
    if is_wit { kid.strip_prefix(WIT_KID_PREFIX).unwrap_or(kid) } else { kid }
}

impl Default for Audiences {
    fn default() -> Audiences {
        Audiences::Several(Vec::new())
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenKind::AccessToken => "access token",
            TokenKind::JwtSvid => "JWT-SVID",
            TokenKind::WitSvid => "WIT-SVID",
        })
    }
}

/// Verifies the signature, the type, the times and the expected claims of a token of any kind.
///
/// With `allow_leeway`, `exp` and `nbf` are compared with a tolerance of [`LEEWAY`] seconds, as a verifier on
/// another machine than the issuer needs it. The `kid` of a WIT-SVID has a prefix, which the key set lacks.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::UnknownKey`], [`Error::KeySet`], [`Error::Signature`] or
/// [`Error::InvalidClaim`].
pub fn verify_token(
    text: &str,
    keys: &Jwks,
    now: Timestamp,
    allow_leeway: bool,
    expected: Expectation<'_>,
) -> Result<VerifiedToken, Error> {
    let token = verify_token_signature(text, keys)?;
    let claims = &token.claims;
    check_times(claims, now.as_secs(), if allow_leeway { LEEWAY } else { 0 })?;
    if let Some(issuer) = expected.issuer.filter(|issuer| claims.iss != *issuer) {
        return Err(Error::InvalidClaim(format!("issued by \"{}\", not by \"{issuer}\"", claims.iss)));
    }
    if let Some(audience) = expected.audience {
        check_audience(token.kind, claims, audience)?;
    }
    Ok(token)
}

/// Verifies the signature and the type of a token of any kind, and not its times: it may have expired.
///
/// # Errors
///
/// As those of [`verify_token`].
pub fn verify_token_signature(text: &str, keys: &Jwks) -> Result<VerifiedToken, Error> {
    let is_eat = || Jws::typ_of(text).is_some_and(|typ| typ == EAT_TYP);
    let jws = Jws::parse(text).map_err(|error| if is_eat() { an_eat() } else { error })?;
    let is_wit = match jws.typ() {
        "at+jwt" | "JWT" => false,
        "wit+jwt" => true,
        EAT_TYP => return Err(an_eat()),
        ENDORSEMENT_TYP => {
            return Err(Error::Malformed("this is an endorsement of an issuing key, not a token".into()));
        }
        other => {
            let other = other.escape_debug();
            return Err(Error::Malformed(format!("type \"{other}\" is none of at+jwt, JWT and wit+jwt")));
        }
    };
    let key = keys
        .find(key_id(is_wit, jws.kid()))
        .ok_or_else(|| Error::UnknownKey(jws.kid().escape_debug().to_string()))?;
    let invalid = |e: serde_json::Error| Error::InvalidClaim(e.to_string());
    let raw_claims: Value = json::from_object(jws.verify(key)?).map_err(invalid)?;
    let claims = TokenClaims::deserialize(&raw_claims).map_err(invalid)?;
    let kind = match (is_wit, &claims.aud) {
        (true, _) => TokenKind::WitSvid,
        (false, Audiences::One(_)) => TokenKind::AccessToken,
        (false, Audiences::Several(_)) => TokenKind::JwtSvid,
    };
    Ok(VerifiedToken { kind, kid: jws.kid().to_owned(), claims, raw_claims })
}

/// [`verify_token`] for access tokens alone.
///
/// # Errors
///
/// As those of [`verify_token`]; [`Error::InvalidClaim`] for another kind of token.
pub fn verify_access_token(
    text: &str,
    keys: &Jwks,
    now: Timestamp,
    allow_leeway: bool,
    expected: Expectation<'_>,
) -> Result<VerifiedAccessToken, Error> {
    let VerifiedToken { kind, kid, raw_claims, .. } = verify_token(text, keys, now, allow_leeway, expected)?;
    if kind != TokenKind::AccessToken {
        return Err(Error::InvalidClaim(format!("a {kind} is not an access token")));
    }
    let claims =
        VerifiedTokenClaims::deserialize(&raw_claims).map_err(|e| Error::InvalidClaim(e.to_string()))?;
    Ok(VerifiedAccessToken { kid, claims, raw_claims })
}

fn check_times(claims: &TokenClaims, now: u64, leeway: u64) -> Result<(), Error> {
    if now >= claims.exp.saturating_add(leeway) {
        return Err(Error::InvalidClaim(format!("expired {} s ago", now - claims.exp)));
    }
    // A WIT-SVID has no `nbf`; it is not valid before its `iat` either.
    let not_before = claims.nbf.unwrap_or(claims.iat);
    if now.saturating_add(leeway) < not_before {
        return Err(Error::InvalidClaim(format!("not valid before {} s from now", not_before - now)));
    }
    Ok(())
}

fn check_audience(kind: TokenKind, claims: &TokenClaims, audience: &str) -> Result<(), Error> {
    let audiences = claims.audiences();
    if audiences.iter().any(|one| one == audience) {
        return Ok(());
    }
    if kind == TokenKind::WitSvid {
        return Err(Error::InvalidClaim("a WIT-SVID has no audience".into()));
    }
    Err(Error::InvalidClaim(format!("for audience \"{}\", not for \"{audience}\"", audiences.join("\", \""))))
}

fn an_eat() -> Error {
    Error::Malformed("this is an EAT, which holds evidence: hostbadge verify evidence checks it".into())
}

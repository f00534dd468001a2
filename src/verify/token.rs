//! Verification of access tokens (RFC 9068) that a hostbadge issued.

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::jwks::Jwks;
use super::jws::Jws;
use crate::clock::Timestamp;

/// How far the clocks of two machines may be apart, in seconds.
pub const LEEWAY: u64 = 30;

/// The claims that the verifier requires. With `None` a claim is not compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expectation<'a> {
    /// The claim `iss`.
    pub issuer: Option<&'a str>,
    /// The claim `aud`.
    pub audience: Option<&'a str>,
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
    /// When the token was issued, in seconds since 1970.
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

/// A token whose signature, type, times and expected claims were verified.
#[derive(Clone, Debug)]
pub struct VerifiedAccessToken {
    /// The key that signed the token.
    pub kid: String,
    /// The claims of RFC 9068.
    pub claims: VerifiedTokenClaims,
    /// All claims, as signed.
    pub raw_claims: serde_json::Value,
}

/// Verifies the signature, the type, the times and the expected claims of an access token.
///
/// With `allow_leeway`, `exp` and `nbf` are compared with a tolerance of [`LEEWAY`] seconds, as a verifier on
/// another machine than the issuer needs it.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::UnknownKey`], [`Error::KeySet`], [`Error::Signature`] or
/// [`Error::InvalidClaim`].
pub fn verify_access_token(
    text: &str,
    keys: &Jwks,
    now: Timestamp,
    allow_leeway: bool,
    expected: Expectation<'_>,
) -> Result<VerifiedAccessToken, Error> {
    let jws = Jws::parse(text)?;
    jws.expect_typ("at+jwt")?;
    let key = keys.find(jws.kid()).ok_or_else(|| Error::UnknownKey(jws.kid().escape_debug().to_string()))?;
    let payload = jws.verify(key)?;
    let raw_claims: serde_json::Value =
        serde_json::from_slice(payload).map_err(|e| Error::InvalidClaim(e.to_string()))?;
    let claims: VerifiedTokenClaims =
        serde_json::from_value(raw_claims.clone()).map_err(|e| Error::InvalidClaim(e.to_string()))?;

    let leeway = if allow_leeway { LEEWAY } else { 0 };
    let now = now.as_secs();
    if now >= claims.exp.saturating_add(leeway) {
        return Err(Error::InvalidClaim(format!("expired {} s ago", now - claims.exp)));
    }
    if now.saturating_add(leeway) < claims.nbf {
        return Err(Error::InvalidClaim(format!("not valid before {} s from now", claims.nbf - now)));
    }
    if let Some(issuer) = expected.issuer.filter(|issuer| claims.iss != *issuer) {
        return Err(Error::InvalidClaim(format!("issued by \"{}\", not by \"{issuer}\"", claims.iss)));
    }
    if let Some(audience) = expected.audience.filter(|audience| claims.aud != *audience) {
        return Err(Error::InvalidClaim(format!("for audience \"{}\", not for \"{audience}\"", claims.aud)));
    }
    Ok(VerifiedAccessToken { kid: jws.kid().to_owned(), claims, raw_claims })
}

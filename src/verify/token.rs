//! Access tokens (RFC 9068) as the agent socket gives them.

use serde::{Deserialize, Serialize};

use super::{Error, Jwks, Jws};
use crate::clock::Timestamp;

/// How far two machines' clocks may be apart, in seconds.
pub const LEEWAY: u64 = 30;

/// What the verifier demands beside the signature and the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expectation<'a> {
    pub issuer: Option<&'a str>,
    pub audience: Option<&'a str>,
}

/// The claims of a token. Members that this program does not know are kept in the JSON of [`Verified`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifiedTokenClaims {
    pub iss: String,
    pub sub: String,
    pub client_id: String,
    pub aud: String,
    pub iat: u64,
    pub nbf: u64,
    pub exp: u64,
    pub jti: String,
    #[serde(default)]
    pub scope: String,
}

/// A token that holds.
#[derive(Clone, Debug)]
pub struct VerifiedAccessToken {
    pub kid: String,
    pub claims: VerifiedTokenClaims,
    /// All claims as signed.
    pub raw_claims: serde_json::Value,
}

/// Checks signature, type, times, and what is expected. `leeway` says whether another machine's clock signed.
pub fn verify_access_token(
    text: &str,
    keys: &Jwks,
    now: Timestamp,
    allow_leeway: bool,
    expected: Expectation<'_>,
) -> Result<VerifiedAccessToken, Error> {
    let jws = Jws::parse(text)?;
    if jws.typ() != "at+jwt" {
        return Err(Error::Malformed(format!("type \"{}\" is not at+jwt", jws.typ().escape_debug())));
    }
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

//! Proofs as compact JWS: what the kinds of proofs have in common.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::error::{Error, MAX_PROOF_LEN};
use super::public_jwk::PublicJwk;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::json;
use crate::verify::jwks::Jwk;
use crate::verify::jws::CompactJws;

/// The longest `jti` in bytes.
const MAX_JTI_LEN: usize = 256;
/// The last second of the year 9999.
const MAX_NUMERIC_DATE: f64 = 253_402_300_799.0;

/// The JOSE header. Members that are not known are ignored (RFC 7515 section 4), except those that may not
/// be.
#[derive(Deserialize)]
struct ProofHeader {
    typ: String,
    alg: String,
    jwk: Option<PublicJwk>,
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
}

/// A proof of the right type and algorithm, whose signature has not been verified.
pub(super) struct UnverifiedProof<'a> {
    jws: CompactJws<'a>,
    jwk: Option<PublicJwk>,
}

impl<'a> UnverifiedProof<'a> {
    /// Parses a proof of at most 8 KiB, of this type.
    pub(super) fn parse(text: &'a str, typ: &'static str) -> Result<UnverifiedProof<'a>, Error> {
        if text.len() > MAX_PROOF_LEN {
            return Err(Error::TooLong);
        }
        let jws = CompactJws::parse(text, MAX_PROOF_LEN).map_err(Error::Malformed)?;
        let header: ProofHeader = json::from_object(&jws.header).map_err(Error::Header)?;
        if header.typ != typ {
            return Err(Error::Type { expected: typ });
        }
        if header.alg != "ES256" {
            return Err(Error::Algorithm);
        }
        if header.crit.is_some() || header.b64.is_some() {
            return Err(Error::Extension);
        }
        Ok(UnverifiedProof { jws, jwk: header.jwk })
    }

    /// The key that the header names. It is not trusted yet: anyone can make a proof with a key of their own.
    pub(super) fn header_key(&self) -> Result<Jwk, Error> {
        Ok(self.jwk.as_ref().ok_or(Error::NoKey)?.to_p256()?)
    }

    /// The claims, if this P-256 key made the signature.
    pub(super) fn verify<T: DeserializeOwned>(&self, key: &Jwk) -> Result<T, Error> {
        key.verify(self.jws.signing_input.as_bytes(), &self.jws.signature).map_err(|_| Error::Signature)?;
        json::from_object(&self.jws.payload).map_err(Error::Claims)
    }
}

/// SHA-256 of a token's text in base64url, as `ath` and `wth` have it (RFC 9449 section 4.2).
pub(crate) fn token_hash(token: &str) -> String {
    BASE64URL_NOPAD.encode(&sha256(token.as_bytes()))
}

/// Compares `ath` with the access token of the request.
pub(super) fn check_access_token(ath: Option<&str>, access_token: Option<&str>) -> Result<(), Error> {
    match (ath, access_token) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Error::NoTokenHash),
        (Some(_), None) => Err(Error::UnexpectedTokenHash),
        (Some(ath), Some(token)) if ath == token_hash(token) => Ok(()),
        (Some(_), Some(_)) => Err(Error::TokenHash),
    }
}

/// The caller remembers each `jti`, so its length is bounded.
pub(super) fn check_jti(jti: &str) -> Result<(), Error> {
    if (1..=MAX_JTI_LEN).contains(&jti.len()) { Ok(()) } else { Err(Error::Jti) }
}

/// The time of a NumericDate (RFC 7519 section 2), which may have a fraction.
pub(super) fn numeric_date(seconds: f64, claim: &'static str) -> Result<Timestamp, Error> {
    if !(0.0..=MAX_NUMERIC_DATE).contains(&seconds) {
        return Err(Error::Time(claim));
    }
    // Within the range, the number of microseconds fits.
    Ok(Timestamp::from_micros((seconds * 1e6) as u64))
}

/// Refuses a proof that was made later than the clocks' difference explains.
pub(super) fn check_not_from_the_future(
    issued_at: Timestamp,
    now: Timestamp,
    leeway: Duration,
) -> Result<(), Error> {
    if issued_at > now.after(leeway) {
        return Err(Error::FromTheFuture { seconds: issued_at.since(now).as_secs() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The access token and its digest of RFC 9449 section 7.1.
    #[test]
    fn token_hash_is_that_of_rfc_9449() {
        let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
        assert_eq!(token_hash(token), "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo");
    }

    #[test]
    fn numeric_dates_are_bounded() {
        assert_eq!(numeric_date(1.5, "iat").unwrap(), Timestamp::from_micros(1_500_000));
        assert_eq!(numeric_date(253_402_300_799.0, "iat").unwrap(), Timestamp::from_secs(253_402_300_799));
        for seconds in [-1.0, 253_402_300_800.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(matches!(numeric_date(seconds, "iat"), Err(Error::Time("iat"))), "{seconds}");
        }
    }
}

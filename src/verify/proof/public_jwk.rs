//! Public P-256 keys of agents and clients as JWK (RFC 7517), from the header `jwk` of a proof or the claim
//! `cnf.jwk` of a token. Unlike the keys of an issuer they need no `kid` and no `use`.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use serde_json::Value;

use crate::verify::jwks::Jwk;

/// Why a JWK is not accepted. The messages have nothing of the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwkFault {
    /// The value is not an object with the members of a JWK.
    #[error("the JWK: {0}")]
    Malformed(#[source] serde_json::Error),
    /// The JWK has a member of a private or symmetric key. Whoever sees the proof sees it.
    #[error("the JWK has a private key")]
    Private,
    /// The key is of another type or curve, or a coordinate does not have 32 bytes.
    #[error("the JWK is not a P-256 key")]
    NotP256,
    /// `alg` is missing where it is required, or another one.
    #[error("the \"alg\" of the JWK is not ES256")]
    Algorithm,
}

/// The members that matter. Others are ignored (RFC 7517 section 4).
#[derive(Debug, Deserialize)]
pub(super) struct PublicJwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    alg: Option<String>,
    // The members of private and symmetric keys (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1), whose values are
    // not kept.
    #[serde(default, deserialize_with = "presence")]
    d: bool,
    #[serde(default, deserialize_with = "presence")]
    p: bool,
    #[serde(default, deserialize_with = "presence")]
    q: bool,
    #[serde(default, deserialize_with = "presence")]
    dp: bool,
    #[serde(default, deserialize_with = "presence")]
    dq: bool,
    #[serde(default, deserialize_with = "presence")]
    qi: bool,
    #[serde(default, deserialize_with = "presence")]
    oth: bool,
    #[serde(default, deserialize_with = "presence")]
    k: bool,
}

/// The P-256 key of a claim `cnf.jwk` (RFC 7800 section 3.2), whose `alg` has to be ES256: a WIT has to name
/// it.
///
/// # Errors
///
/// [`JwkFault`].
pub fn p256_key_from_jwk(jwk: &Value) -> Result<Jwk, JwkFault> {
    let jwk = PublicJwk::deserialize(jwk).map_err(JwkFault::Malformed)?;
    let key = jwk.to_p256()?;
    if jwk.alg.is_none() {
        return Err(JwkFault::Algorithm);
    }
    Ok(key)
}

impl PublicJwk {
    /// The key, with its RFC 7638 thumbprint as `kid`. `alg` has to be ES256 if there is one.
    pub(super) fn to_p256(&self) -> Result<Jwk, JwkFault> {
        if self.d || self.p || self.q || self.dp || self.dq || self.qi || self.oth || self.k {
            return Err(JwkFault::Private);
        }
        if self.kty != "EC" || self.crv.as_deref() != Some("P-256") {
            return Err(JwkFault::NotP256);
        }
        if self.alg.as_deref().is_some_and(|alg| alg != "ES256") {
            return Err(JwkFault::Algorithm);
        }
        let mut point = [4; 65];
        point[1..33].copy_from_slice(&coordinate(self.x.as_deref())?);
        point[33..].copy_from_slice(&coordinate(self.y.as_deref())?);
        Ok(Jwk::from_point(&point))
    }
}

fn coordinate(text: Option<&str>) -> Result<[u8; 32], JwkFault> {
    let bytes = BASE64URL_NOPAD.decode(text.unwrap_or_default().as_bytes()).map_err(|_| JwkFault::NotP256)?;
    bytes.try_into().map_err(|_| JwkFault::NotP256)
}

/// True for a member that is there, whatever its value.
fn presence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The key of the examples in RFC 9449, and its thumbprint (section 6.1).
    fn rfc_9449_key() -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256",
            "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
            "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
        })
    }

    #[test]
    fn thumbprint_is_that_of_rfc_9449() {
        let key = p256_key_from_jwk(&rfc_9449_key()).unwrap();
        assert_eq!(key.kid, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
        key.check().unwrap();
    }

    #[test]
    fn members_of_private_keys_are_refused() {
        for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            for value in [json!("c2VjcmV0"), json!(null), json!([1])] {
                let mut jwk = rfc_9449_key();
                jwk[name] = value;
                let fault = p256_key_from_jwk(&jwk).unwrap_err();
                assert!(matches!(fault, JwkFault::Private), "{name}: {fault}");
                assert!(!fault.to_string().contains("c2VjcmV0"));
            }
        }
    }

    #[test]
    fn other_keys_are_refused() {
        for (name, value) in [
            ("kty", json!("RSA")),
            ("kty", json!("oct")),
            ("crv", json!("P-384")),
            ("crv", json!("p-256")),
            ("crv", json!(null)),
            ("x", json!("AAAA")),
            ("x", json!("l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs=")),
            ("y", json!("9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDB")),
            ("y", json!(null)),
        ] {
            let mut jwk = rfc_9449_key();
            jwk[name] = value;
            assert!(matches!(p256_key_from_jwk(&jwk), Err(JwkFault::NotP256)), "{jwk}");
        }
        for alg in [json!("none"), json!("ES384"), json!(null)] {
            let mut jwk = rfc_9449_key();
            jwk["alg"] = alg;
            assert!(matches!(p256_key_from_jwk(&jwk), Err(JwkFault::Algorithm)), "{jwk}");
        }
        assert!(matches!(p256_key_from_jwk(&json!("EC")), Err(JwkFault::Malformed(_))));
        assert!(matches!(p256_key_from_jwk(&json!({})), Err(JwkFault::Malformed(_))));
    }
}

//! JWT authorities: the keys in a SPIFFE bundle that sign the JWT-SVIDs of a trust domain.
//!
//! Other trust domains choose their algorithms. Supported are all of SPIFFE JWT-SVID section 2.2 except
//! ES512, which the crate `ring` does not have.

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;

use super::error::Error;
use crate::json;

/// The most keys in one bundle.
const MAX_KEYS: usize = 128;

/// The JWT authorities of one trust domain, each with its `kid`.
#[derive(Clone, Debug, Default)]
pub struct JwtAuthorities(Vec<(String, AuthorityKey)>);

#[derive(Clone, Debug)]
enum AuthorityKey {
    P256(Vec<u8>),
    P384(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// The members of a JWK that are read (RFC 7518 section 6).
#[derive(Deserialize)]
struct AuthorityJwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// The private key, which a bundle must not have.
    d: Option<serde_json::Value>,
}

impl JwtAuthorities {
    /// Parses the JWT authorities of a bundle document (SPIFFE Trust Domain and Bundle, section 4).
    ///
    /// Keys of other uses are skipped, as are keys of unsupported types and curves.
    ///
    /// # Errors
    ///
    /// [`Error::KeySet`] if the document is not a JWK Set of at most 128 keys, if a JWT authority has no
    /// unique `kid`, is a private key, or has malformed members.
    pub fn parse(document: &[u8]) -> Result<JwtAuthorities, Error> {
        #[derive(Deserialize)]
        struct AuthoritySetDocument {
            keys: Vec<AuthorityJwk>,
        }
        let set: AuthoritySetDocument =
            json::from_object(document).map_err(|e| Error::KeySet(e.to_string()))?;
        if set.keys.len() > MAX_KEYS {
            return Err(Error::KeySet(format!("more than {MAX_KEYS} keys")));
        }
        let mut keys = JwtAuthorities::default();
        for jwk in set.keys.into_iter().filter(|key| key.usage.as_deref() == Some("jwt-svid")) {
            let kid = jwk.kid.clone().filter(|kid| !kid.is_empty());
            let kid = kid.ok_or_else(|| Error::KeySet("a jwt-svid key has no \"kid\"".into()))?;
            if keys.find(&kid).is_some() {
                return Err(Error::KeySet(format!("two keys are named \"{}\"", kid.escape_debug())));
            }
            if let Some(public) = AuthorityKey::from_jwk(&jwk)
                .map_err(|reason| Error::KeySet(format!("key \"{}\" {reason}", kid.escape_debug())))?
            {
                keys.0.push((kid, public));
            }
        }
        Ok(keys)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, kid: &str) -> Option<&AuthorityKey> {
        self.0.iter().find(|(key_id, _)| key_id == kid).map(|(_, public)| public)
    }

    /// Checks that the key `kid` made `signature` by the algorithm `alg`, which has to be one for keys of its
    /// type.
    pub(super) fn verify(
        &self,
        kid: &str,
        alg: &str,
        signing_input: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        let public = self.find(kid).ok_or_else(|| Error::UnknownKey(kid.escape_debug().to_string()))?;
        let valid = match (public, alg) {
            (AuthorityKey::P256(point), "ES256") => {
                verify_ecdsa(&signature::ECDSA_P256_SHA256_FIXED, point, signing_input, signature)
            }
            (AuthorityKey::P384(point), "ES384") => {
                verify_ecdsa(&signature::ECDSA_P384_SHA384_FIXED, point, signing_input, signature)
            }
            (AuthorityKey::Rsa { n, e }, alg) => {
                let parameters = match alg {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return Err(unsupported_algorithm(alg, kid)),
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, signing_input, signature).is_ok()
            }
            _ => return Err(unsupported_algorithm(alg, kid)),
        };
        valid.then_some(()).ok_or_else(|| Error::Signature(kid.escape_debug().to_string()))
    }
}

fn unsupported_algorithm(alg: &str, kid: &str) -> Error {
    Error::Malformed(format!(
        "algorithm \"{}\" is not one of SPIFFE's for the key \"{}\"",
        alg.escape_debug(),
        kid.escape_debug()
    ))
}

fn verify_ecdsa(
    algorithm: &'static dyn VerificationAlgorithm,
    point: &[u8],
    signing_input: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, point).verify(signing_input, signature).is_ok()
}

impl AuthorityKey {
    /// `None` if the type or the curve is not supported. The error completes a sentence about the key.
    fn from_jwk(jwk: &AuthorityJwk) -> Result<Option<AuthorityKey>, String> {
        if jwk.d.is_some() {
            return Err("is a private key; a bundle holds public ones".into());
        }
        let bytes = |name: &str, text: &Option<String>| {
            let text = text.as_deref().ok_or_else(|| format!("has no \"{name}\""))?;
            BASE64URL_NOPAD
                .decode(text.as_bytes())
                .map_err(|_| format!("has a \"{name}\" that is not base64url"))
        };
        let point = |coordinate_len: usize| {
            let (x, y) = (bytes("x", &jwk.x)?, bytes("y", &jwk.y)?);
            if x.len() != coordinate_len || y.len() != coordinate_len {
                return Err(format!("has coordinates that are not {coordinate_len} bytes"));
            }
            Ok([&[4], &x[..], &y[..]].concat())
        };
        Ok(Some(match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => AuthorityKey::P256(point(32)?),
            ("EC", Some("P-384")) => AuthorityKey::P384(point(48)?),
            ("RSA", _) => AuthorityKey::Rsa { n: bytes("n", &jwk.n)?, e: bytes("e", &jwk.e)? },
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn private_or_unnamed_keys_are_rejected() {
        for (key, expected) in [
            (
                json!({
                    "use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": "a", "x": "", "y": "", "d": ""
                }),
                "private",
            ),
            (json!({ "use": "jwt-svid", "kty": "RSA", "n": "AQ", "e": "AQAB" }), "kid"),
            (
                json!({ "use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": "a", "x": "AQ", "y": "AQ" }),
                "32 bytes",
            ),
        ] {
            let error = JwtAuthorities::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let (x509, okp) = (
            json!({ "use": "x509-svid", "kty": "EC" }),
            json!({ "use": "jwt-svid", "kty": "OKP", "kid": "b" }),
        );
        let other = json!({ "keys": [x509, okp] });
        assert!(JwtAuthorities::parse(other.to_string().as_bytes()).unwrap().is_empty());
    }
}

//! Proofs as JWT (RFC 7519), signed by ES256.

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::error::Error;
use super::key::ProofKey;
use crate::verify::KeyParams;

/// How a JWT names the key that signed it.
#[derive(Clone, Copy)]
pub(super) enum KeyReference {
    /// By the public key itself, in the header `jwk`.
    Jwk,
    /// Not at all: the verifier has the key from another token.
    None,
}

#[derive(Serialize)]
struct JoseHeader<'a> {
    typ: &'static str,
    alg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwk: Option<&'a KeyParams>,
}

/// The JWT of a builder's claims.
///
/// # Errors
///
/// [`Error::Json`] or [`Error::Signing`].
pub(super) fn sign_jwt(
    key: &ProofKey,
    typ: &'static str,
    reference: KeyReference,
    claims: &impl Serialize,
) -> Result<String, Error> {
    let jwk = match reference {
        KeyReference::Jwk => Some(&key.jwk().params),
        KeyReference::None => None,
    };
    let header = serde_json::to_vec(&JoseHeader { typ, alg: "ES256", jwk })?;
    let mut jwt = BASE64URL_NOPAD.encode(&header);
    jwt.push('.');
    BASE64URL_NOPAD.encode_append(&serde_json::to_vec(claims)?, &mut jwt);
    let signature = key.sign(jwt.as_bytes())?;
    jwt.push('.');
    BASE64URL_NOPAD.encode_append(signature.as_ref(), &mut jwt);
    Ok(jwt)
}

/// A new `jti` or nonce: 128 random bits in base64url.
///
/// # Errors
///
/// [`Error::Random`].
pub(super) fn new_id() -> Result<String, Error> {
    let mut id = [0; 16];
    SystemRandom::new().fill(&mut id).map_err(Error::Random)?;
    Ok(BASE64URL_NOPAD.encode(&id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use serde_json::{Value, json};

    fn header_of(key: &ProofKey, reference: KeyReference) -> Value {
        let jwt = sign_jwt(key, "test+jwt", reference, &json!({})).unwrap();
        let (input, signature) = jwt.rsplit_once('.').unwrap();
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        key.jwk().verify(input.as_bytes(), &signature).unwrap();
        let header = BASE64URL_NOPAD.decode(input.split('.').next().unwrap().as_bytes()).unwrap();
        serde_json::from_slice(&header).unwrap()
    }

    #[test]
    fn headers_have_only_what_identifies_the_key() {
        let key = ProofKey::generate(Timestamp::from_secs(1)).unwrap();
        let jwk = serde_json::to_value(&key.jwk().params).unwrap();
        assert_eq!(jwk.as_object().unwrap().keys().collect::<Vec<_>>(), ["kty", "crv", "x", "y"]);
        let expected = json!({ "typ": "test+jwt", "alg": "ES256", "jwk": jwk });
        assert_eq!(header_of(&key, KeyReference::Jwk), expected);
        assert_eq!(header_of(&key, KeyReference::None), json!({ "typ": "test+jwt", "alg": "ES256" }));
    }

    #[test]
    fn ids_have_128_bits() {
        let (first, second) = (new_id().unwrap(), new_id().unwrap());
        assert_eq!(BASE64URL_NOPAD.decode(first.as_bytes()).unwrap().len(), 16);
        assert_ne!(first, second);
    }
}

//! JWT authorities: the keys in a SPIFFE bundle that sign the JWT-SVIDs of a trust domain.
//!
//! Other trust domains choose their algorithms. Supported are all of SPIFFE JWT-SVID section 2.2 except
//! ES512, which the crate `ring` does not have.

use data_encoding::BASE64URL_NOPAD;
use ring::agreement::{self, EphemeralPrivateKey};
use ring::rand::SystemRandom;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;

use super::error::Error;
use super::jwks::{MAX_EXPONENT, MODULUS_LEN};
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
    /// unique `kid`, is a private key, or is one by which no signature can be verified.
    pub fn parse(document: &[u8]) -> Result<JwtAuthorities, Error> {
        JwtAuthorities::parse_of_use(document, |usage| usage == Some("jwt-svid"))
    }

    /// Parses the keys of a JWK Set (RFC 7517 section 5) that sign tokens of any issuer: those whose `use` is `sig`
    /// or absent.
    ///
    /// # Errors
    ///
    /// As [`JwtAuthorities::parse`].
    pub fn parse_signing_keys(document: &[u8]) -> Result<JwtAuthorities, Error> {
        JwtAuthorities::parse_of_use(document, |usage| usage.is_none_or(|usage| usage == "sig"))
    }

    fn parse_of_use(
        document: &[u8],
        is_meant: impl Fn(Option<&str>) -> bool,
    ) -> Result<JwtAuthorities, Error> {
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
        for jwk in set.keys.into_iter().filter(|key| is_meant(key.usage.as_deref())) {
            let kid = jwk.kid.clone().filter(|kid| !kid.is_empty());
            let kid = kid.ok_or_else(|| Error::KeySet("a key that signs tokens has no \"kid\"".into()))?;
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
        // Each coordinate has the full length, with its leading zeros (RFC 7518 section 6.2.1.2).
        let point = |coordinate_len: usize, curve: &'static agreement::Algorithm| {
            let (x, y) = (bytes("x", &jwk.x)?, bytes("y", &jwk.y)?);
            if x.len() != coordinate_len || y.len() != coordinate_len {
                return Err(format!("has coordinates that are not {coordinate_len} bytes"));
            }
            let point = [&[4], &x[..], &y[..]].concat();
            if is_on_curve(curve, &point) { Ok(point) } else { Err("is not a point of its curve".into()) }
        };
        Ok(Some(match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => AuthorityKey::P256(point(32, &agreement::ECDH_P256)?),
            ("EC", Some("P-384")) => AuthorityKey::P384(point(48, &agreement::ECDH_P384)?),
            ("RSA", _) => rsa_key(&bytes("n", &jwk.n)?, &bytes("e", &jwk.e)?)?,
            _ => return Ok(None),
        }))
    }
}

/// Numbers are written without leading zeros (Base64urlUInt, RFC 7518 section 2). Some producers write them
/// all the same; the number is meant, and `ring` verifies nothing by a number with leading zeros.
fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<AuthorityKey, String> {
    let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
    let (n, e) = (number(modulus), number(exponent));
    if !MODULUS_LEN.contains(&n.len()) || n.last().is_none_or(|b| b % 2 == 0) {
        return Err(format!(
            "has a modulus \"n\" of {} bytes; an odd number of 2048 to 8192 bits is supported",
            n.len()
        ));
    }
    let exponent = e.iter().try_fold(0_u64, |sum, b| Some(sum.checked_mul(256)? + u64::from(*b)));
    if !exponent.is_some_and(|e| (3..=MAX_EXPONENT).contains(&e) && e % 2 == 1) {
        return Err("has a public exponent \"e\" that is not an odd number from 3 to 2^33 - 1".into());
    }
    Ok(AuthorityKey::Rsa { n, e })
}

/// Whether an uncompressed point is one by which signatures can be verified. `ring` checks that wherever it
/// uses a point, and has no call for the check alone, so this one uses it for a key agreement.
fn is_on_curve(curve: &'static agreement::Algorithm, point: &[u8]) -> bool {
    let Ok(private) = EphemeralPrivateKey::generate(curve, &SystemRandom::new()) else { return false };
    agreement::agree_ephemeral(private, &agreement::UnparsedPublicKey::new(curve, point), |_| ()).is_ok()
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
        let rsa = |n: &[u8], e: &[u8]| {
            let (n, e) = (BASE64URL_NOPAD.encode(n), BASE64URL_NOPAD.encode(e));
            json!({ "use": "jwt-svid", "kty": "RSA", "kid": "a", "n": n, "e": e })
        };
        let ec = |x: [u8; 32], y: [u8; 32]| {
            let (x, y) = (BASE64URL_NOPAD.encode(&x), BASE64URL_NOPAD.encode(&y));
            json!({ "use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": "a", "x": x, "y": y })
        };
        for (key, expected) in [
            (rsa(&[255; 255], &[1, 0, 1]), "255 bytes"),
            (rsa(&[[0; 9].as_slice(), &[255; 255]].concat(), &[1, 0, 1]), "255 bytes"),
            (rsa(&[254; 256], &[1, 0, 1]), "odd"),
            (rsa(&[255; 1025], &[1, 0, 1]), "1025 bytes"),
            (rsa(&[], &[1, 0, 1]), "0 bytes"),
            (rsa(&[255; 256], &[0, 0]), "\"e\""),
            (rsa(&[255; 256], &[2]), "\"e\""),
            (rsa(&[255; 256], &[0, 1]), "\"e\""),
            (rsa(&[255; 256], &[255; 9]), "\"e\""),
            (rsa(&[255; 256], &[2, 0, 0, 0, 1]), "\"e\""),
            (ec([4; 32], [4; 32]), "point"),
            (ec([0; 32], [0; 32]), "point"),
        ] {
            let document = json!({ "keys": [key] }).to_string();
            let error = JwtAuthorities::parse(document.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("key \"a\"") && error.contains(expected), "{error}");
        }
        let (x509, okp) = (
            json!({ "use": "x509-svid", "kty": "EC" }),
            json!({ "use": "jwt-svid", "kty": "OKP", "kid": "b" }),
        );
        let other = json!({ "keys": [x509, okp] });
        assert!(JwtAuthorities::parse(other.to_string().as_bytes()).unwrap().is_empty());
    }

    /// An RSA-2048 key, made by OpenSSL.
    const MODULUS: &str = "\
        ntVDlzHEc5OMqnvTBm_ef77lz1xDJNeoJEH5PmTe4gduq3zmbfh5d7tdwdAQ1Y7krCKr5CFujj0dnH37EBZBrO8aqyFWmcJr\
        bKIihYw0-QawWgmmvHKTDCANahtVm2LDyWJpbqf5LV7z-AVgLm8lojJHMDH1iI08_ebu4uIw5XSPB7-\
        HGtccxjT1GzxPxnF9lvabA7lo2SgNPYMPagq9WMjbVBcOPbllZrPKa2Z_1lOqWRt-DuPFv3H8T2Vnz6bX6xrrWNcjbWuxSBO\
        HocBz3fTWoKSLuaYS8XBz21ICYEhtHyEjN8moGiVXpV0Q8ZEz0P8MQu6Elo8reQLw2oPRDw";
    /// Its signature of "text" by RS256.
    const SIGNATURE: &str = "\
        Wm1RmtZCm0m2ib9dMXmmi4Ntv11ljJZtm1eOn7qL4IomGsgNEBG7X6DIba3Ey0sEMg02WhzACgIg2Va8JBSenqBL3i_PXPQT\
        36uF2S6oSPpy_fPgNMtU2Hl3PH-cJjy4eaNirJ866ind0g7G2nmJhxg_fj1p63s9Y-sr3CtzOG-\
        0KB31XrfHD681YAnnW2XKuYhWovsfehlo5zOhO1uRPcYzqF_mJVNJ0ckrUQRGIR6Herx6ZhT1_2b_42DCGfffNcyQeLnvlvr\
        AUdoc2egLqt2Rz2_LKsNN-lYCjd_-n6f7BQUXJaOq2KkUulB-UMlRc3CjxuA3urNhZFkOWRTAtg";

    #[test]
    fn numbers_with_leading_zeros_verify_by_their_value() {
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        let (modulus, signature) = (decode(MODULUS), decode(SIGNATURE));
        for zeros in [0, 1, 7, 300] {
            let number = |bytes: &[u8]| BASE64URL_NOPAD.encode(&[&vec![0; zeros][..], bytes].concat());
            let (n, e) = (number(&modulus), number(&[1, 0, 1]));
            let key = json!({ "use": "jwt-svid", "kty": "RSA", "kid": "a", "n": n, "e": e });
            let keys = JwtAuthorities::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap();
            keys.verify("a", "RS256", b"text", &signature).unwrap();
            assert!(keys.verify("a", "RS256", b"test", &signature).is_err());
        }
    }
}

//! The public keys of hostbadge's issuers as JSON Web Keys (RFC 7517), each with its thumbprint (RFC 7638) as
//! `kid`.

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::json;

/// Lengths of the RSA moduli that are accepted, in bytes: 2048 to 8192 bits.
pub(super) const MODULUS_LEN: std::ops::RangeInclusive<usize> = 256..=1024;
/// The largest public exponent that `ring` accepts.
pub(super) const MAX_EXPONENT: u64 = (1 << 33) - 1;

/// A public signing key: P-256 for ES256, or RSA for RS256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// The key's type and value.
    #[serde(flatten)]
    pub params: KeyParams,
    /// The RFC 7638 thumbprint of the key, base64url.
    pub kid: String,
    /// The member `use`: "sig".
    #[serde(rename = "use")]
    pub usage: String,
    /// The algorithm that the key signs by: "ES256" or "RS256".
    pub alg: String,
}

/// The type and the value of a key (RFC 7518 section 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kty")]
pub enum KeyParams {
    /// An elliptic curve key (RFC 7518 section 6.2.1).
    #[serde(rename = "EC")]
    Ec {
        /// The curve: "P-256".
        crv: String,
        /// The x coordinate, 32 bytes in base64url.
        x: String,
        /// The y coordinate, 32 bytes in base64url.
        y: String,
    },
    /// An RSA key (RFC 7518 section 6.3.1).
    #[serde(rename = "RSA")]
    Rsa {
        /// The modulus, big-endian in base64url.
        n: String,
        /// The public exponent, big-endian in base64url.
        e: String,
    },
}

/// A JWK Set (RFC 7517 section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Jwks {
    /// The keys, in the order of the document.
    pub keys: Vec<Jwk>,
}

impl Jwk {
    /// Makes a P-256 key from an uncompressed point: 4, then x and y of 32 bytes each (SEC 1 section 2.3.3).
    pub fn from_point(point: &[u8; 65]) -> Jwk {
        let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..]));
        Jwk::from_params(KeyParams::Ec { crv: "P-256".into(), x, y }, "ES256")
    }

    /// Makes an RSA key from modulus and public exponent, big-endian without leading zeros (RFC 7518 section
    /// 6.3.1).
    pub fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Jwk {
        let (n, e) = (BASE64URL_NOPAD.encode(modulus), BASE64URL_NOPAD.encode(exponent));
        Jwk::from_params(KeyParams::Rsa { n, e }, "RS256")
    }

    fn from_params(params: KeyParams, alg: &str) -> Jwk {
        Jwk { kid: params.thumbprint(), params, usage: "sig".into(), alg: alg.into() }
    }

    /// Checks that the key is of a supported type and that its `kid` is its thumbprint, so that it cannot
    /// have the `kid` of another key.
    ///
    /// # Errors
    ///
    /// [`Error::KeySet`].
    pub fn check(&self) -> Result<(), Error> {
        match &self.params {
            KeyParams::Ec { .. } => self.p256_point().map(drop),
            KeyParams::Rsa { .. } => self.rsa_components().map(drop),
        }
    }

    /// The uncompressed point of a P-256 key, after the checks of [`Jwk::check`].
    pub fn p256_point(&self) -> Result<[u8; 65], Error> {
        let KeyParams::Ec { crv, x, y } = &self.params else {
            return Err(self.key_error("is not a P-256 key for ES256"));
        };
        if crv != "P-256" || self.alg != "ES256" {
            return Err(self.key_error("is not a P-256 key for ES256"));
        }
        self.check_kid()?;
        let decode_coordinate = |text: &str| -> Option<[u8; 32]> {
            BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
        };
        let (Some(x), Some(y)) = (decode_coordinate(x), decode_coordinate(y)) else {
            return Err(self.key_error("has coordinates that are not 32 bytes of base64url"));
        };
        let mut point = [4; 65];
        point[1..33].copy_from_slice(&x);
        point[33..].copy_from_slice(&y);
        Ok(point)
    }

    /// Modulus and public exponent of an RSA key, after the checks of [`Jwk::check`].
    pub fn rsa_components(&self) -> Result<RsaPublicKeyComponents<Vec<u8>>, Error> {
        let KeyParams::Rsa { n, e } = &self.params else {
            return Err(self.key_error("is not an RSA key for RS256"));
        };
        if self.alg != "RS256" {
            return Err(self.key_error("is not an RSA key for RS256"));
        }
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        let (Some(n), Some(e)) = (decode(n), decode(e)) else {
            return Err(self.key_error("has a modulus or an exponent that is not base64url"));
        };
        // The thumbprint is that of the form without leading zeros, which also `ring` requires.
        if n.first() == Some(&0) || e.first() == Some(&0) {
            return Err(self.key_error("has a number with leading zeros, which RFC 7518 section 2 excludes"));
        }
        self.check_kid()?;
        let exponent = e.iter().try_fold(0_u64, |sum, b| Some(sum.checked_mul(256)? + u64::from(*b)));
        if !MODULUS_LEN.contains(&n.len()) || !exponent.is_some_and(|e| (3..=MAX_EXPONENT).contains(&e)) {
            return Err(self.key_error(
                "does not have a modulus of 2048 to 8192 bits and an exponent from 3 to 2^33 - 1",
            ));
        }
        Ok(RsaPublicKeyComponents { n, e })
    }

    /// Checks that this key made `signature` over `signed` by the key's own algorithm.
    ///
    /// # Errors
    ///
    /// [`Error::KeySet`] if the key fails [`Jwk::check`], [`Error::Signature`] if it did not make the
    /// signature.
    pub fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), Error> {
        let outcome = match &self.params {
            KeyParams::Ec { .. } => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.p256_point()?).verify(signed, signature)
            }
            KeyParams::Rsa { .. } => {
                self.rsa_components()?.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature)
            }
        };
        outcome.map_err(|_| Error::Signature(self.kid.escape_debug().to_string()))
    }

    fn check_kid(&self) -> Result<(), Error> {
        if self.kid != self.params.thumbprint() {
            return Err(self.key_error("does not have its RFC 7638 thumbprint as its \"kid\""));
        }
        Ok(())
    }

    fn key_error(&self, reason: &str) -> Error {
        Error::KeySet(format!("key \"{}\" {reason}", self.kid.escape_debug()))
    }
}

impl KeyParams {
    /// RFC 7638 section 3: SHA-256 over a JSON object of the required members in alphabetical order,
    /// base64url.
    fn thumbprint(&self) -> String {
        // serde_json escapes the values and sorts the members.
        let members = match self {
            KeyParams::Ec { crv, x, y } => {
                serde_json::json!({ "crv": crv, "kty": "EC", "x": x, "y": y })
            }
            KeyParams::Rsa { n, e } => serde_json::json!({ "e": e, "kty": "RSA", "n": n }),
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, members.to_string().as_bytes());
        BASE64URL_NOPAD.encode(digest.as_ref())
    }
}

impl Jwks {
    /// Parses a JWK Set. Keys that are not a [`Jwk`] are skipped (RFC 7517 section 5); the others are checked
    /// when they are used.
    pub fn parse(text: &[u8]) -> Result<Jwks, Error> {
        #[derive(Deserialize)]
        struct JwkSetDocument {
            keys: Vec<serde_json::Value>,
        }
        let set: JwkSetDocument = json::from_object(text).map_err(|e| Error::KeySet(e.to_string()))?;
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        Ok(Jwks { keys })
    }

    /// The first key with this `kid`.
    pub fn find(&self, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.kid == kid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The P-256 key of RFC 7517 appendix A.1, with the thumbprint that other libraries compute.
    #[test]
    fn thumbprints_agree_with_other_libraries() {
        let (x, y) =
            ("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM");
        let params = KeyParams::Ec { crv: "P-256".into(), x: x.into(), y: y.into() };
        assert_eq!(params.thumbprint(), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
    }

    /// The RSA key and its thumbprint of RFC 7638 section 3.1.
    #[test]
    fn rsa_thumbprint_matches_rfc_7638() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP\
                 ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY\
                 368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f\
                 M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let modulus = BASE64URL_NOPAD.decode(n.as_bytes()).unwrap();
        let mut key = Jwk::from_rsa(&modulus, &[1, 0, 1]);
        assert_eq!(key.kid, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        key.check().unwrap();
        assert!(key.p256_point().is_err());
        key.alg = "ES256".into();
        assert!(key.check().unwrap_err().to_string().contains("not an RSA key for RS256"));
        assert!(Jwk::from_rsa(&modulus[..255], &[1, 0, 1]).check().is_err(), "less than 2048 bits");
        assert!(Jwk::from_rsa(&modulus, &[1]).check().is_err());
        for key in
            [Jwk::from_rsa(&[&[0], &modulus[..]].concat(), &[1, 0, 1]), Jwk::from_rsa(&modulus, &[0, 3])]
        {
            assert!(key.check().unwrap_err().to_string().contains("leading zeros"));
        }
    }

    #[test]
    fn kid_other_than_the_thumbprint_is_rejected() {
        let mut key = Jwk::from_point(&[4; 65]);
        assert_eq!(key.p256_point().unwrap(), [4; 65]);
        key.kid = "other".into();
        assert!(key.p256_point().unwrap_err().to_string().contains("thumbprint"));
    }

    #[test]
    fn jwk_round_trips_through_json() {
        for key in [Jwk::from_point(&[4; 65]), Jwk::from_rsa(&[200; 256], &[1, 0, 1])] {
            let text = serde_json::to_string(&key).unwrap();
            assert!(text.starts_with("{\"kty\":"), "{text}");
            assert_eq!(serde_json::from_str::<Jwk>(&text).unwrap(), key);
        }
    }
}

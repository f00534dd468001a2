//! Public keys as JSON (RFC 7517), named by their thumbprint (RFC 7638).

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

use super::Error;

/// RSA moduli that are taken, in bytes: 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// The longest public exponent, in bytes; 65537 has three.
const EXPONENT_MOST: usize = 8;

/// A public key that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    #[serde(flatten)]
    pub numbers: Numbers,
    pub kid: String,
    #[serde(rename = "use")]
    pub usage: String,
    pub alg: String,
}

/// What a key is made of, by its kind (RFC 7518 section 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kty")]
pub enum Numbers {
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
}

/// A set of keys. Keys of other kinds beside ours are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Jwks {
    pub keys: Vec<Jwk>,
}

impl Jwk {
    /// From an uncompressed point: 4, then x and y of 32 bytes each (SEC 1 section 2.3.3).
    pub fn from_point(point: &[u8; 65]) -> Jwk {
        let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..]));
        Jwk::named(Numbers::Ec { crv: "P-256".into(), x, y }, "ES256")
    }

    /// An RSA key by its modulus and public exponent, big endian, without leading zeros (RFC 7518 section 6.3.1).
    pub fn from_modulus(modulus: &[u8], exponent: &[u8]) -> Jwk {
        let (n, e) = (BASE64URL_NOPAD.encode(modulus), BASE64URL_NOPAD.encode(exponent));
        Jwk::named(Numbers::Rsa { n, e }, "RS256")
    }

    fn named(numbers: Numbers, alg: &str) -> Jwk {
        Jwk { kid: numbers.thumbprint(), numbers, usage: "sig".into(), alg: alg.into() }
    }

    /// Whether the key is of a kind that we know and named by its thumbprint, so that no name is borrowed.
    pub fn check(&self) -> Result<(), Error> {
        match &self.numbers {
            Numbers::Ec { .. } => self.point().map(drop),
            Numbers::Rsa { .. } => self.modulus().map(drop),
        }
    }

    /// The uncompressed point of a P-256 key.
    pub fn point(&self) -> Result<[u8; 65], Error> {
        let Numbers::Ec { crv, x, y } = &self.numbers else {
            return Err(self.fault("is not a P-256 key for ES256"));
        };
        if crv != "P-256" || self.alg != "ES256" {
            return Err(self.fault("is not a P-256 key for ES256"));
        }
        self.check_name()?;
        let half = |text: &str| -> Option<[u8; 32]> {
            BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
        };
        let (Some(x), Some(y)) = (half(x), half(y)) else {
            return Err(self.fault("has coordinates that are not 32 bytes of base64url"));
        };
        let mut point = [4; 65];
        point[1..33].copy_from_slice(&x);
        point[33..].copy_from_slice(&y);
        Ok(point)
    }

    /// Modulus and public exponent of an RSA key.
    pub fn modulus(&self) -> Result<RsaPublicKeyComponents<Vec<u8>>, Error> {
        let Numbers::Rsa { n, e } = &self.numbers else {
            return Err(self.fault("is not an RSA key for RS256"));
        };
        if self.alg != "RS256" {
            return Err(self.fault("is not an RSA key for RS256"));
        }
        self.check_name()?;
        let number = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        match (number(n), number(e)) {
            (Some(n), Some(e)) if MODULUS.contains(&n.len()) && e.len() <= EXPONENT_MOST => {
                Ok(RsaPublicKeyComponents { n, e })
            }
            _ => Err(self.fault("has no modulus of 2048 to 8192 bits and exponent in base64url")),
        }
    }

    /// Whether this key made `signature` over `signed`, by its own algorithm and no other.
    pub fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), Error> {
        let outcome = match &self.numbers {
            Numbers::Ec { .. } => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.point()?).verify(signed, signature)
            }
            Numbers::Rsa { .. } => self.modulus()?.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature),
        };
        outcome.map_err(|_| Error::Signature(self.kid.escape_debug().to_string()))
    }

    fn check_name(&self) -> Result<(), Error> {
        match self.kid == self.numbers.thumbprint() {
            true => Ok(()),
            false => Err(self.fault("is not named by its RFC 7638 thumbprint")),
        }
    }

    fn fault(&self, what: &str) -> Error {
        Error::Keys(format!("key \"{}\" {what}", self.kid.escape_debug()))
    }
}

impl Numbers {
    /// RFC 7638 section 3: SHA-256 over the required members in the order of the alphabet.
    fn thumbprint(&self) -> String {
        // Through JSON, so that no text within can pass for another member.
        let members = match self {
            Numbers::Ec { crv, x, y } => {
                serde_json::json!({ "crv": crv, "kty": "EC", "x": x, "y": y })
            }
            Numbers::Rsa { n, e } => serde_json::json!({ "e": e, "kty": "RSA", "n": n }),
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, members.to_string().as_bytes());
        BASE64URL_NOPAD.encode(digest.as_ref())
    }
}

impl Jwks {
    /// Reads a key set as a relying party would upload it.
    pub fn parse(text: &[u8]) -> Result<Jwks, Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|e| Error::Keys(e.to_string()))?;
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        Ok(Jwks { keys })
    }

    pub fn find(&self, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.kid == kid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The P-256 key of RFC 7517 appendix A.1, whose thumbprint other libraries give as well.
    #[test]
    fn thumbprints_agree_with_other_libraries() {
        let (x, y) =
            ("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM");
        let numbers = Numbers::Ec { crv: "P-256".into(), x: x.into(), y: y.into() };
        assert_eq!(numbers.thumbprint(), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
    }

    /// The RSA key of RFC 7638 section 3.1, with the thumbprint that stands there.
    #[test]
    fn an_rsa_thumbprint_is_that_of_the_rfc() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP\
                 ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY\
                 368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f\
                 M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let modulus = BASE64URL_NOPAD.decode(n.as_bytes()).unwrap();
        let mut key = Jwk::from_modulus(&modulus, &[1, 0, 1]);
        assert_eq!(key.kid, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        key.check().unwrap();
        assert!(key.point().is_err());
        key.alg = "ES256".into();
        assert!(key.check().unwrap_err().to_string().contains("not an RSA key for RS256"));
        assert!(Jwk::from_modulus(&modulus[..255], &[1, 0, 1]).check().is_err(), "less than 2048 bits");
    }

    #[test]
    fn a_borrowed_name_is_refused() {
        let mut key = Jwk::from_point(&[4; 65]);
        assert_eq!(key.point().unwrap(), [4; 65]);
        key.kid = "other".into();
        assert!(key.point().unwrap_err().to_string().contains("thumbprint"));
    }

    #[test]
    fn a_key_reads_as_it_is_written() {
        for key in [Jwk::from_point(&[4; 65]), Jwk::from_modulus(&[200; 256], &[1, 0, 1])] {
            let text = serde_json::to_string(&key).unwrap();
            assert!(text.starts_with("{\"kty\":"), "{text}");
            assert_eq!(serde_json::from_str::<Jwk>(&text).unwrap(), key);
        }
    }
}

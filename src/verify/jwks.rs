//! Public keys as JSON (RFC 7517), named by their thumbprint (RFC 7638).

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::Error;

/// A P-256 public key that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    pub kty: String,
    pub crv: String,
    pub x: String,
    pub y: String,
    pub kid: String,
    #[serde(rename = "use")]
    pub usage: String,
    pub alg: String,
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
        Jwk {
            kid: thumbprint(&x, &y),
            kty: "EC".into(),
            crv: "P-256".into(),
            x,
            y,
            usage: "sig".into(),
            alg: "ES256".into(),
        }
    }

    /// The uncompressed point. The name must be the key's thumbprint, so that no name is borrowed.
    pub fn point(&self) -> Result<[u8; 65], Error> {
        let fault = |what: &str| Error::Keys(format!("key \"{}\" {what}", self.kid.escape_debug()));
        if self.kty != "EC" || self.crv != "P-256" || self.alg != "ES256" {
            return Err(fault("is not a P-256 key for ES256"));
        }
        if self.kid != thumbprint(&self.x, &self.y) {
            return Err(fault("is not named by its RFC 7638 thumbprint"));
        }
        let half = |text: &str| -> Option<[u8; 32]> {
            BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
        };
        let (Some(x), Some(y)) = (half(&self.x), half(&self.y)) else {
            return Err(fault("has coordinates that are not 32 bytes of base64url"));
        };
        let mut point = [4; 65];
        point[1..33].copy_from_slice(&x);
        point[33..].copy_from_slice(&y);
        Ok(point)
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

/// RFC 7638 section 3: SHA-256 over the required members in the order of the alphabet.
fn thumbprint(x: &str, y: &str) -> String {
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    BASE64URL_NOPAD.encode(ring::digest::digest(&ring::digest::SHA256, members.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The P-256 key of RFC 7517 appendix A.1, whose thumbprint other libraries give as well.
    #[test]
    fn thumbprints_agree_with_other_libraries() {
        let (x, y) =
            ("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM");
        assert_eq!(thumbprint(x, y), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
    }

    #[test]
    fn a_borrowed_name_is_refused() {
        let mut key = Jwk::from_point(&[4; 65]);
        assert_eq!(key.point().unwrap(), [4; 65]);
        key.kid = "other".into();
        assert!(key.point().unwrap_err().to_string().contains("thumbprint"));
    }
}

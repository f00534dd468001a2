//! Verification of status lists (Token Status List), and of the status of a token in one.

use data_encoding::BASE64URL_NOPAD;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use serde::Deserialize;
use serde_json::Value;

use super::error::Error;
use super::jwks::Jwks;
use super::jws::Jws;
use super::token::LEEWAY;
use crate::clock::Timestamp;
use crate::json;

/// The `typ` of a status list that is a JWT.
pub const STATUS_LIST_TYP: &str = "statuslist+jwt";
/// Largest list in bytes, unpacked: a small text could otherwise fill the memory.
const MAX_UNPACKED: usize = 16 * 1024 * 1024;
/// Longest status list in bytes, as signed: that of the largest list that does not get smaller by compression,
/// in base64url twice.
pub const MAX_STATUS_LIST_LEN: usize = 32 * 1024 * 1024;

/// A status list whose signature, type and times were verified.
#[derive(Clone, Debug)]
pub struct StatusList {
    uri: String,
    issued: u64,
    bits: u8,
    values: Vec<u8>,
}

/// Where a token's status is: its claim `status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StatusReference {
    /// The index in the list.
    pub idx: u64,
    /// The URI of the list, which is also its `sub`.
    pub uri: String,
}

/// A status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The token is not revoked.
    Valid,
    /// The token is revoked.
    Invalid,
    /// The token is not to be accepted for now.
    Suspended,
    /// Another value, whose meaning the issuer defines.
    Other(u8),
}

#[derive(Deserialize)]
struct ListClaims {
    sub: String,
    iat: u64,
    exp: Option<u64>,
    status_list: ListClaim,
}

#[derive(Deserialize)]
struct ListClaim {
    bits: u8,
    lst: String,
}

impl StatusReference {
    /// The reference in a token's claims; `None` if the token has no status.
    ///
    /// # Errors
    /// [`Error::InvalidClaim`] for a status that is none of a status list.
    pub fn of_claims(claims: &Value) -> Result<Option<StatusReference>, Error> {
        let Some(status) = claims.get("status") else { return Ok(None) };
        let reference = status.get("status_list").ok_or_else(|| {
            Error::InvalidClaim("the claim \"status\" of the token refers to no status list".into())
        })?;
        StatusReference::deserialize(reference).map(Some).map_err(|e| Error::InvalidClaim(e.to_string()))
    }
}

impl StatusList {
    /// Verifies the signature, the type and the times of a status list, and unpacks it. The times are compared
    /// with a tolerance of [`LEEWAY`] seconds.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::UnknownKey`], [`Error::KeySet`], [`Error::Signature`] or
    /// [`Error::InvalidClaim`].
    pub fn verify(text: &str, keys: &Jwks, now: Timestamp) -> Result<StatusList, Error> {
        let jws = Jws::parse_with_limit(text, MAX_STATUS_LIST_LEN)?;
        jws.expect_typ(STATUS_LIST_TYP)?;
        let key =
            keys.find(jws.kid()).ok_or_else(|| Error::UnknownKey(jws.kid().escape_debug().to_string()))?;
        let invalid = |reason: &str| Error::InvalidClaim(reason.into());
        let claims: ListClaims =
            json::from_object(jws.verify(key)?).map_err(|e| Error::InvalidClaim(e.to_string()))?;
        let now = now.as_secs();
        if let Some(exp) = claims.exp.filter(|exp| now >= exp.saturating_add(LEEWAY)) {
            return Err(Error::InvalidClaim(format!("the status list expired {} s ago", now - exp)));
        }
        if claims.iat > now.saturating_add(LEEWAY) {
            return Err(invalid("the status list was issued in the future"));
        }
        let ListClaim { bits, lst } = claims.status_list;
        if !matches!(bits, 1 | 2 | 4 | 8) {
            return Err(invalid("\"bits\" of the status list is none of 1, 2, 4 and 8"));
        }
        let packed = BASE64URL_NOPAD
            .decode(lst.as_bytes())
            .map_err(|_| invalid("\"lst\" of the status list is not base64url"))?;
        let values = decompress_to_vec_zlib_with_limit(&packed, MAX_UNPACKED)
            .map_err(|_| invalid("\"lst\" of the status list is not zlib, or has more than 16 MiB"))?;
        Ok(StatusList { uri: claims.sub, issued: claims.iat, bits, values })
    }

    /// Its URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// When it was signed, less 10 s, in seconds since 1970.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// The status of a token.
    ///
    /// # Errors
    /// [`Error::InvalidClaim`] if this is another list than that of the token, or has no such index.
    pub fn status_of(&self, token: &StatusReference) -> Result<Status, Error> {
        if token.uri != self.uri {
            let (uri, list) = (token.uri.escape_debug(), self.uri.escape_debug());
            return Err(Error::InvalidClaim(format!(
                "the status of the token is in {uri}, and this list is {list}"
            )));
        }
        let in_byte = u64::from(8 / self.bits);
        let byte = usize::try_from(token.idx / in_byte).ok().and_then(|byte| self.values.get(byte));
        let byte =
            byte.ok_or_else(|| Error::InvalidClaim(format!("the status list has no index {}", token.idx)))?;
        // The least significant bits are those of the first index.
        let shift = (token.idx % in_byte) as u32 * u32::from(self.bits);
        let mask = u8::MAX >> (8 - self.bits);
        Ok(match (byte >> shift) & mask {
            0 => Status::Valid,
            1 => Status::Invalid,
            2 => Status::Suspended,
            other => Status::Other(other),
        })
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Status::Valid => f.write_str("valid"),
            Status::Invalid => f.write_str("revoked"),
            Status::Suspended => f.write_str("suspended"),
            Status::Other(value) => write!(f, "status {value}, whose meaning the issuer defines"),
        }
    }
}

#[cfg(test)]
mod tests {
    use miniz_oxide::deflate::compress_to_vec_zlib;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;
    use crate::verify::Jwk;

    const NOW: u64 = 1_800_000_000;
    const URI: &str = "https://example.org/v1/status-list/7";

    struct Signer(EcdsaKeyPair, SystemRandom);

    impl Signer {
        fn new() -> Signer {
            let random = SystemRandom::new();
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let key =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
            Signer(key, random)
        }

        fn jwk(&self) -> Jwk {
            Jwk::from_point(self.0.public_key().as_ref().try_into().unwrap())
        }

        fn keys(&self) -> Jwks {
            Jwks { keys: vec![self.jwk()] }
        }

        fn sign(&self, typ: &str, claims: &Value) -> String {
            let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
            let input = format!(
                "{}.{}",
                part(&json!({ "alg": "ES256", "kid": self.jwk().kid, "typ": typ })),
                part(claims)
            );
            let signature = self.0.sign(&self.1, input.as_bytes()).unwrap();
            format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }

        fn verify(&self, claims: &Value) -> Result<StatusList, Error> {
            StatusList::verify(&self.sign(STATUS_LIST_TYP, claims), &self.keys(), Timestamp::from_secs(NOW))
        }
    }

    fn claims(bits: u8, values: &[u8]) -> Value {
        let lst = BASE64URL_NOPAD.encode(&compress_to_vec_zlib(values, 9));
        json!({ "sub": URI, "iat": NOW - 10, "exp": NOW + 60, "ttl": 30, "status_list": { "bits": bits, "lst": lst } })
    }

    fn at(idx: u64) -> StatusReference {
        StatusReference { idx, uri: URI.into() }
    }

    /// The values of the specification's section 4.1 and 4.2.
    #[test]
    fn the_examples_of_the_specification_are_decoded() {
        let signer = Signer::new();
        let list = signer.verify(&claims(1, &[0xb9, 0xa3])).unwrap();
        let values: Vec<u8> =
            (0..16).map(|idx| u8::from(list.status_of(&at(idx)) == Ok(Status::Invalid))).collect();
        assert_eq!(values, [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]);
        assert!(list.status_of(&at(16)).unwrap_err().to_string().contains("no index 16"));
        assert!(list.status_of(&at(u64::MAX)).is_err());
        let list = signer.verify(&claims(2, &[0xc9, 0x44, 0xf9])).unwrap();
        let values: Vec<Status> = (0..4).map(|idx| list.status_of(&at(idx)).unwrap()).collect();
        assert_eq!(values, [Status::Invalid, Status::Suspended, Status::Valid, Status::Other(3)]);
        let other = StatusReference { idx: 0, uri: format!("{URI}1") };
        assert!(list.status_of(&other).unwrap_err().to_string().contains("this list is"));
    }

    #[test]
    fn lists_that_are_not_valid_are_refused() {
        let signer = Signer::new();
        let with = |name: &str, value: Value| {
            let mut claims = claims(1, &[0; 64]);
            claims[name] = value;
            signer.verify(&claims).unwrap_err().to_string()
        };
        assert!(signer.verify(&claims(1, &[0; 64])).is_ok());
        assert!(with("exp", json!(NOW - 30)).contains("expired 30 s ago"));
        assert!(with("iat", json!(NOW + 31)).contains("in the future"));
        assert!(with("status_list", json!({ "bits": 3, "lst": "eNo" })).contains("bits"));
        assert!(with("status_list", json!({ "bits": 1, "lst": "!" })).contains("base64url"));
        assert!(with("status_list", json!({ "bits": 1, "lst": "AAAA" })).contains("zlib"));
        let bomb = BASE64URL_NOPAD.encode(&compress_to_vec_zlib(&vec![0; MAX_UNPACKED + 1], 1));
        assert!(with("status_list", json!({ "bits": 1, "lst": bomb })).contains("16 MiB"));
        let (text, now) = (signer.sign("JWT", &claims(1, &[0])), Timestamp::from_secs(NOW));
        assert!(StatusList::verify(&text, &signer.keys(), now).is_err(), "another type");
        let text = signer.sign(STATUS_LIST_TYP, &claims(1, &[0]));
        assert!(StatusList::verify(&text, &Signer::new().keys(), now).is_err(), "another key");
    }

    #[test]
    fn a_claim_status_of_another_mechanism_is_an_error() {
        assert_eq!(StatusReference::of_claims(&json!({})), Ok(None));
        let claims = json!({ "status": { "status_list": { "idx": 3, "uri": URI } } });
        assert_eq!(StatusReference::of_claims(&claims), Ok(Some(at(3))));
        for status in [json!({}), json!({ "status_list": { "idx": -1, "uri": URI } }), json!(1)] {
            assert!(StatusReference::of_claims(&json!({ "status": status })).is_err());
        }
    }
}

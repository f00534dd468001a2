//! Assembly of compact JWS (RFC 7515 section 3.1), for every token and statement that this host signs.

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::error::Error;
use super::key::IssuingKey;
use crate::digest::sha256;
use crate::verify::Jwk;

/// r and s of ES256 (RFC 7518 section 3.4).
const ES256_SIGNATURE_LEN: usize = 64;
/// RS256 with a key of 2048 bits, the only size that the host's TPM is asked for.
const RS256_SIGNATURE_LEN: usize = 256;

/// Almost all claims fit: a buffer that grows is copied, and overwritten, several times for each token.
const CLAIMS_CAPACITY: usize = 1024;

/// The JOSE header of every token of one type and key, encoded once.
#[derive(Clone, Debug)]
pub(super) struct SigningHeader {
    /// Base64url, with the dot that follows.
    encoded: String,
    kid: String,
    /// Bytes of a signature by the key.
    signature_len: usize,
    key_protection: &'static str,
}

#[derive(Serialize)]
struct JoseHeader<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

impl SigningHeader {
    /// For access tokens and JWT-SVIDs of type `typ`, signed in memory.
    pub(super) fn for_memory_key(key: &Jwk, typ: &str) -> Result<SigningHeader, Error> {
        SigningHeader::new(key, key.kid.clone(), typ, "sealed")
    }

    /// For access tokens and statements of type `typ`, signed in the TPM.
    pub(super) fn for_tpm_key(key: &Jwk, typ: &str) -> Result<SigningHeader, Error> {
        SigningHeader::new(key, key.kid.clone(), typ, "tpm")
    }

    /// For WIT-SVIDs, signed in memory.
    pub(super) fn for_wit_svid(key: &Jwk) -> Result<SigningHeader, Error> {
        SigningHeader::new(key, wit_kid(&key.kid), "wit+jwt", "sealed")
    }

    fn new(key: &Jwk, kid: String, typ: &str, key_protection: &'static str) -> Result<SigningHeader, Error> {
        let header = serde_json::to_vec(&JoseHeader { alg: &key.alg, kid: &kid, typ })?;
        let signature_len = if key.alg == "RS256" { RS256_SIGNATURE_LEN } else { ES256_SIGNATURE_LEN };
        Ok(SigningHeader {
            encoded: BASE64URL_NOPAD.encode(&header) + ".",
            kid,
            signature_len,
            key_protection,
        })
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// `hostbadge.key` of the tokens: `sealed` for a key in memory that is sealed at rest, `tpm` for a key in
    /// the TPM.
    pub(super) fn key_protection(&self) -> &'static str {
        self.key_protection
    }
}

/// The `kid` of an issuing key in the WIT bundle. It differs from the JWT bundle's, so that a `kid` is in one
/// bundle only.
pub(super) fn wit_kid(kid: &str) -> String {
    format!("wit-{kid}")
}

/// A compact JWS without its signature.
pub(super) struct UnsignedJws {
    /// RFC 7515 section 5.1, with capacity for the signature.
    signing_input: String,
}

impl UnsignedJws {
    /// A JWT (RFC 7519): the payload is the JSON of `claims`.
    pub(super) fn of_claims(header: &SigningHeader, claims: &impl Serialize) -> Result<UnsignedJws, Error> {
        let mut payload = Vec::with_capacity(CLAIMS_CAPACITY);
        serde_json::to_writer(&mut payload, claims)?;
        Ok(UnsignedJws::new(header, &payload))
    }

    pub(super) fn new(header: &SigningHeader, payload: &[u8]) -> UnsignedJws {
        let capacity = header.encoded.len()
            + BASE64URL_NOPAD.encode_len(payload.len())
            + 1
            + BASE64URL_NOPAD.encode_len(header.signature_len);
        let mut signing_input = String::with_capacity(capacity);
        signing_input.push_str(&header.encoded);
        BASE64URL_NOPAD.encode_append(payload, &mut signing_input);
        UnsignedJws { signing_input }
    }

    /// SHA-256 of the signing input, which ES256 and RS256 sign.
    pub(super) fn digest(&self) -> [u8; 32] {
        sha256(self.signing_input.as_bytes())
    }

    /// The JWS with a signature over [`UnsignedJws::digest`] (RFC 7518 sections 3.3 and 3.4).
    pub(super) fn with_signature(self, signature: &[u8]) -> String {
        let mut jws = self.signing_input;
        jws.push('.');
        BASE64URL_NOPAD.encode_append(signature, &mut jws);
        jws
    }

    /// The JWS with a signature by a key in memory.
    pub(super) fn sign(self, key: &IssuingKey) -> Result<String, Error> {
        let signature = key.sign(self.signing_input.as_bytes())?;
        Ok(self.with_signature(signature.as_ref()))
    }
}

/// A new token identifier (RFC 7519 section 4.1.7): 128 random bits in base64url.
pub(super) fn new_jti() -> Result<String, Error> {
    let mut jti = [0; 16];
    SystemRandom::new().fill(&mut jti).map_err(Error::Random)?;
    Ok(BASE64URL_NOPAD.encode(&jti))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::verify::jws::Jws;

    #[test]
    fn signed_jws_verifies_and_fits_its_capacity() {
        let pkcs8 = IssuingKey::generate().unwrap();
        let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(1)).unwrap();
        let header = SigningHeader::for_tpm_key(key.jwk(), "test+jwt").unwrap();
        let unsigned = UnsignedJws::new(&header, b"{}");
        let capacity = unsigned.signing_input.capacity();
        let text = unsigned.sign(&key).unwrap();
        assert_eq!((text.capacity(), text.len()), (capacity, capacity), "no reallocation and no slack");
        let jws = Jws::parse(&text).unwrap();
        jws.expect_typ("test+jwt").unwrap();
        assert_eq!(jws.kid(), key.kid());
        assert_eq!(jws.verify(key.jwk()).unwrap(), b"{}");
    }

    #[test]
    fn jti_has_128_bits() {
        let (first, second) = (new_jti().unwrap(), new_jti().unwrap());
        assert_eq!(BASE64URL_NOPAD.decode(first.as_bytes()).unwrap().len(), 16);
        assert_ne!(first, second);
    }
}

//! The digest of the body of an action.

use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

use super::error::Error;
use crate::digest::sha256;

/// SHA-256 over the content of a request (RFC 9110 section 6.4), as it is sent: with its content coding, and
/// without a transfer coding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BodyDigest([u8; 32]);

impl BodyDigest {
    /// The digest of this content.
    pub fn of(content: &[u8]) -> BodyDigest {
        BodyDigest(sha256(content))
    }

    /// A digest that the caller has computed.
    pub fn from_bytes(digest: [u8; 32]) -> BodyDigest {
        BodyDigest(digest)
    }

    /// Parses 64 hexadecimal digits, or base64 or base64url of 32 bytes, with or without padding (RFC 4648).
    ///
    /// # Errors
    ///
    /// [`Error::BodyDigestLength`] for the length of another digest, [`Error::BodyDigestEncoding`].
    pub fn parse(text: &str) -> Result<BodyDigest, Error> {
        let bytes = match text.len() {
            64 => HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
            43 | 44 => decode_base64(text),
            len => return Err(Error::BodyDigestLength { len }),
        };
        let encoding = if text.len() == 64 { "hexadecimal" } else { "base64 of 32 bytes" };
        let digest = bytes.and_then(|bytes| bytes.try_into().ok());
        digest.map(BodyDigest).ok_or(Error::BodyDigestEncoding { encoding })
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hexadecimal digits in lower case.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// The value of the header `Content-Digest` (RFC 9530 section 2).
    pub fn to_content_digest(&self) -> String {
        format!("sha-256=:{}:", BASE64.encode(&self.0))
    }
}

impl fmt::Debug for BodyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyDigest({})", self.to_hex())
    }
}

/// Either alphabet, with at most the one character of padding that 32 bytes have.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_suffix('=').unwrap_or(text).as_bytes();
    BASE64_NOPAD.decode(text).or_else(|_| BASE64URL_NOPAD.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "5f8f04f6a3a892aaabbddb6cf273894493773960d4a325b105fee46eef4304f1";

    #[test]
    fn digest_has_one_meaning_in_every_encoding() {
        let digest = BodyDigest::parse(HEX).unwrap();
        for text in [
            HEX.to_ascii_uppercase().as_str(),
            "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=",
            "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE",
        ] {
            assert_eq!(BodyDigest::parse(text).unwrap(), digest, "{text}");
        }
        assert_eq!(BodyDigest::from_bytes([255; 32]), BodyDigest::parse(&"ff".repeat(32)).unwrap());
        let (base64, base64url) = (format!("{}8", "/".repeat(42)), format!("{}8=", "_".repeat(42)));
        assert_eq!(BodyDigest::parse(&base64).unwrap(), BodyDigest::parse(&base64url).unwrap());
        assert_eq!(digest.to_hex(), HEX);
    }

    /// RFC 9530 appendix D: the representation digest of `{"hello": "world"}` with a line feed.
    #[test]
    fn content_digest_is_that_of_rfc_9530() {
        let digest = BodyDigest::of(b"{\"hello\": \"world\"}\n");
        assert_eq!(digest.to_content_digest(), "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:");
    }

    #[test]
    fn other_digests_are_refused() {
        for len in [0, 32, 40, 42, 45, 63, 65, 96, 128, 1000] {
            let refused = BodyDigest::parse(&"a".repeat(len));
            assert!(
                matches!(refused, Err(Error::BodyDigestLength { len: actual }) if actual == len),
                "{len}"
            );
        }
        for text in [
            "g".repeat(64),
            "/".repeat(43),
            "a".repeat(44),
            format!("{}-/8", "a".repeat(40)),
            "\u{e9}".repeat(32),
        ] {
            assert!(matches!(BodyDigest::parse(&text), Err(Error::BodyDigestEncoding { .. })), "{text}");
        }
    }
}

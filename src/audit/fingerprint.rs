//! Digests by which something that was handed out is recognized.

use data_encoding::HEXLOWER;
use serde::{Serialize, Serializer};

use crate::digest::sha256;

/// The SHA-256 digest of a token's text or of a certificate. Both have more than 128 bits that nobody can guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of the bytes as the receiver has them.
    pub(super) fn of(bytes: &[u8]) -> Fingerprint {
        Fingerprint(sha256(bytes))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; 64];
        HEXLOWER.encode_mut(&self.0, &mut text);
        serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_digest_in_hexadecimal() {
        let expected = "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"";
        assert_eq!(serde_json::to_string(&Fingerprint::of(b"abc")).unwrap(), expected);
    }
}

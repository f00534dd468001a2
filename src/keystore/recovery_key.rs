//! The recovery key: an administrator keeps it offline, and it opens this host's secrets without its TPM.

use data_encoding::BASE32_NOPAD;
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use super::cipher;
use super::error::{Error, RecoveryKeyFault};
use crate::digest::sha256;

/// The prefix of every recovery key, so that a leaked one can be recognized.
const PREFIX: &str = "hbr1";
/// Characters of a group in the text form.
const GROUP_LEN: usize = 7;
/// Bytes of the checksum after the secret, which distinguishes a typing error from a wrong key.
const CHECKSUM_LEN: usize = 3;
/// A longer text is rejected unread.
const MAX_TEXT_LEN: usize = 256;

/// A recovery key: 256 random bits. It is shown once and not stored. A key derived from it is stored,
/// encrypted, once the administrator has confirmed that it arrived.
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

impl RecoveryKey {
    /// Generates a recovery key.
    pub fn generate() -> Result<RecoveryKey, Error> {
        cipher::random_key().map(RecoveryKey)
    }

    /// Parses the text form. Case, whitespace and dashes are ignored.
    ///
    /// # Errors
    /// [`Error::MalformedRecoveryKey`]
    pub fn parse(text: &str) -> Result<RecoveryKey, Error> {
        if text.len() > MAX_TEXT_LEN {
            return Err(Error::MalformedRecoveryKey(RecoveryKeyFault::TooLong));
        }
        let normalized: Zeroizing<String> = Zeroizing::new(
            text.chars()
                .filter(|c| !c.is_whitespace() && *c != '-')
                .map(|c| c.to_ascii_uppercase())
                .collect(),
        );
        let Some(digits) = normalized.strip_prefix(&PREFIX.to_ascii_uppercase()) else {
            return Err(Error::MalformedRecoveryKey(RecoveryKeyFault::Prefix));
        };
        let Ok(bytes) = BASE32_NOPAD.decode(digits.as_bytes()).map(Zeroizing::new) else {
            return Err(Error::MalformedRecoveryKey(RecoveryKeyFault::Encoding));
        };
        let Some((secret, given_checksum)) = bytes.split_first_chunk::<32>() else {
            return Err(Error::MalformedRecoveryKey(RecoveryKeyFault::TooShort));
        };
        if given_checksum != checksum(secret) {
            return Err(Error::MalformedRecoveryKey(RecoveryKeyFault::Checksum));
        }
        Ok(RecoveryKey(Zeroizing::new(*secret)))
    }

    /// The text form: `hbr1-` and the secret with its checksum in base32, in groups of seven.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(32 + CHECKSUM_LEN));
        bytes.extend_from_slice(&*self.0);
        bytes.extend_from_slice(&checksum(&self.0));
        let digits = Zeroizing::new(BASE32_NOPAD.encode(&bytes).to_ascii_lowercase());
        let mut text = Zeroizing::new(String::with_capacity(80));
        text.push_str(PREFIX);
        for (i, c) in digits.chars().enumerate() {
            if i % GROUP_LEN == 0 {
                text.push('-');
            }
            text.push(c);
        }
        text
    }

    /// SHA-256, to recognize the key when it is confirmed.
    pub(super) fn digest(&self) -> [u8; 32] {
        sha256(&*self.0)
    }

    /// Derives the key that encrypts key-encryption keys (HKDF-SHA256, RFC 5869).
    pub(super) fn wrapping_key(&self) -> Result<Zeroizing<[u8; 32]>, Error> {
        let mut key = Zeroizing::new([0; 32]);
        Salt::new(HKDF_SHA256, b"hostbadge")
            .extract(&*self.0)
            .expand(&[b"recovery wrapping key, version 1"], HKDF_SHA256)
            .and_then(|okm| okm.fill(key.as_mut_slice()))
            .map_err(|_| Error::Crypto("HKDF-SHA256 key derivation"))?;
        Ok(key)
    }
}

impl std::fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryKey")
    }
}

fn checksum(secret: &[u8; 32]) -> [u8; CHECKSUM_LEN] {
    let [first, second, third, ..] = sha256(&[b"hostbadge recovery key", secret.as_slice()].concat());
    [first, second, third]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_ignores_case_and_separators() {
        let key = RecoveryKey::generate().unwrap();
        let text = key.to_text();
        assert_eq!(text.split('-').count(), 9, "{}", *text);
        for typed in [
            text.to_string(),
            text.to_ascii_uppercase(),
            text.replace('-', " "),
            format!("\n  {}\n", text.replace('-', "")),
        ] {
            assert_eq!(*RecoveryKey::parse(&typed).unwrap().0, *key.0);
        }
        assert_eq!(format!("{key:?}"), "RecoveryKey");
    }

    #[test]
    fn parse_rejects_typos() {
        let text = RecoveryKey::generate().unwrap().to_text();
        for at in text.match_indices(|c: char| c != '-').map(|(at, _)| at).skip(4) {
            let other = if text.as_bytes()[at] == b'a' { "b" } else { "a" };
            let mut typed = text.to_string();
            typed.replace_range(at..=at, other);
            assert!(RecoveryKey::parse(&typed).is_err(), "{at}");
            let mut shorter = text.to_string();
            shorter.remove(at);
            assert!(RecoveryKey::parse(&shorter).is_err(), "{at}");
        }
        for typed in ["", "hbr1", "hbr1-", "a password", &"a".repeat(10_000)] {
            let error = RecoveryKey::parse(typed).unwrap_err().to_string();
            assert!(error.starts_with("this is not a recovery key"), "{error}");
        }
    }
}

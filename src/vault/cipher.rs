//! Encryption at rest: AES-256-GCM (NIST SP 800-38D) with a random nonce, written in base64.

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::Error;

/// Encrypts `secret`; `name` says what it is, and what is opened under another name does not open.
///
/// A key may encrypt 2^32 secrets before nonces would be likely to repeat; a host has some hundreds.
pub fn seal(key: &[u8; 32], name: &[u8], secret: &[u8]) -> Result<String, Error> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Random)?;
    // Grows by the tag; reserved now, so that no copy of the secret is left behind by a reallocation.
    let mut text = Zeroizing::new(Vec::with_capacity(secret.len() + AES_256_GCM.tag_len()));
    text.extend_from_slice(secret);
    cipher(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut *text)
        .map_err(|_| Error::Random)?;
    let mut bytes = nonce.to_vec();
    bytes.extend_from_slice(&text);
    Ok(BASE64.encode(&bytes))
}

/// The secret; none under another key or name, or if a bit of it was changed.
pub fn open(key: &[u8; 32], name: &[u8], text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = BASE64.decode(text.as_bytes()).ok()?;
    let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>()?;
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = cipher(key).ok()?.open_in_place(nonce, Aad::from(name), &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

/// A secret of 32 bytes.
pub(super) fn open_key(key: &[u8; 32], name: &[u8], text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut opened = Zeroizing::new([0; 32]);
    let secret = open(key, name, text).filter(|secret| secret.len() == opened.len())?;
    opened.copy_from_slice(&secret);
    Some(opened)
}

/// 32 random bytes.
pub(super) fn random_key() -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut key = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(key.as_mut_slice()).map_err(|_| Error::Random)?;
    Ok(key)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Error> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| Error::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_under_its_own_key_and_name_alone() {
        let text = seal(&[7; 32], b"name", b"secret").unwrap();
        assert_eq!(*open(&[7; 32], b"name", &text).unwrap(), b"secret");
        assert!(open(&[8; 32], b"name", &text).is_none());
        assert!(open(&[7; 32], b"other", &text).is_none());
        assert!(open_key(&[7; 32], b"name", &text).is_none(), "not 32 bytes");
    }

    #[test]
    fn every_changed_bit_and_every_truncation_is_refused() {
        let text = seal(&[7; 32], b"name", b"secret").unwrap();
        let bytes = BASE64.decode(text.as_bytes()).unwrap();
        for length in 0..bytes.len() {
            assert!(open(&[7; 32], b"name", &BASE64.encode(&bytes[..length])).is_none(), "{length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&[7; 32], b"name", &BASE64.encode(&changed)).is_none(), "{bit}");
        }
        assert!(open(&[7; 32], b"name", "not base64!").is_none());
    }
}

//! Encryption at rest: AES-256-GCM (NIST SP 800-38D) with a random nonce, written in base64.

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::error::Error;
use crate::stack::wiping_stack;

/// Encrypts `secret` under `key`. The result is nonce, ciphertext and tag, in base64. `aad` names the secret:
/// it does not decrypt under another name.
///
/// With random nonces a key may encrypt 2^32 secrets (NIST SP 800-38D section 8.3); a host has some hundreds.
pub fn encrypt(key: &[u8; 32], aad: &[u8], secret: &[u8]) -> Result<String, Error> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(Error::Random)?;
    // With capacity for the tag, since a reallocation would leave a copy of the secret in freed memory.
    let mut buffer = Zeroizing::new(Vec::with_capacity(secret.len() + AES_256_GCM.tag_len()));
    buffer.extend_from_slice(secret);
    let nonce_of_key = Nonce::assume_unique_for_key(nonce);
    wiping_stack(|| {
        aead_key(key)?
            .seal_in_place_append_tag(nonce_of_key, Aad::from(aad), &mut *buffer)
            .map_err(|_| Error::Crypto("AES-256-GCM encryption"))
    })?;
    let mut ciphertext = nonce.to_vec();
    ciphertext.extend_from_slice(&buffer);
    Ok(BASE64.encode(&ciphertext))
}

/// Decrypts what [`encrypt`] returned. `None` under another key or name, or if the ciphertext was changed.
pub fn decrypt(key: &[u8; 32], aad: &[u8], ciphertext: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = BASE64.decode(ciphertext.as_bytes()).ok()?;
    let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>()?;
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let open = || Some(aead_key(key).ok()?.open_in_place(nonce, Aad::from(aad), &mut text).ok()?.len());
    let length = wiping_stack(open)?;
    text.truncate(length);
    Some(text)
}

/// [`decrypt`] for a secret of 32 bytes.
pub(super) fn decrypt_key(key: &[u8; 32], aad: &[u8], ciphertext: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut decrypted = Zeroizing::new([0; 32]);
    let secret = decrypt(key, aad, ciphertext).filter(|secret| secret.len() == decrypted.len())?;
    decrypted.copy_from_slice(&secret);
    Some(decrypted)
}

/// 32 random bytes.
pub fn random_key() -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut key = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(key.as_mut_slice()).map_err(Error::Random)?;
    Ok(key)
}

fn aead_key(key: &[u8; 32]) -> Result<LessSafeKey, Error> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| Error::Crypto("AES-256-GCM key setup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decrypts_only_with_the_same_key_and_aad() {
        let text = encrypt(&[7; 32], b"name", b"secret").unwrap();
        assert_eq!(*decrypt(&[7; 32], b"name", &text).unwrap(), b"secret");
        assert!(decrypt(&[8; 32], b"name", &text).is_none());
        assert!(decrypt(&[7; 32], b"other", &text).is_none());
        assert!(decrypt_key(&[7; 32], b"name", &text).is_none(), "not 32 bytes");
    }

    #[test]
    fn modified_or_truncated_ciphertext_is_rejected() {
        let text = encrypt(&[7; 32], b"name", b"secret").unwrap();
        let bytes = BASE64.decode(text.as_bytes()).unwrap();
        for length in 0..bytes.len() {
            assert!(decrypt(&[7; 32], b"name", &BASE64.encode(&bytes[..length])).is_none(), "{length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decrypt(&[7; 32], b"name", &BASE64.encode(&changed)).is_none(), "{bit}");
        }
        assert!(decrypt(&[7; 32], b"name", "not base64!").is_none());
    }
}

//! An issuing key at rest: encrypted with AES-256-GCM under a key that only this host's TPM unseals.

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, IssuingKey};

/// A key as it lies in `issuing.json`, with the host key's word for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    pub kid: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// Base64 of nonce and AES-256-GCM ciphertext of the PKCS#8 document; the `kid` is its associated data.
    key: String,
    /// JWS by the host key.
    pub endorsement: String,
}

impl Sealed {
    /// Encrypts a key whose PKCS#8 document is `pkcs8`.
    pub fn seal(
        kek: &[u8; 32],
        key: &IssuingKey,
        pkcs8: &[u8],
        endorsement: String,
    ) -> Result<Sealed, Error> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Random)?;
        // Grows by the tag; reserved now, so that no copy of the key is left behind by a reallocation.
        let mut text = Zeroizing::new(Vec::with_capacity(pkcs8.len() + AES_256_GCM.tag_len()));
        text.extend_from_slice(pkcs8);
        cipher(kek)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.kid().as_bytes()),
                &mut *text,
            )
            .map_err(|_| Error::Random)?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&text);
        Ok(Sealed {
            kid: key.kid().to_owned(),
            created: key.created().secs(),
            key: BASE64.encode(&bytes),
            endorsement,
        })
    }

    /// The PKCS#8 document; none under another key or name.
    pub fn open(&self, kek: &[u8; 32]) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = BASE64.decode(self.key.as_bytes()).ok()?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut text = Zeroizing::new(text.to_vec());
        let aad = Aad::from(self.kid.as_bytes());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = cipher(kek).ok()?.open_in_place(nonce, aad, &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("kid", &self.kid).finish_non_exhaustive()
    }
}

fn cipher(kek: &[u8; 32]) -> Result<LessSafeKey, Error> {
    UnboundKey::new(&AES_256_GCM, kek).map(LessSafeKey::new).map_err(|_| Error::Random)
}

#[cfg(test)]
impl Sealed {
    /// A key of which only the name matters.
    pub fn named(kid: &str, created: u64) -> Sealed {
        Sealed { kid: kid.into(), created, key: "secret".into(), endorsement: "e".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn a_sealed_key_opens_under_its_own_key_and_name_alone() {
        let pkcs8 = IssuingKey::generate().unwrap();
        let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(1)).unwrap();
        let sealed = Sealed::seal(&[7; 32], &key, &pkcs8, String::new()).unwrap();
        assert_eq!(*sealed.open(&[7; 32]).unwrap(), *pkcs8);
        assert!(sealed.open(&[8; 32]).is_none());
        assert!(Sealed { kid: "other".into(), ..sealed }.open(&[7; 32]).is_none());
    }
}

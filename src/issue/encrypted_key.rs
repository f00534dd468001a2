//! An issuing key at rest: AES-256-GCM under a key-encryption key that only this host's TPM unseals.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::Error;
use super::key::IssuingKey;
use crate::keystore::{self, KekPair};

/// A key as it is stored in `issuing.json`, with the host key's endorsement.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EncryptedKey {
    pub(super) kid: String,
    /// Seconds since the epoch.
    pub(super) created: u64,
    /// The encrypted PKCS#8 document, in base64. The associated data is the `kid`.
    key: String,
    /// A JWS by the host key.
    pub(super) endorsement: String,
}

impl EncryptedKey {
    /// Encrypts `key`, whose PKCS#8 document is `pkcs8`.
    pub(super) fn encrypt(
        kek: &[u8; 32],
        key: &IssuingKey,
        pkcs8: &[u8],
        endorsement: String,
    ) -> Result<EncryptedKey, Error> {
        Ok(EncryptedKey {
            kid: key.kid().to_owned(),
            created: key.created().as_secs(),
            key: keystore::encrypt(kek, key.kid().as_bytes(), pkcs8)?,
            endorsement,
        })
    }

    /// The PKCS#8 document; `None` under other key-encryption keys or another `kid`.
    pub(super) fn decrypt(&self, keks: &KekPair) -> Option<Zeroizing<Vec<u8>>> {
        keks.decrypt(self.kid.as_bytes(), &self.key)
    }
}

impl std::fmt::Debug for EncryptedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncryptedKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl EncryptedKey {
    /// A key with this `kid` that cannot be decrypted.
    pub(super) fn for_test(kid: &str, created: u64) -> EncryptedKey {
        EncryptedKey { kid: kid.into(), created, key: "secret".into(), endorsement: "e".into() }
    }

    /// A key whose texts have the lengths of those of a real one.
    pub(super) fn of_full_size_for_test(number: u64) -> EncryptedKey {
        let (key, endorsement) = ("k".repeat(256), "e".repeat(800));
        EncryptedKey { kid: format!("{number:043}"), created: 1_800_000_000, key, endorsement }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn decrypts_only_with_its_own_kek_and_kid() {
        let pkcs8 = IssuingKey::generate().unwrap();
        let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(1)).unwrap();
        let encrypted_key = EncryptedKey::encrypt(&[7; 32], &key, &pkcs8, String::new()).unwrap();
        let keks = |latest: u8, previous: Option<u8>| KekPair {
            latest: Zeroizing::new([latest; 32]),
            previous: previous.map(|previous| Zeroizing::new([previous; 32])),
        };
        assert_eq!(*encrypted_key.decrypt(&keks(7, None)).unwrap(), *pkcs8);
        assert_eq!(*encrypted_key.decrypt(&keks(8, Some(7))).unwrap(), *pkcs8);
        assert!(
            encrypted_key.decrypt(&keks(8, None)).is_none()
                && encrypted_key.decrypt(&keks(8, Some(9))).is_none()
        );
        assert!(EncryptedKey { kid: "other".into(), ..encrypted_key }.decrypt(&keks(7, None)).is_none());
    }
}

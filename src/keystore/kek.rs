//! Key-encryption keys in memory.

use zeroize::Zeroizing;

use super::cipher;

/// A key-encryption key: an AES-256 key that is wiped when it is dropped.
pub type Kek = Zeroizing<[u8; 32]>;

/// The key-encryption keys in use.
#[derive(Clone)]
pub struct KekPair {
    /// Encrypts.
    pub latest: Kek,
    /// Still decrypts, while files are being encrypted again under the latest key.
    pub previous: Option<Kek>,
}

impl KekPair {
    /// The latest key, then the previous one.
    pub fn iter(&self) -> impl Iterator<Item = &Kek> {
        std::iter::once(&self.latest).chain(&self.previous)
    }

    /// Decrypts with one of the keys, as [`cipher::decrypt`] does.
    pub fn decrypt(&self, aad: &[u8], ciphertext: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.iter().find_map(|kek| cipher::decrypt(kek, aad, ciphertext))
    }
}

/// A file with secrets under these keys. The previous key is dropped once each of them is under the latest
/// key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KekDependent {
    /// The keys of the credential compartments, in `credentials.db`.
    Credentials,
    /// The keys of the issuing CAs, in `ca.json`.
    IssuingCas,
    /// The issuing keys, in `issuing.json`.
    IssuingKeys,
    /// The key-encryption keys of tenants, in `tenants.json`.
    Tenants,
}

impl KekDependent {
    pub(super) const ALL: [KekDependent; 4] = [
        KekDependent::Credentials,
        KekDependent::IssuingCas,
        KekDependent::IssuingKeys,
        KekDependent::Tenants,
    ];
}

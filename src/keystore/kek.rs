//! Key-encryption keys in the clear.

use zeroize::Zeroizing;

use super::cipher;

/// One of them. Wiped when dropped.
pub type Kek = Zeroizing<[u8; 32]>;

/// Those that are in use: the latest, and, while it is being replaced, the one before, which still opens.
#[derive(Clone)]
pub struct KekPair {
    pub latest: Kek,
    pub previous: Option<Kek>,
}

impl KekPair {
    pub fn iter(&self) -> impl Iterator<Item = &Kek> {
        std::iter::once(&self.latest).chain(&self.previous)
    }

    /// What one of them encrypted under this name, as [`super::open`] does.
    pub fn decrypt(&self, aad: &[u8], ciphertext: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.iter().find_map(|kek| cipher::decrypt(kek, aad, ciphertext))
    }
}

/// Who encrypts under these keys. A key is forgotten only when nothing of any of them is under it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KekDependent {
    /// `ca.json`
    IssuingCas,
    /// `issuing.json`
    IssuingKeys,
}

impl KekDependent {
    pub(super) const ALL: [KekDependent; 2] = [KekDependent::IssuingCas, KekDependent::IssuingKeys];
}

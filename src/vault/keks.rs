//! Key-encryption keys in the clear.

use zeroize::Zeroizing;

use super::cipher;

/// One of them. Wiped when dropped.
pub type Kek = Zeroizing<[u8; 32]>;

/// Those that are in use: the latest, and, while it is being replaced, the one before, which still opens.
#[derive(Clone)]
pub struct Keks {
    pub latest: Kek,
    pub before: Option<Kek>,
}

impl Keks {
    pub fn iter(&self) -> impl Iterator<Item = &Kek> {
        std::iter::once(&self.latest).chain(&self.before)
    }

    /// What one of them encrypted under this name, as [`super::open`] does.
    pub fn open(&self, name: &[u8], text: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.iter().find_map(|kek| cipher::open(kek, name, text))
    }
}

/// Who encrypts under these keys. A key is forgotten only when nothing of any of them is under it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// `ca.json`
    IssuingCas,
    /// `issuing.json`
    IssuingKeys,
}

impl Holder {
    pub(super) const ALL: [Holder; 2] = [Holder::IssuingCas, Holder::IssuingKeys];
}

//! An issuing key at rest: encrypted with AES-256-GCM under a key that only this host's TPM unseals.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, IssuingKey};
use crate::vault::{self, Keks};

/// A key as it lies in `issuing.json`, with the host key's word for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    pub kid: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// The PKCS#8 document, encrypted; the `kid` is its name.
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
        Ok(Sealed {
            kid: key.kid().to_owned(),
            created: key.created().secs(),
            key: vault::seal(kek, key.kid().as_bytes(), pkcs8)?,
            endorsement,
        })
    }

    /// The same key with another word for it.
    pub fn endorsed_anew(&self, endorsement: String) -> Sealed {
        Sealed { endorsement, ..self.clone() }
    }

    /// The PKCS#8 document; none under other keys or another name.
    pub fn open(&self, keks: &Keks) -> Option<Zeroizing<Vec<u8>>> {
        keks.open(self.kid.as_bytes(), &self.key)
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("kid", &self.kid).finish_non_exhaustive()
    }
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
        let keks = |latest: u8, before: Option<u8>| Keks {
            latest: Zeroizing::new([latest; 32]),
            before: before.map(|before| Zeroizing::new([before; 32])),
        };
        assert_eq!(*sealed.open(&keks(7, None)).unwrap(), *pkcs8);
        assert_eq!(*sealed.open(&keks(8, Some(7))).unwrap(), *pkcs8);
        assert!(sealed.open(&keks(8, None)).is_none() && sealed.open(&keks(8, Some(9))).is_none());
        assert!(Sealed { kid: "other".into(), ..sealed }.open(&keks(7, None)).is_none());
    }
}

//! `tenants.json`: the key-encryption key of each tenant, encrypted under the host's.
//!
//! A tenant's key encrypts its issuing keys and the key of its credentials' compartment. Once the entry is
//! gone, nothing decrypts them, and the secrets of other tenants are not affected. The host's key, and not the
//! TPM, encrypts these keys: unsealing takes a discrete TPM some 100 ms for each, and the host's key follows
//! changes of the PCRs, the recovery key and the TPM for all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cipher;
use super::error::Error;
use super::kek::{Kek, KekPair};
use super::kek_report::{KekReport, KekUse};
use crate::clock::Timestamp;
use crate::store;

pub(super) const FILE_NAME: &str = "tenants.json";
pub(super) const VERSION: u64 = 1;

/// Tenants with a key, more than those that have an issuing key and those that have a credential.
const MAX_TENANTS: usize = 2048;

/// `tenants.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantKeksFile {
    /// By tenant.
    tenants: BTreeMap<String, EncryptedKek>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EncryptedKek {
    /// Seconds since the epoch.
    created: u64,
    /// The key, encrypted under the host's key-encryption key with the tenant as associated data.
    key: String,
    /// The key before it, as long as it may encrypt something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
}

/// What a tenant's key encrypts. The previous key is dropped once both are under the latest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TenantKekDependent {
    /// The key of the compartment of its credentials.
    Credentials,
    /// Its issuing keys.
    IssuingKeys,
}

impl TenantKekDependent {
    pub(super) const ALL: [TenantKekDependent; 2] =
        [TenantKekDependent::Credentials, TenantKekDependent::IssuingKeys];
}

/// The key-encryption keys of tenants, in memory.
#[derive(Clone, Default)]
pub struct TenantKeks(BTreeMap<String, KekPair>);

impl TenantKeks {
    /// The key of a tenant; `None` where it has none.
    pub fn get(&self, tenant: &str) -> Option<&Kek> {
        self.pair(tenant).map(|keks| &keks.latest)
    }

    /// The same with the key before it, if that may encrypt something.
    pub fn pair(&self, tenant: &str) -> Option<&KekPair> {
        self.0.get(tenant)
    }
}

#[cfg(test)]
impl TenantKeks {
    /// These keys, by tenant.
    pub(crate) fn for_test(keks: impl IntoIterator<Item = (String, Kek)>) -> TenantKeks {
        let pair = |(tenant, latest)| (tenant, KekPair { latest, previous: None });
        TenantKeks(keks.into_iter().map(pair).collect())
    }
}

impl TenantKeksFile {
    /// Reads the file in the state directory; no tenants where it does not exist.
    pub(super) fn read(dir: &Path) -> Result<TenantKeksFile, Error> {
        Ok(store::read(&path(dir), VERSION)?.unwrap_or_default())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The keys, by tenant.
    pub(super) fn reports(&self) -> Vec<KekReport> {
        let report = |(tenant, entry): (&String, &EncryptedKek)| {
            let name = format!("{tenant} {}", entry.created);
            let created = Timestamp::from_secs(entry.created);
            KekReport::new(name.as_bytes(), KekUse::Tenant(tenant.clone()), Some(created))
        };
        self.tenants.iter().map(report).collect()
    }

    pub(super) fn contains(&self, tenant: &str) -> bool {
        self.tenants.contains_key(tenant)
    }

    /// Decrypts the keys of all tenants.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] if one does not decrypt.
    pub(super) fn decrypt(&self, keks: &KekPair) -> Result<TenantKeks, Error> {
        let decrypt = |(tenant, entry): (&String, &EncryptedKek)| {
            let aad = aad(tenant);
            let decrypt = |text: &String| {
                let kek = keks.iter().find_map(|kek| cipher::decrypt_key(kek, &aad, text));
                kek.ok_or_else(|| invalid_file("has a key that does not decrypt"))
            };
            let previous = entry.previous.as_ref().map(decrypt).transpose()?;
            Ok((tenant.clone(), KekPair { latest: decrypt(&entry.key)?, previous }))
        };
        Ok(TenantKeks(self.tenants.iter().map(decrypt).collect::<Result<_, Error>>()?))
    }

    /// Adds the key of a tenant that has none.
    ///
    /// # Errors
    /// [`Error::TooManyTenants`].
    pub(super) fn add(
        &mut self,
        host_kek: &Kek,
        tenant: &str,
        kek: &Kek,
        now: Timestamp,
    ) -> Result<(), Error> {
        if self.tenants.len() >= MAX_TENANTS {
            return Err(Error::TooManyTenants { max: MAX_TENANTS });
        }
        let key = cipher::encrypt(host_kek, &aad(tenant), kek.as_slice())?;
        self.tenants.insert(tenant.to_owned(), EncryptedKek { created: now.as_secs(), key, previous: None });
        Ok(())
    }

    /// Whether a key has a previous one.
    pub(super) fn has_previous(&self) -> bool {
        self.tenants.values().any(|entry| entry.previous.is_some())
    }

    /// Gives each tenant another key, beside the present one. The random numbers are the kernel's: those of the TPM
    /// would take some ms for each of many tenants.
    pub(super) fn rotated(&self, host_keks: &KekPair, now: Timestamp) -> Result<TenantKeksFile, Error> {
        let rewrapped = self.rewrapped(host_keks)?;
        let rotate = |(tenant, entry): (String, EncryptedKek)| {
            let key = cipher::encrypt(&host_keks.latest, &aad(&tenant), cipher::random_key()?.as_slice())?;
            Ok((tenant, EncryptedKek { created: now.as_secs(), key, previous: Some(entry.key) }))
        };
        let tenants = rewrapped.tenants.into_iter().map(rotate).collect::<Result<_, Error>>()?;
        Ok(TenantKeksFile { tenants })
    }

    /// Drops the previous keys.
    pub(super) fn without_previous(&self) -> TenantKeksFile {
        let mut file = self.clone();
        file.tenants.values_mut().for_each(|entry| entry.previous = None);
        file
    }

    /// Drops the key of a tenant; whether it had one.
    pub(super) fn remove(&mut self, tenant: &str) -> bool {
        self.tenants.remove(tenant).is_some()
    }

    /// Encrypts the keys again under the latest of the host's keys.
    pub(super) fn rewrapped(&self, host_keks: &KekPair) -> Result<TenantKeksFile, Error> {
        let keks = self.decrypt(host_keks)?;
        let mut rewrapped = TenantKeksFile::default();
        for (tenant, entry) in &self.tenants {
            let pair = keks.pair(tenant).ok_or_else(|| invalid_file("has a key that does not decrypt"))?;
            let encrypt = |kek: &Kek| cipher::encrypt(&host_keks.latest, &aad(tenant), kek.as_slice());
            let (key, previous) = (encrypt(&pair.latest)?, pair.previous.as_ref().map(encrypt).transpose()?);
            rewrapped.tenants.insert(tenant.clone(), EncryptedKek { created: entry.created, key, previous });
        }
        Ok(rewrapped)
    }
}

/// The associated data names the purpose and the tenant, so that one key cannot be put in place of another.
fn aad(tenant: &str) -> Vec<u8> {
    format!("hostbadge tenant key-encryption key\0{tenant}").into_bytes()
}

fn invalid_file(reason: &str) -> Error {
    Error::InvalidFile { path: FILE_NAME.into(), reason: reason.to_owned() }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn kek(byte: u8) -> Kek {
        Zeroizing::new([byte; 32])
    }

    fn keks(latest: u8, previous: Option<u8>) -> KekPair {
        KekPair { latest: kek(latest), previous: previous.map(kek) }
    }

    fn file() -> TenantKeksFile {
        let mut file = TenantKeksFile::default();
        file.add(&kek(1), "acme", &kek(10), NOW).unwrap();
        file.add(&kek(1), "globex", &kek(20), NOW).unwrap();
        file
    }

    #[test]
    fn keys_decrypt_under_the_hosts_key_and_their_own_tenant() {
        let dir = tempfile::tempdir().unwrap();
        let written = file();
        store::write(&path(dir.path()), VERSION, &written).unwrap();
        let read = TenantKeksFile::read(dir.path()).unwrap();
        assert_eq!(read, written);
        let opened = read.decrypt(&keks(1, None)).unwrap();
        assert_eq!((opened.get("acme"), opened.get("globex")), (Some(&kek(10)), Some(&kek(20))));
        assert!(read.decrypt(&keks(2, None)).is_err());
        let mut swapped = read;
        let acme = swapped.tenants["acme"].clone();
        swapped.tenants.insert("globex".into(), acme);
        assert!(swapped.decrypt(&keks(1, None)).is_err());
    }

    #[test]
    fn a_removed_key_takes_no_other_with_it() {
        let mut file = file();
        assert!(file.remove("acme") && !file.remove("acme"));
        let opened = file.decrypt(&keks(1, None)).unwrap();
        assert_eq!((opened.get("acme"), opened.get("globex")), (None, Some(&kek(20))));
    }

    #[test]
    fn keys_follow_the_hosts_key() {
        let rewrapped = file().rewrapped(&keks(2, Some(1))).unwrap();
        assert_eq!(rewrapped.decrypt(&keks(2, None)).unwrap().get("acme"), Some(&kek(10)));
        assert!(rewrapped.decrypt(&keks(1, None)).is_err());
    }

    #[test]
    fn each_tenant_gets_another_key_and_keeps_the_previous_one_until_it_is_dropped() {
        let rotated = file().rotated(&keks(2, Some(1)), NOW).unwrap();
        assert!(rotated.has_previous());
        let opened = rotated.decrypt(&keks(2, None)).unwrap();
        for (tenant, before) in [("acme", kek(10)), ("globex", kek(20))] {
            let pair = opened.pair(tenant).unwrap();
            assert!(pair.previous == Some(before.clone()) && pair.latest != before);
        }
        let dropped = rotated.without_previous();
        assert!(!dropped.has_previous());
        let acme = dropped.decrypt(&keks(2, None)).unwrap();
        assert_eq!(acme.get("acme"), opened.get("acme"));
        assert!(acme.pair("acme").unwrap().previous.is_none());
    }

    #[test]
    fn the_number_of_tenants_is_bounded() {
        let mut file = TenantKeksFile::default();
        let entry = EncryptedKek { created: 1, key: "k".repeat(100), previous: Some("p".repeat(100)) };
        file.tenants = (0..MAX_TENANTS).map(|n| (format!("{n:063}"), entry.clone())).collect();
        assert!(matches!(file.add(&kek(1), "acme", &kek(2), NOW), Err(Error::TooManyTenants { .. })));
        let dir = tempfile::tempdir().unwrap();
        store::write(&path(dir.path()), VERSION, &file).unwrap();
        assert_eq!(TenantKeksFile::read(dir.path()).unwrap(), file);
    }
}

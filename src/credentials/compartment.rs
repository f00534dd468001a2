//! Compartments: the key of one tenant's credentials, and what is encrypted under it.

use zeroize::Zeroizing;

use super::error::Error;
use super::value::SecretValue;
use crate::keystore::{self, Kek, KekPair};
use crate::store::{CompartmentRow, CredentialRow};

/// The key of one tenant's credentials, in memory.
#[derive(Clone)]
pub(super) struct Compartment {
    tenant: String,
    /// The host on which the key was made. It stays when the state is moved to another TPM.
    host_id: String,
    key: Kek,
}

impl Compartment {
    /// A compartment with a new key.
    pub fn create(tenant: &str, host_id: &str) -> Result<Compartment, Error> {
        let (tenant, host_id) = (tenant.to_owned(), host_id.to_owned());
        Ok(Compartment { tenant, host_id, key: keystore::random_key()? })
    }

    /// Decrypts the compartment's key.
    ///
    /// # Errors
    /// [`Error::Undecryptable`].
    pub fn from_row(row: &CompartmentRow, keks: &KekPair) -> Result<Compartment, Error> {
        let decrypted = keks.decrypt(&key_aad(&row.tenant, &row.host_id), &row.encrypted_key);
        let mut key = Kek::default();
        let bytes = decrypted.filter(|bytes| bytes.len() == key.len()).ok_or(Error::Undecryptable)?;
        key.copy_from_slice(&bytes);
        Ok(Compartment { tenant: row.tenant.clone(), host_id: row.host_id.clone(), key })
    }

    /// The compartment's row, with its key encrypted under `kek`.
    pub fn to_row(&self, kek: &Kek) -> Result<CompartmentRow, Error> {
        let (tenant, host_id) = (self.tenant.clone(), self.host_id.clone());
        let encrypted_key = keystore::encrypt(kek, &key_aad(&tenant, &host_id), self.key.as_slice())?;
        Ok(CompartmentRow { tenant, host_id, encrypted_key })
    }

    /// Encrypts the value of a version.
    pub fn encrypt(&self, name: &str, version: u64, value: &SecretValue) -> Result<String, Error> {
        let aad = self.value_aad(name, version);
        Ok(keystore::encrypt(&self.key, &aad, value.as_str().as_bytes())?)
    }

    /// Decrypts the value of a version.
    ///
    /// # Errors
    /// [`Error::Undecryptable`].
    pub fn decrypt(&self, row: &CredentialRow) -> Result<SecretValue, Error> {
        let aad = self.value_aad(&row.name, row.version);
        let bytes: Zeroizing<Vec<u8>> =
            keystore::decrypt(&self.key, &aad, &row.ciphertext).ok_or(Error::Undecryptable)?;
        SecretValue::from_bytes(bytes).map_err(|_| Error::Undecryptable)
    }

    /// Names cannot contain NUL, so that two of these are different if any part is.
    fn value_aad(&self, name: &str, version: u64) -> Vec<u8> {
        let Compartment { tenant, host_id, .. } = self;
        format!("hostbadge credential\0{tenant}\0{name}\0{version}\0{host_id}").into_bytes()
    }
}

fn key_aad(tenant: &str, host_id: &str) -> Vec<u8> {
    format!("hostbadge credential compartment\0{tenant}\0{host_id}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek(byte: u8) -> Kek {
        Zeroizing::new([byte; 32])
    }

    fn row(name: &str, version: u64, ciphertext: String) -> CredentialRow {
        CredentialRow {
            tenant: "t".into(),
            name: name.into(),
            version,
            created: 1,
            expires: None,
            retires: None,
            size: 6,
            ciphertext,
        }
    }

    #[test]
    fn a_value_decrypts_only_under_its_own_tenant_name_version_and_host() {
        let compartment = Compartment::create("t", "host").unwrap();
        let value = SecretValue::new(Zeroizing::new("secret".to_owned())).unwrap();
        let text = compartment.encrypt("a", 1, &value).unwrap();
        assert_eq!(compartment.decrypt(&row("a", 1, text.clone())).unwrap().as_str(), "secret");
        assert!(compartment.decrypt(&row("b", 1, text.clone())).is_err());
        assert!(compartment.decrypt(&row("a", 2, text.clone())).is_err());
        let other_tenant = Compartment { tenant: "u".into(), ..compartment.clone() };
        assert!(other_tenant.decrypt(&row("a", 1, text.clone())).is_err());
        let other_host = Compartment { host_id: "other".into(), ..compartment.clone() };
        assert!(other_host.decrypt(&row("a", 1, text.clone())).is_err());
        assert!(Compartment::create("t", "host").unwrap().decrypt(&row("a", 1, text)).is_err());
    }

    #[test]
    fn the_key_decrypts_under_the_latest_and_the_previous_key() {
        let compartment = Compartment::create("t", "host").unwrap();
        let row = compartment.to_row(&kek(1)).unwrap();
        let read = |latest, previous: Option<u8>| {
            Compartment::from_row(&row, &KekPair { latest: kek(latest), previous: previous.map(kek) })
        };
        assert_eq!(*read(1, None).unwrap().key, *compartment.key);
        assert_eq!(*read(2, Some(1)).unwrap().key, *compartment.key);
        assert!(matches!(read(2, None), Err(Error::Undecryptable)));
        let moved = CompartmentRow { tenant: "u".into(), ..row.clone() };
        assert!(Compartment::from_row(&moved, &KekPair { latest: kek(1), previous: None }).is_err());
    }
}

//! Compartments: the key of one tenant's credentials, or of one agent's own, and what is encrypted under it.

use ring::hmac;
use zeroize::Zeroizing;

use super::compartment_keks::CompartmentKeks;
use super::error::Error;
use super::value::SecretValue;
use crate::keystore::{self, Kek};
use crate::store::{CompartmentRow, CredentialRow};

/// The key of one tenant's credentials, in memory.
#[derive(Clone)]
pub(super) struct Compartment {
    tenant: String,
    /// The agent whose own credentials these are; empty for those of the tenant.
    agent: String,
    /// The host on which the key was made. It stays when the state is moved to another TPM.
    host_id: String,
    key: Kek,
}

impl Compartment {
    /// A compartment with a new key.
    pub fn create(tenant: &str, host_id: &str) -> Result<Compartment, Error> {
        let (tenant, host_id) = (tenant.to_owned(), host_id.to_owned());
        Ok(Compartment { tenant, agent: String::new(), host_id, key: keystore::random_key()? })
    }

    /// Decrypts the compartment's key. The flag is whether it is to be encrypted again, as
    /// [`CompartmentKeks::decrypt`] says.
    ///
    /// # Errors
    /// [`Error::Undecryptable`].
    pub fn from_row(row: &CompartmentRow, keks: &CompartmentKeks) -> Result<(Compartment, bool), Error> {
        let aad = key_aad(&row.tenant, &row.host_id);
        let decrypted = keks.decrypt(&row.tenant, &aad, &row.encrypted_key);
        let mut key = Kek::default();
        let (bytes, is_outdated) =
            decrypted.filter(|(bytes, _)| bytes.len() == key.len()).ok_or(Error::Undecryptable)?;
        key.copy_from_slice(&bytes);
        let (tenant, host_id) = (row.tenant.clone(), row.host_id.clone());
        Ok((Compartment { tenant, agent: String::new(), host_id, key }, is_outdated))
    }

    /// The compartment of an agent's own credentials, in the tenant's. Its key depends on the tenant's and on the
    /// agent's, so that whoever lacks either decrypts nothing.
    pub fn of_agent(&self, agent: &str, agent_kek: &Kek) -> Compartment {
        let mut key = Kek::default();
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.key.as_slice()));
        context.update(b"hostbadge agent credential compartment\0");
        context.update(agent_kek.as_slice());
        key.copy_from_slice(context.sign().as_ref());
        Compartment { agent: agent.to_owned(), key, ..self.clone() }
    }

    /// The compartment's row, with its key encrypted under `kek`.
    pub fn to_row(&self, kek: &Kek) -> Result<CompartmentRow, Error> {
        let (tenant, host_id) = (self.tenant.clone(), self.host_id.clone());
        let encrypted_key = keystore::encrypt(kek, &key_aad(&tenant, &host_id), self.key.as_slice())?;
        Ok(CompartmentRow { tenant, host_id, encrypted_key })
    }

    /// The same compartment with another key.
    pub fn with_new_key(&self) -> Result<Compartment, Error> {
        Compartment::create(&self.tenant, &self.host_id)
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
        let Compartment { tenant, agent, host_id, .. } = self;
        if !agent.is_empty() {
            let own = format!("hostbadge agent credential\0{tenant}\0{agent}\0{name}\0{version}\0{host_id}");
            return own.into_bytes();
        }
        format!("hostbadge credential\0{tenant}\0{name}\0{version}\0{host_id}").into_bytes()
    }
}

fn key_aad(tenant: &str, host_id: &str) -> Vec<u8> {
    format!("hostbadge credential compartment\0{tenant}\0{host_id}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystore::{KekPair, TenantKeks};

    fn kek(byte: u8) -> Kek {
        Zeroizing::new([byte; 32])
    }

    fn row(name: &str, version: u64, ciphertext: String) -> CredentialRow {
        CredentialRow {
            tenant: "t".into(),
            agent: String::new(),
            name: name.into(),
            version,
            created: 1,
            expires: None,
            retires: None,
            size: 6,
            ciphertext,
            is_canary: false,
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
    fn an_agents_own_value_needs_the_keys_of_tenant_and_agent() {
        let tenant = Compartment::create("t", "host").unwrap();
        let own = tenant.of_agent("a", &kek(1));
        let value = SecretValue::new(Zeroizing::new("secret".to_owned())).unwrap();
        let stored = CredentialRow { agent: "a".into(), ..row("n", 1, own.encrypt("n", 1, &value).unwrap()) };
        assert_eq!(tenant.of_agent("a", &kek(1)).decrypt(&stored).unwrap().as_str(), "secret");
        assert!(tenant.decrypt(&stored).is_err());
        assert!(tenant.of_agent("a", &kek(2)).decrypt(&stored).is_err());
        assert!(tenant.of_agent("b", &kek(1)).decrypt(&stored).is_err());
        let other = Compartment::create("t", "host").unwrap();
        assert!(other.of_agent("a", &kek(1)).decrypt(&stored).is_err());
    }

    fn keks(latest: u8, previous: Option<u8>, tenants: &[(&str, u8)]) -> CompartmentKeks {
        let host = KekPair { latest: kek(latest), previous: previous.map(kek) };
        let tenants = tenants.iter().map(|(tenant, byte)| ((*tenant).to_owned(), kek(*byte)));
        CompartmentKeks { host, tenants: TenantKeks::for_test(tenants) }
    }

    #[test]
    fn the_key_of_no_tenant_decrypts_under_the_latest_and_the_previous_key_of_the_host() {
        let compartment = Compartment::create("", "host").unwrap();
        let row = compartment.to_row(&kek(1)).unwrap();
        let read = |latest, previous| Compartment::from_row(&row, &keks(latest, previous, &[]));
        let (opened, is_outdated) = read(1, None).unwrap();
        assert_eq!((*opened.key, is_outdated), (*compartment.key, false));
        assert_eq!(*read(2, Some(1)).unwrap().0.key, *compartment.key);
        assert!(matches!(read(2, None), Err(Error::Undecryptable)));
        let moved = CompartmentRow { tenant: "u".into(), ..row.clone() };
        assert!(Compartment::from_row(&moved, &keks(1, None, &[("u", 1)])).is_err());
    }

    #[test]
    fn the_key_of_a_tenant_decrypts_under_the_tenants_key_and_that_of_an_earlier_release() {
        let compartment = Compartment::create("t", "host").unwrap();
        let own = compartment.to_row(&kek(7)).unwrap();
        let read = |row, tenants| Compartment::from_row(row, &keks(1, None, tenants));
        let (opened, is_outdated) = read(&own, &[("t", 7)]).unwrap();
        assert_eq!((*opened.key, is_outdated), (*compartment.key, false));
        assert!(read(&own, &[]).is_err() && read(&own, &[("u", 7)]).is_err());
        let earlier = compartment.to_row(&kek(1)).unwrap();
        for tenants in [&[][..], &[("t", 7)]] {
            let (opened, is_outdated) = read(&earlier, tenants).unwrap();
            assert_eq!((*opened.key, is_outdated), (*compartment.key, true));
        }
    }
}

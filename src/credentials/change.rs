//! Changes of the stored credentials: computed in memory, and then written as one transaction.

use std::time::Duration;

use super::compartment::Compartment;
use super::compartment_keks::CompartmentKeks;
use super::error::Error;
use super::holder::Holder;
use super::open::{OpenCredentials, has_passed};
use super::report::{CredentialReport, reports};
use super::value::SecretValue;
use crate::clock::Timestamp;
use crate::keystore::Kek;
use crate::store::CredentialRow;

/// Credentials of a host.
const MAX_CREDENTIALS: usize = 1024;
/// Versions of one credential.
const MAX_VERSIONS: usize = 8;
/// Bytes of all ciphertexts, which are in memory.
const MAX_TOTAL_SIZE: usize = 16 * 1024 * 1024;

/// From when on a version is not released.
pub type Expiry = Option<Timestamp>;

/// A version to be stored.
pub struct NewVersion {
    /// Who may use it.
    pub holder: Holder,
    /// The credential's name.
    pub name: String,
    /// Its value.
    pub value: SecretValue,
    /// From when on it is not released; `None` where it does not expire.
    pub expires: Expiry,
    /// Whether the credential is a canary. A later version is what the first one was.
    pub is_canary: bool,
}

impl OpenCredentials {
    /// Adds the first version of a credential. `kek` encrypts the key of a compartment that is new.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::ExpiresInThePast`], [`Error::LimitReached`].
    pub(super) fn put(
        &mut self,
        new: &NewVersion,
        host_id: &str,
        kek: &Kek,
        now: Timestamp,
    ) -> Result<u64, Error> {
        if !self.versions(&new.holder, &new.name).is_empty() {
            return Err(Error::AlreadyExists);
        }
        if reports(&self.rows.credentials).len() >= MAX_CREDENTIALS {
            return Err(Error::LimitReached("this host has 1024 credentials, which is the most"));
        }
        let tenant = &new.holder.tenant;
        if !self.compartments.contains_key(tenant) {
            let compartment = Compartment::create(tenant, host_id)?;
            let row = compartment.to_row(kek)?;
            let at = self.rows.compartments.partition_point(|other| other.tenant < row.tenant);
            self.rows.compartments.insert(at, row);
            self.compartments.insert(tenant.clone(), compartment);
        }
        self.insert(new, new.is_canary, 1, now)?;
        Ok(1)
    }

    /// Checks that a tenant can have one more credential.
    ///
    /// # Errors
    /// [`Error::QuotaReached`].
    pub(super) fn check_quota(&self, tenant: &str, quota: Option<u32>) -> Result<(), Error> {
        let Some(quota) = quota else { return Ok(()) };
        if self.count_of_tenant(tenant) < quota as usize { Ok(()) } else { Err(Error::QuotaReached(quota)) }
    }

    /// Adds a version, which is released from now on. The previous ones are destroyed now, or after
    /// `overlap`.
    ///
    /// # Errors
    /// [`Error::UnknownCredential`], [`Error::ExpiresInThePast`], [`Error::LimitReached`].
    pub(super) fn rotate(
        &mut self,
        new: &NewVersion,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let versions = self.versions(&new.holder, &new.name);
        let latest = versions.last().ok_or(Error::UnknownCredential)?.version;
        let kept = versions.iter().filter(|row| !has_passed(row.retires, now)).count();
        if !overlap.is_zero() && kept >= MAX_VERSIONS {
            return Err(Error::LimitReached("this credential has 8 versions, which is the most"));
        }
        let retires = now.after(overlap).as_secs();
        for row in self.rows.credentials.iter_mut() {
            if row.name == new.name && Holder::of_row(row) == new.holder {
                row.retires = Some(row.retires.map_or(retires, |earlier| earlier.min(retires)));
            }
        }
        let is_canary = self.is_canary(&new.holder, &new.name);
        self.retire_due(now);
        self.insert(new, is_canary, latest + 1, now)?;
        Ok(latest + 1)
    }

    /// Removes a credential, or one of its versions. Returns the versions that were removed.
    ///
    /// # Errors
    /// [`Error::UnknownCredential`], [`Error::UnknownVersion`].
    pub(super) fn remove(
        &mut self,
        holder: &Holder,
        name: &str,
        version: Option<u64>,
    ) -> Result<Vec<u64>, Error> {
        let versions: Vec<u64> = self.versions(holder, name).iter().map(|row| row.version).collect();
        let removed = match version {
            _ if versions.is_empty() => return Err(Error::UnknownCredential),
            Some(version) if !versions.contains(&version) => return Err(Error::UnknownVersion(version)),
            Some(version) => vec![version],
            None => versions,
        };
        let is_removed = |row: &CredentialRow| {
            row.name == name && Holder::of_row(row) == *holder && removed.contains(&row.version)
        };
        self.rows.credentials.retain(|row| !is_removed(row));
        Ok(removed)
    }

    /// Removes the versions whose overlap has ended. Returns them, without their values.
    pub(super) fn retire_due(&mut self, now: Timestamp) -> Vec<CredentialRow> {
        let is_due = |row: &CredentialRow| has_passed(row.retires, now);
        let due = self.rows.credentials.iter().filter(|row| is_due(row)).cloned().collect();
        self.rows.credentials.retain(|row| !is_due(row));
        due
    }

    /// Encrypts the keys of all compartments again, each under the latest key for it.
    pub(super) fn rewrap(&mut self, keks: &CompartmentKeks) -> Result<(), Error> {
        let row = |(tenant, compartment): (&String, &Compartment)| {
            compartment.to_row(keks.latest(tenant).ok_or(Error::Undecryptable)?)
        };
        self.rows.compartments = self.compartments.iter().map(row).collect::<Result<_, _>>()?;
        self.is_outdated = false;
        Ok(())
    }

    /// Gives the compartments other keys, and encrypts the values again. With an old key-encryption key and an old copy
    /// of the disk, nothing is decrypted that is stored later. A compartment with values of an agent whose key is lost
    /// keeps its key: the agent's key may come back.
    ///
    /// # Errors
    /// [`Error::Undecryptable`]; nothing is changed then.
    pub(super) fn renew_compartments(&mut self, keks: &CompartmentKeks) -> Result<(), Error> {
        let tenants: Vec<String> = self.compartments.keys().cloned().collect();
        for tenant in tenants {
            match self.renew_compartment(&tenant) {
                Ok(()) | Err(Error::AgentKeyLost) => {}
                Err(error) => return Err(error),
            }
        }
        self.rewrap(keks)
    }

    fn renew_compartment(&mut self, tenant: &str) -> Result<(), Error> {
        let mut renewed = self.clone();
        let compartment = self.compartments.get(tenant).ok_or(Error::Undecryptable)?.with_new_key()?;
        renewed.compartments.insert(tenant.to_owned(), compartment);
        let mut credentials = std::mem::take(&mut renewed.rows.credentials);
        for row in credentials.iter_mut().filter(|row| row.tenant == tenant) {
            let value = self.decrypt(row)?;
            let compartment = renewed.compartment_of(&Holder::of_row(row))?;
            row.ciphertext = compartment.encrypt(&row.name, row.version, &value)?;
        }
        renewed.rows.credentials = credentials;
        *self = renewed;
        Ok(())
    }

    /// Removes all credentials of a tenant with the key of its compartment. Returns how many there were.
    pub(super) fn remove_tenant(&mut self, tenant: &str) -> usize {
        let removed = self.count_of_tenant(tenant);
        self.rows.credentials.retain(|row| row.tenant != tenant);
        self.rows.compartments.retain(|row| row.tenant != tenant);
        self.compartments.remove(tenant);
        removed
    }

    /// Removes the own credentials of an agent.
    pub(super) fn remove_agent(&mut self, agent: &str) {
        self.rows.credentials.retain(|row| row.agent != agent);
        self.agent_keks.forget(agent);
    }

    /// The number of credentials of a tenant, with those of its agents alone.
    fn count_of_tenant(&self, tenant: &str) -> usize {
        let is_of_tenant = |report: &CredentialReport| report.tenant.as_deref().unwrap_or_default() == tenant;
        reports(&self.rows.credentials).into_iter().filter(is_of_tenant).count()
    }

    fn insert(
        &mut self,
        new: &NewVersion,
        is_canary: bool,
        version: u64,
        now: Timestamp,
    ) -> Result<(), Error> {
        let NewVersion { holder, name, value, expires, .. } = new;
        if expires.is_some_and(|expires| expires <= now) {
            return Err(Error::ExpiresInThePast);
        }
        let ciphertext = self.compartment_of(holder)?.encrypt(name, version, value)?;
        let row = CredentialRow {
            tenant: holder.tenant.clone(),
            agent: holder.agent.clone(),
            name: name.clone(),
            version,
            created: now.as_secs(),
            expires: expires.map(Timestamp::as_secs),
            retires: None,
            size: value.as_str().len() as u64,
            ciphertext,
            is_canary,
        };
        let total: usize = self.rows.credentials.iter().map(|row| row.ciphertext.len()).sum();
        if total + row.ciphertext.len() > MAX_TOTAL_SIZE {
            return Err(Error::LimitReached("the credentials of this host would have more than 16 MiB"));
        }
        let at = self.rows.credentials.partition_point(|other| *other < row);
        self.rows.credentials.insert(at, row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::keystore::{AgentKeks, KekPair, TenantKeks};

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn new(tenant: &str, name: &str, value: &str) -> NewVersion {
        let value = SecretValue::new(Zeroizing::new(value.to_owned())).unwrap();
        NewVersion {
            holder: Holder::shared(tenant),
            name: name.into(),
            value,
            expires: None,
            is_canary: false,
        }
    }

    fn put(open: &mut OpenCredentials, new: &NewVersion) -> Result<u64, Error> {
        open.put(new, "host", &Kek::default(), NOW)
    }

    fn value(
        open: &OpenCredentials,
        tenant: &str,
        name: &str,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<String, Error> {
        open.find(&Holder::shared(tenant), name, version, now)
            .and_then(|row| open.decrypt(row))
            .map(|value| value.as_str().to_owned())
    }

    #[test]
    fn a_credential_exists_once_in_each_tenant() {
        let mut open = OpenCredentials::default();
        assert_eq!(put(&mut open, &new("", "a", "1")).unwrap(), 1);
        assert!(matches!(put(&mut open, &new("", "a", "2")), Err(Error::AlreadyExists)));
        put(&mut open, &new("t", "a", "3")).unwrap();
        assert_eq!(value(&open, "", "a", None, NOW).unwrap(), "1");
        assert_eq!(value(&open, "t", "a", None, NOW).unwrap(), "3");
        assert!(matches!(value(&open, "u", "a", None, NOW), Err(Error::UnknownCredential)));
        let read_again = OpenCredentials::new(open.rows.clone(), &keks(&[])).unwrap();
        assert_eq!(value(&read_again, "t", "a", None, NOW).unwrap(), "3");
    }

    fn keks(tenants: &[(&str, u8)]) -> CompartmentKeks {
        let host = KekPair { latest: Kek::default(), previous: None };
        let tenants = tenants.iter().map(|(name, byte)| ((*name).to_owned(), Zeroizing::new([*byte; 32])));
        CompartmentKeks { host, tenants: TenantKeks::for_test(tenants) }
    }

    /// An earlier release encrypted the keys of all compartments under the host's key.
    #[test]
    fn the_compartments_of_an_earlier_release_come_under_the_keys_of_their_tenants() {
        let mut earlier = OpenCredentials::default();
        for tenant in ["", "t", "u"] {
            put(&mut earlier, &new(tenant, "a", &format!("of {tenant}"))).unwrap();
        }
        let mut open = OpenCredentials::new(earlier.rows.clone(), &keks(&[])).unwrap();
        assert!(open.is_outdated);
        open.rewrap(&keks(&[("t", 7), ("u", 8)])).unwrap();
        let read_again = OpenCredentials::new(open.rows.clone(), &keks(&[("t", 7), ("u", 8)])).unwrap();
        assert!(!open.is_outdated && !read_again.is_outdated);
        for tenant in ["", "t", "u"] {
            assert_eq!(value(&read_again, tenant, "a", None, NOW).unwrap(), format!("of {tenant}"));
        }
        // Without the key of a tenant its credentials are lost, and with them removed the others are read.
        assert!(OpenCredentials::new(open.rows.clone(), &keks(&[("u", 8)])).is_err());
        assert_eq!(open.remove_tenant("t"), 1);
        let without = OpenCredentials::new(open.rows.clone(), &keks(&[("u", 8)])).unwrap();
        assert_eq!(value(&without, "u", "a", None, NOW).unwrap(), "of u");
        assert!(matches!(value(&without, "t", "a", None, NOW), Err(Error::UnknownCredential)));
    }

    #[test]
    fn an_agents_own_credential_comes_before_that_of_its_tenant() {
        let mut open = OpenCredentials::default();
        let agents = ["a", "b"].map(|agent| (agent.to_owned(), Zeroizing::new([7; 32])));
        open.agent_keks = AgentKeks::for_test(agents);
        let own = |agent, value| NewVersion { holder: Holder::own("t", agent), ..new("t", "n", value) };
        put(&mut open, &new("t", "n", "shared")).unwrap();
        put(&mut open, &own("a", "of a")).unwrap();
        put(&mut open, &own("b", "of b")).unwrap();
        assert!(matches!(put(&mut open, &own("a", "x")), Err(Error::AlreadyExists)));
        assert!(matches!(put(&mut open, &own("c", "x")), Err(Error::AgentKeyLost)));
        let found = |open: &OpenCredentials, tenant: &str, agent: &str| {
            let row = open.find(&open.holder_for(tenant, agent, "n"), "n", None, NOW)?;
            open.decrypt(row).map(|value| value.as_str().to_owned())
        };
        assert_eq!(found(&open, "t", "a").unwrap(), "of a");
        assert_eq!(found(&open, "t", "b").unwrap(), "of b");
        assert_eq!(found(&open, "t", "c").unwrap(), "shared");
        assert!(matches!(found(&open, "", "a"), Err(Error::UnknownCredential)));
        assert!(open.check_quota("t", Some(3)).is_err() && open.check_quota("t", Some(4)).is_ok());
        // Without the key of the agent, its own are lost, and it does not fall back to that of the tenant.
        let before = open.clone();
        open.agent_keks.forget("a");
        assert!(matches!(found(&open, "t", "a"), Err(Error::AgentKeyLost)));
        open.remove_agent("a");
        assert_eq!(found(&open, "t", "a").unwrap(), "shared");
        assert_eq!(found(&open, "t", "b").unwrap(), "of b");
        assert_eq!(before.rows.credentials.len(), 3);
        assert_eq!(open.remove_tenant("t"), 2);
        assert!(open.rows.credentials.is_empty());
    }

    #[test]
    fn a_rotated_version_is_available_until_its_overlap_ends() {
        let mut open = OpenCredentials::default();
        put(&mut open, &new("", "a", "old")).unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(open.rotate(&new("", "a", "new"), hour, NOW).unwrap(), 2);
        assert_eq!(value(&open, "", "a", None, NOW).unwrap(), "new");
        assert_eq!(value(&open, "", "a", Some(1), NOW).unwrap(), "old");
        assert!(matches!(value(&open, "", "a", Some(1), NOW.after(hour)), Err(Error::UnknownVersion(1))));
        assert!(open.retire_due(NOW).is_empty());
        let mut without_latest = open.clone();
        without_latest.remove(&Holder::default(), "a", Some(2)).unwrap();
        assert_eq!(value(&without_latest, "", "a", None, NOW).unwrap(), "old");
        assert!(matches!(
            value(&without_latest, "", "a", None, NOW.after(hour)),
            Err(Error::UnknownCredential)
        ));
        assert_eq!(open.retire_due(NOW.after(hour)).len(), 1);
        assert_eq!(open.rotate(&new("", "a", "newest"), Duration::ZERO, NOW).unwrap(), 3);
        assert_eq!(open.versions(&Holder::default(), "a").len(), 1);
        assert!(matches!(open.rotate(&new("", "b", "x"), hour, NOW), Err(Error::UnknownCredential)));
    }

    #[test]
    fn an_expired_credential_is_not_released() {
        let mut open = OpenCredentials::default();
        let expiring = NewVersion { expires: Some(NOW.after(Duration::from_secs(60))), ..new("", "a", "x") };
        put(&mut open, &expiring).unwrap();
        assert!(value(&open, "", "a", None, NOW.after(Duration::from_secs(59))).is_ok());
        assert!(matches!(
            value(&open, "", "a", None, NOW.after(Duration::from_secs(60))),
            Err(Error::Expired(_))
        ));
        let expired = NewVersion { expires: Some(NOW), ..new("", "b", "x") };
        assert!(matches!(put(&mut open, &expired), Err(Error::ExpiresInThePast)));
    }

    #[test]
    fn versions_and_sizes_are_bounded() {
        let mut open = OpenCredentials::default();
        put(&mut open, &new("", "a", "x")).unwrap();
        let hour = Duration::from_secs(3600);
        for _ in 1..MAX_VERSIONS {
            open.rotate(&new("", "a", "x"), hour, NOW).unwrap();
        }
        assert!(matches!(open.rotate(&new("", "a", "x"), hour, NOW), Err(Error::LimitReached(_))));
        assert_eq!(open.remove(&Holder::default(), "a", Some(3)).unwrap(), [3]);
        assert!(matches!(open.remove(&Holder::default(), "a", Some(3)), Err(Error::UnknownVersion(3))));
        assert_eq!(open.remove(&Holder::default(), "a", None).unwrap().len(), MAX_VERSIONS - 1);
        assert!(matches!(open.remove(&Holder::default(), "a", None), Err(Error::UnknownCredential)));
        let large = "x".repeat(super::super::value::MAX_VALUE_LEN);
        let refused = (0..300).find_map(|index| put(&mut open, &new("", &format!("n{index}"), &large)).err());
        assert!(matches!(refused, Some(Error::LimitReached(_))));
    }

    #[test]
    fn renewed_compartments_have_other_keys_and_the_same_values() {
        let (mut open, keks) = (OpenCredentials::default(), keks(&[("t", 7)]));
        open.agent_keks = AgentKeks::for_test([("x".to_owned(), Zeroizing::new([9; 32]))]);
        put(&mut open, &new("", "a", "one")).unwrap();
        put(&mut open, &NewVersion { holder: Holder::own("t", "x"), ..new("t", "n", "own") }).unwrap();
        let before = open.clone();
        open.renew_compartments(&keks).unwrap();
        let values = |open: &OpenCredentials| -> Vec<String> {
            let rows = open.rows.credentials.iter();
            rows.map(|row| open.decrypt(row).unwrap().as_str().to_owned()).collect()
        };
        assert_eq!(values(&open), ["one", "own"]);
        for (old, new) in before.rows.credentials.iter().zip(&open.rows.credentials) {
            assert!(open.decrypt(old).is_err() && before.decrypt(new).is_err());
        }
        let mut read_again = OpenCredentials::new(open.rows.clone(), &keks).unwrap();
        read_again.agent_keks = open.agent_keks.clone();
        assert_eq!(values(&read_again), ["one", "own"]);

        // A lost key of an agent keeps the compartment of its tenant, and no other.
        open.agent_keks.forget("x");
        let before = open.clone();
        open.renew_compartments(&keks).unwrap();
        assert_ne!(open.rows.credentials[0].ciphertext, before.rows.credentials[0].ciphertext);
        assert_eq!(open.rows.credentials[1].ciphertext, before.rows.credentials[1].ciphertext);
        open.agent_keks = read_again.agent_keks.clone();
        assert_eq!(values(&open), ["one", "own"]);
    }
}

//! The credentials of an open database, in memory: ciphertext and the keys of the compartments.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::compartment::Compartment;
use super::compartment_keks::CompartmentKeks;
use super::error::Error;
use super::holder::Holder;
use super::value::SecretValue;
use crate::clock::Timestamp;
use crate::keystore::AgentKeks;
use crate::store::{CredentialRow, CredentialRows};

/// The credentials at one moment.
#[derive(Clone, Default)]
pub(super) struct OpenCredentials {
    /// As in the database.
    pub rows: CredentialRows,
    /// By tenant.
    pub compartments: BTreeMap<String, Compartment>,
    /// The keys of agents that have credentials of their own.
    pub agent_keks: AgentKeks,
    /// Whether a compartment's key is under another key-encryption key than it should be.
    pub is_outdated: bool,
}

impl OpenCredentials {
    /// Decrypts the keys of the compartments.
    ///
    /// # Errors
    /// [`Error::Undecryptable`].
    pub fn new(rows: CredentialRows, keks: &CompartmentKeks) -> Result<OpenCredentials, Error> {
        let mut open = OpenCredentials { rows, ..OpenCredentials::default() };
        for row in &open.rows.compartments {
            let (compartment, is_outdated) = Compartment::from_row(row, keks)?;
            open.compartments.insert(row.tenant.clone(), compartment);
            open.is_outdated |= is_outdated;
        }
        Ok(open)
    }

    /// The versions of a credential, the latest last.
    pub fn versions(&self, holder: &Holder, name: &str) -> &[CredentialRow] {
        let rows = &self.rows.credentials;
        let searched = (holder.tenant.as_str(), holder.agent.as_str(), name);
        let key =
            |row: &CredentialRow| (row.tenant.as_str(), row.agent.as_str(), row.name.as_str()).cmp(&searched);
        let start = rows.partition_point(|row| key(row).is_lt());
        let end = rows.partition_point(|row| key(row).is_le());
        &rows[start..end]
    }

    /// Whether a credential is a canary.
    pub fn is_canary(&self, holder: &Holder, name: &str) -> bool {
        self.versions(holder, name).iter().any(|row| row.is_canary)
    }

    /// The version that is released: the latest that is in force, or the requested one.
    ///
    /// # Errors
    /// [`Error::UnknownCredential`], [`Error::UnknownVersion`], [`Error::Expired`].
    pub fn find(
        &self,
        holder: &Holder,
        name: &str,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<&CredentialRow, Error> {
        // A version whose overlap has ended is destroyed a moment later.
        let mut versions = self.versions(holder, name).iter().filter(|row| !has_passed(row.retires, now));
        let row = match version {
            None => versions.next_back().ok_or(Error::UnknownCredential)?,
            Some(version) => {
                versions.find(|row| row.version == version).ok_or(Error::UnknownVersion(version))?
            }
        };
        match row.expires {
            Some(expires) if has_passed(row.expires, now) => {
                Err(Error::Expired(Timestamp::from_secs(expires)))
            }
            _ => Ok(row),
        }
    }

    /// Decrypts the value of a row of this database.
    ///
    /// # Errors
    /// [`Error::Undecryptable`], [`Error::AgentKeyLost`].
    pub fn decrypt(&self, row: &CredentialRow) -> Result<SecretValue, Error> {
        self.compartment_of(&Holder::of_row(row))?.decrypt(row)
    }

    /// The compartment that has the key of a holder's values.
    ///
    /// # Errors
    /// [`Error::Undecryptable`], [`Error::AgentKeyLost`].
    pub fn compartment_of(&self, holder: &Holder) -> Result<Cow<'_, Compartment>, Error> {
        let tenant = self.compartments.get(&holder.tenant).ok_or(Error::Undecryptable)?;
        match holder.agent.as_str() {
            "" => Ok(Cow::Borrowed(tenant)),
            agent => {
                let kek = self.agent_keks.get(agent).ok_or(Error::AgentKeyLost)?;
                Ok(Cow::Owned(tenant.of_agent(agent, kek)))
            }
        }
    }

    /// Who has the credential that an agent may use under this name: the agent itself, or else its tenant.
    pub fn holder_for(&self, tenant: &str, agent: &str, name: &str) -> Holder {
        let own = Holder::own(tenant, agent);
        if self.versions(&own, name).is_empty() { Holder::shared(tenant) } else { own }
    }
}

/// Whether a time in seconds has passed.
pub(super) fn has_passed(time: Option<u64>, now: Timestamp) -> bool {
    time.is_some_and(|time| Timestamp::from_secs(time) <= now)
}

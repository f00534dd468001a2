//! The destruction of one agent's own credentials.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::Error;
use super::holder::Holder;
use super::open::OpenCredentials;
use super::report::{CredentialReport, reports};
use super::store::CredentialStore;
use crate::keystore::Erasure;

/// What the destruction of an agent's own credentials destroyed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestroyedCredentials {
    /// The credentials, in the order of tenants and names.
    pub credentials: Vec<DestroyedCredential>,
    /// The erasure of the agent's key-encryption key; `None` if the agent had none.
    pub erasure: Option<Erasure>,
    /// Earlier erasures of a key of an agent of this name, the latest last.
    pub earlier: Vec<Erasure>,
}

/// A credential that was destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestroyedCredential {
    /// The tenant; `None` where the agent had none.
    pub tenant: Option<String>,
    /// The credential's name.
    pub name: String,
    /// Its versions.
    pub versions: Vec<u64>,
}

impl CredentialStore {
    /// Whether the host has, or had, something of an agent's own.
    pub async fn knows_agent(&self, agent: &str) -> bool {
        let host = self.0.host.lock().await.clone();
        let has_erasure = match host {
            Some(host) => !host.keystore.erasures_of(agent).await.is_empty(),
            None => false,
        };
        has_erasure || self.opened().is_ok_and(|open| open.has_own(agent))
    }

    /// Destroys the own credentials of an agent: first its key-encryption key, so that the TPM itself refuses to
    /// open any copy of them, then their rows.
    ///
    /// After a failure in the middle, a repetition completes it, and names what the first one would have.
    ///
    /// # Errors
    /// [`Error::NotOpen`], and failures of the disk or the TPM.
    pub async fn destroy_own(&self, agent: &str) -> Result<DestroyedCredentials, Error> {
        // Locked throughout, so that no credential is stored meanwhile.
        let host = self.0.host.lock().await;
        let host = host.as_ref().ok_or_else(|| self.not_open())?;
        let (credentials, last_stored) = self.opened()?.own_credentials(agent);
        let erasure = host.keystore.destroy_agent_kek(agent).await?;
        let mut without_key = OpenCredentials::clone(&*self.opened()?);
        without_key.agent_keks.forget(agent);
        self.0.open.store(Some(Arc::new(without_key)));
        if !credentials.is_empty() {
            self.change_locked(host, async |open, _| {
                open.remove_agent(agent);
                Ok(())
            })
            .await?;
        }
        let mut earlier = host.keystore.erasures_of(agent).await;
        // An erasure that was interrupted destroyed the key of what was stored before it.
        let interrupted = |latest: &&Erasure| last_stored.is_some_and(|stored| stored <= latest.at);
        let erasure = match erasure {
            Some(_) => earlier.pop(),
            None => earlier.last().filter(interrupted).is_some().then(|| earlier.pop()).flatten(),
        };
        Ok(DestroyedCredentials { credentials, erasure, earlier })
    }
}

impl OpenCredentials {
    fn has_own(&self, agent: &str) -> bool {
        self.agent_keks.get(agent).is_some() || self.rows.credentials.iter().any(|row| row.agent == agent)
    }

    /// The own credentials of an agent, and when the last of them was stored.
    fn own_credentials(&self, agent: &str) -> (Vec<DestroyedCredential>, Option<u64>) {
        let own = |report: &CredentialReport| report.agent.as_deref() == Some(agent);
        let destroyed = |report: CredentialReport| DestroyedCredential {
            versions: report.versions.iter().map(|version| version.version).collect(),
            tenant: report.tenant,
            name: report.name,
        };
        let last = self.rows.credentials.iter().filter(|row| row.agent == agent).map(|row| row.created).max();
        (reports(&self.rows.credentials).into_iter().filter(own).map(destroyed).collect(), last)
    }
}

impl CredentialStore {
    /// Whether the agents of a tenant share a credential of this name; the tenant is empty for agents of none.
    ///
    /// # Errors
    /// [`Error::NotOpen`].
    pub fn is_shared(&self, tenant: &str, name: &str) -> Result<bool, Error> {
        Ok(!self.opened()?.versions(&Holder::shared(tenant), name).is_empty())
    }

    /// The agents whose own credentials nothing opens any more, in alphabetical order.
    ///
    /// # Errors
    /// [`Error::NotOpen`].
    pub fn agents_without_key(&self) -> Result<BTreeSet<String>, Error> {
        let open = self.opened()?;
        let own = open.rows.credentials.iter().map(|row| &row.agent).filter(|agent| !agent.is_empty());
        Ok(own.filter(|agent| open.agent_keks.get(agent).is_none()).cloned().collect())
    }

    /// The tenant of an agent's own credential of this name; `None` if the agent has none.
    ///
    /// # Errors
    /// [`Error::NotOpen`].
    pub fn own_holder(&self, agent: &str, name: &str) -> Result<Option<Holder>, Error> {
        let open = self.opened()?;
        let row = open.rows.credentials.iter().find(|row| row.agent == agent && row.name == name);
        Ok(row.map(Holder::of_row))
    }
}

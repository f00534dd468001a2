//! The credential store: the open database, its changes, and the release of values.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, watch};

use super::change::NewVersion;
use super::compartment_keks::CompartmentKeks;
use super::error::Error;
use super::holder::Holder;
use super::open::{OpenCredentials, has_passed};
use super::report::{CredentialReport, reports};
use super::value::SecretValue;
use crate::agents::AuthenticatedAgent;
use crate::clock::{Clock, Timestamp};
use crate::keystore::{
    self, AgentKeks, Kek, KekDependent, KekPair, Keystore, StateDatabase, TenantKekDependent, TenantKeks,
};
use crate::policy::{CredentialPermit, ProofPermit};
use crate::store::{self, CredentialRow, CredentialRows};

const FILE_NAME: &str = "credentials.db";

/// The sealed credentials of this host. Clones share the state.
#[derive(Clone)]
pub struct CredentialStore(pub(super) Arc<StoreState>);

pub(super) struct StoreState {
    path: PathBuf,
    clock: Clock,
    /// `None` until the database is open. Releases read it without a lock.
    pub(super) open: ArcSwapOption<OpenCredentials>,
    /// Why the database is not open; `None` where it is.
    blocked_reason: watch::Sender<Option<String>>,
    /// Serializes changes; what they need, once it is there.
    pub(super) host: Mutex<Option<Host>>,
}

/// What a change needs.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) keystore: Arc<Keystore>,
    id: String,
}

impl Host {
    /// The key that encrypts the key of a tenant's compartment. A tenant that has none gets one; the tenant is
    /// empty for credentials of none.
    async fn kek_of(&self, tenant: &str) -> Result<Kek, Error> {
        if tenant.is_empty() {
            return Ok(self.keystore.latest_kek().await?);
        }
        let keks = self.keystore.ensure_tenant_keks([tenant].into_iter()).await?;
        keks.get(tenant).cloned().ok_or(Error::Undecryptable)
    }
}

/// A value that an agent gets, before it is recorded. Only [`CredentialStore::release`] makes one.
#[derive(Debug)]
pub struct ReleasedCredential {
    permit: CredentialPermit,
    version: u64,
    expires: Option<Timestamp>,
    value: SecretValue,
}

/// A permitted release that the store cannot fulfill.
#[derive(Debug)]
pub struct NotReleased {
    /// Why.
    pub error: Error,
    /// The decision, for the record.
    pub permit: CredentialPermit,
}

impl ReleasedCredential {
    /// The decision to release it.
    pub fn permit(&self) -> &CredentialPermit {
        &self.permit
    }

    /// The version of the value.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// From when on the version is not released; `None` where it does not expire.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// The value.
    pub fn value(&self) -> &SecretValue {
        &self.value
    }
}

impl CredentialStore {
    /// A store for `credentials.db` in the state directory, which is not open yet.
    pub fn new(state_dir: &Path, clock: Clock) -> CredentialStore {
        let starting = "the keys of this host are being loaded; try again in a moment";
        CredentialStore(Arc::new(StoreState {
            path: state_dir.join(FILE_NAME),
            clock,
            open: ArcSwapOption::empty(),
            blocked_reason: watch::Sender::new(Some(starting.to_owned())),
            host: Mutex::new(None),
        }))
    }

    /// Opens the database, or opens it again. It is compared with the state manifest of `keystore`, and the
    /// keys of its compartments are decrypted; without a database, nothing is.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a damaged database, [`Error::Keystore`] for one that is not the latest or for a
    /// TPM that is not available, [`Error::Undecryptable`]. The store is not open then.
    pub(crate) async fn open(&self, keystore: Arc<Keystore>, host_id: &str) -> Result<(), Error> {
        let mut host = self.0.host.lock().await;
        self.0.open.store(None);
        *host = Some(Host { keystore: keystore.clone(), id: host_id.to_owned() });
        let rows = self.read().await?;
        let digest = rows.as_ref().map(CredentialRows::digest);
        let verified = keystore.verify_database(StateDatabase::Credentials, digest.as_ref()).await;
        if let Err(error) = verified {
            // A crash came after the first change had created the database and before it had rows.
            if rows != Some(CredentialRows::default()) {
                return Err(error.into());
            }
            let not_listed = keystore.verify_database(StateDatabase::Credentials, None).await;
            not_listed.map_err(|_| error)?;
        }
        self.activate(&keystore, rows.unwrap_or_default()).await
    }

    /// Accepts the database as it is, after an older copy of it was put back or it was moved away, and opens
    /// it. Returns the number of its credentials.
    ///
    /// # Errors
    /// [`Error::NothingToAccept`], [`Error::Damaged`], [`Error::NotOpen`], [`Error::Keystore`],
    /// [`Error::Undecryptable`].
    pub async fn accept(&self) -> Result<usize, Error> {
        let host = self.0.host.lock().await;
        let Host { keystore, .. } = host.as_ref().ok_or_else(|| self.not_open())?;
        if self.is_open() {
            return Err(Error::NothingToAccept);
        }
        let rows = self.read().await?.unwrap_or_default();
        let (path, contents) = (self.0.path.clone(), rows.clone());
        // Created where it does not exist, because the manifest lists it from now on.
        let write = move || CredentialRows::replace(&path, &contents, &contents);
        keystore.write_database(StateDatabase::Credentials, rows.digest(), write).await?;
        self.activate(keystore, rows).await?;
        Ok(self.reports()?.len())
    }

    /// Closes the database, because the keys of this host are no longer those that decrypt it.
    pub(crate) async fn close(&self) {
        *self.0.host.lock().await = None;
        self.0.open.store(None);
    }

    /// Whether the database is open.
    pub(crate) fn is_open(&self) -> bool {
        self.0.open.load().is_some()
    }

    /// Why the database is not open; `None` where it is.
    pub(crate) fn blocked_reason(&self) -> &watch::Sender<Option<String>> {
        &self.0.blocked_reason
    }

    /// What is stored, without the values, in the order of tenants and names.
    ///
    /// # Errors
    /// [`Error::NotOpen`].
    pub fn reports(&self) -> Result<Vec<CredentialReport>, Error> {
        Ok(reports(&self.opened()?.rows.credentials))
    }

    /// Whether what an agent of a tenant gets under this name is a canary; not while the database is not open, in which
    /// nothing is released.
    pub fn is_canary(&self, tenant: &str, agent: &str, name: &str) -> bool {
        let Some(open) = self.0.open.load_full() else { return false };
        open.is_canary(&open.holder_for(tenant, agent, name), name)
    }

    /// Whether there is what an agent of a tenant would get: the credential of this name, in this version or the latest.
    ///
    /// # Errors
    /// [`Error::NotOpen`], [`Error::UnknownCredential`], [`Error::UnknownVersion`], [`Error::Expired`].
    pub fn find(&self, tenant: &str, agent: &str, name: &str, version: Option<u64>) -> Result<(), Error> {
        let open = self.opened()?;
        let holder = open.holder_for(tenant, agent, name);
        open.find(&holder, name, version, self.0.clock.now()).map(drop)
    }

    /// Decrypts the value that was permitted.
    ///
    /// # Errors
    /// [`NotReleased`] with [`Error::NotOpen`], [`Error::UnknownCredential`], [`Error::UnknownVersion`],
    /// [`Error::Expired`], [`Error::AgentKeyLost`] or [`Error::Undecryptable`].
    pub fn release(&self, permit: CredentialPermit) -> Result<ReleasedCredential, Box<NotReleased>> {
        match self.decrypt(permit.agent(), permit.name(), permit.version()) {
            Ok((version, expires, value)) => Ok(ReleasedCredential { permit, version, expires, value }),
            Err(error) => Err(Box::new(NotReleased { error, permit })),
        }
    }

    /// Decrypts the latest value of the credential that is to sign a permitted proof. Returns its version too.
    ///
    /// # Errors
    /// As [`CredentialStore::release`], without the permit.
    pub fn open_for_proof(&self, permit: &ProofPermit) -> Result<(u64, SecretValue), Error> {
        let name = permit.credential().ok_or(Error::UnknownCredential)?;
        self.decrypt(permit.agent(), name, None).map(|(version, _, value)| (version, value))
    }

    /// The version, its expiry and its value.
    fn decrypt(
        &self,
        agent: &AuthenticatedAgent,
        name: &str,
        version: Option<u64>,
    ) -> Result<(u64, Option<Timestamp>, SecretValue), Error> {
        let open = self.opened()?;
        let tenant = agent.entry().tenant.as_deref().unwrap_or_default();
        let holder = open.holder_for(tenant, agent.root_name().as_str(), name);
        let row = open.find(&holder, name, version, self.0.clock.now())?;
        Ok((row.version, row.expires.map(Timestamp::from_secs), open.decrypt(row)?))
    }

    /// Stores the first version of a credential. It is on disk when this returns. `quota` is the number of
    /// credentials that the tenant may have.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::ExpiresInThePast`], [`Error::LimitReached`],
    /// [`Error::QuotaReached`], and failures of the
    /// disk or the TPM.
    pub async fn put(&self, new: NewVersion, quota: Option<u32>) -> Result<u64, Error> {
        self.change(async |open, host| {
            let Holder { tenant, agent } = &new.holder;
            open.check_quota(tenant, quota)?;
            if !agent.is_empty() {
                open.agent_keks = host.keystore.ensure_agent_kek(agent).await?;
            }
            let kek = match open.compartments.contains_key(tenant) {
                true => Kek::default(),
                false => host.kek_of(tenant).await?,
            };
            open.put(&new, &host.id, &kek, self.0.clock.now())
        })
        .await
    }

    /// Stores a new version of a credential; the previous ones are destroyed now, or after `overlap`. Returns
    /// the number of the version.
    ///
    /// # Errors
    /// [`Error::UnknownCredential`], and as [`CredentialStore::put`].
    pub async fn rotate(&self, new: NewVersion, overlap: Duration) -> Result<u64, Error> {
        self.change(async |open, _| open.rotate(&new, overlap, self.0.clock.now())).await
    }

    /// Destroys a credential, or one version of it. Returns the versions that were destroyed.
    ///
    /// # Errors
    /// [`Error::UnknownCredential`], [`Error::UnknownVersion`], and failures of the disk or the TPM.
    pub async fn remove(&self, holder: &Holder, name: &str, version: Option<u64>) -> Result<Vec<u64>, Error> {
        self.change(async |open, _| open.remove(holder, name, version)).await
    }

    /// Destroys the versions whose overlap has ended, and returns them.
    ///
    /// # Errors
    /// [`Error::NotOpen`], and failures of the disk or the TPM.
    pub(crate) async fn retire_due(&self) -> Result<Vec<CredentialRow>, Error> {
        let now = self.0.clock.now();
        if !self.opened()?.rows.credentials.iter().any(|row| has_passed(row.retires, now)) {
            return Ok(Vec::new());
        }
        self.change(async |open, _| Ok(open.retire_due(now))).await
    }

    /// Destroys all credentials of a tenant, with the key of its compartment. Returns how many there were.
    ///
    /// # Errors
    /// [`Error::NotOpen`], and failures of the disk or the TPM.
    pub async fn remove_tenant(&self, tenant: &str) -> Result<usize, Error> {
        if !self.opened()?.rows.compartments.iter().any(|row| row.tenant == tenant) {
            return Ok(0);
        }
        self.change(async |open, _| Ok(open.remove_tenant(tenant))).await
    }

    /// Gives the compartments other keys, if the key-encryption key has changed or tenants have other ones. Encrypts
    /// the keys of the compartments again, if an earlier
    /// release encrypted one of a tenant under the host's. Until then the keystore retains the previous one.
    ///
    /// # Errors
    /// [`Error::NotOpen`], and failures of the disk or the TPM.
    pub(crate) async fn rewrap(&self) -> Result<(), Error> {
        let host = self.0.host.lock().await.clone().ok_or_else(|| self.not_open())?;
        let keystore = &host.keystore;
        let has_new_kek = keystore.needs_rewrap(KekDependent::Credentials).await?.is_some();
        let has_tenant_keks = keystore.needs_tenant_rewrap(TenantKekDependent::Credentials);
        let open = self.opened()?;
        if !open.compartments.is_empty() && (has_new_kek || has_tenant_keks || open.is_outdated) {
            let names = open.compartments.keys().filter(|tenant| !tenant.is_empty());
            let tenants = keystore.ensure_tenant_keks(names.map(String::as_str)).await?;
            let keks = CompartmentKeks { host: keystore.keks().await?, tenants };
            self.change(async |open, _| match has_new_kek || has_tenant_keks {
                true => open.renew_compartments(&keks),
                false => open.rewrap(&keks),
            })
            .await?;
        }
        if has_new_kek {
            keystore.mark_rewrapped(KekDependent::Credentials).await?;
        }
        if has_tenant_keks {
            keystore.mark_tenant_rewrapped(TenantKekDependent::Credentials).await?;
        }
        Ok(())
    }

    /// Computes a change on a copy, writes it, and then uses it.
    async fn change<T>(
        &self,
        edit: impl AsyncFnOnce(&mut OpenCredentials, &Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let host = self.0.host.lock().await;
        self.change_locked(host.as_ref().ok_or_else(|| self.not_open())?, edit).await
    }

    /// As `change`, while `host` is locked.
    pub(super) async fn change_locked<T>(
        &self,
        host: &Host,
        edit: impl AsyncFnOnce(&mut OpenCredentials, &Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.opened()?;
        let mut after = OpenCredentials::clone(&before);
        let result = edit(&mut after, host).await?;
        let (path, new_rows) = (self.0.path.clone(), after.rows.clone());
        let write = move || CredentialRows::replace(&path, &before.rows, &new_rows);
        host.keystore.write_database(StateDatabase::Credentials, after.rows.digest(), write).await?;
        self.0.open.store(Some(Arc::new(after)));
        Ok(result)
    }

    async fn activate(&self, keystore: &Keystore, rows: CredentialRows) -> Result<(), Error> {
        let (host, tenants) = match rows.compartments.is_empty() {
            true => (KekPair { latest: Kek::default(), previous: None }, TenantKeks::default()),
            false => (keystore.keks().await?, keystore.tenant_keks().await?),
        };
        let keks = CompartmentKeks { host, tenants };
        let mut open = OpenCredentials::new(rows, &keks)?;
        open.agent_keks = match keystore.agent_keks().await {
            // Those of the tenants can be used all the same.
            Err(lost @ keystore::Error::AgentKeksLost(_)) => {
                tracing::warn!("{lost}");
                AgentKeks::default()
            }
            result => result?,
        };
        self.0.open.store(Some(Arc::new(open)));
        self.0.blocked_reason.send_replace(None);
        Ok(())
    }

    async fn read(&self) -> Result<Option<CredentialRows>, Error> {
        let path = self.0.path.clone();
        match tokio::task::spawn_blocking(move || CredentialRows::read(&path)).await? {
            // The error of a state file says what to do about the host's identity, which is not affected.
            Err(store::Error::Corrupt { path, reason }) => Err(Error::Damaged { path, reason }),
            result => Ok(result?),
        }
    }

    pub(super) fn opened(&self) -> Result<Arc<OpenCredentials>, Error> {
        self.0.open.load_full().ok_or_else(|| self.not_open())
    }

    pub(super) fn not_open(&self) -> Error {
        Error::NotOpen(self.0.blocked_reason.borrow().clone().unwrap_or_default())
    }
}

//! The open keystore, and the operations on a state directory that does not open.
//!
//! The keystore has the key-encryption key and the anti-rollback manifest. The operations are accepting the
//! state, recovery with the recovery key, and migration to another TPM.

mod component_files;
mod erasure;
mod rotation;
mod tenants;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use super::erasure_file::ErasureFile;
use super::error::Error;
use super::kek::{Kek, KekDependent, KekPair};
use super::kek_report::{KekReport, initial_kek_made};
use super::recovery_key::RecoveryKey;
use super::seal_file::{self, SealFile, SealStatus};
use super::state_manifest::{DatabaseDigests, StateDatabase, StateManifest};
use super::tenant_keks::{TenantKekDependent, TenantKeks, TenantKeksFile};
use crate::clock::{Clock, Timestamp};
use crate::store;
use crate::tpm::{KeyBlob, Tpm};

/// The open keystore. The TPM unseals the key-encryption key when it is needed; the tracked state files are
/// written here.
pub struct Keystore {
    dir: PathBuf,
    tpm: Tpm,
    clock: Clock,
    /// The PCRs to which the key-encryption key is to be sealed.
    configured_pcrs: Vec<u8>,
    state: Arc<Mutex<KeystoreState>>,
    /// Locked before `state`.
    tenants: Mutex<TenantKeksFile>,
    /// What is still to be encrypted under the latest keys of the tenants.
    pending_tenant_rewrap: std::sync::Mutex<BTreeSet<TenantKekDependent>>,
    /// `None` while no agent has a key. Locked before `state`.
    erasures: Mutex<Option<ErasureFile>>,
    seal_status: watch::Sender<SealStatus>,
    /// When the key of `tpm.json` was made.
    initial_kek_made: Option<Timestamp>,
    host_kek_reports: watch::Sender<Vec<KekReport>>,
    tenant_kek_reports: watch::Sender<Vec<KekReport>>,
    erasure_key_reports: watch::Sender<Vec<KekReport>>,
}

struct KeystoreState {
    seal_file: SealFile,
    manifest: StateManifest,
    /// The files that are still to be encrypted under the latest key.
    pending_rewrap: BTreeSet<KekDependent>,
    /// The recovery key that was created last, since the start.
    last_recovery_key: Option<LastRecoveryKey>,
}

/// A recovery key, by its SHA-256 digest.
struct LastRecoveryKey {
    digest: [u8; 32],
    is_in_force: bool,
}

impl Keystore {
    /// Opens the keystore in the state directory `dir`, and returns the key-encryption keys in use.
    ///
    /// `initial_kek` is the key that was made with the host keys, in `tpm.json`; `newly_provisioned` means
    /// that it was made just now. `configured_pcrs` are the PCRs to which the key is to be sealed; empty
    /// means none.
    ///
    /// # Errors
    /// [`Error::PcrsChanged`], [`Error::RolledBack`], [`Error::InvalidFile`], a TPM that is not available.
    pub(crate) async fn open(
        tpm: &Tpm,
        dir: &Path,
        initial_kek: &KeyBlob,
        configured_pcrs: &[u8],
        newly_provisioned: bool,
        clock: &Clock,
    ) -> Result<(Keystore, KekPair), Error> {
        let seal_file = SealFile::read(dir, initial_kek)?;
        let keks = seal_file.unseal(tpm).await?;
        let manifest = StateManifest::open(tpm, dir, &keks, newly_provisioned).await?;
        // A crash interrupted a change of the key. Files that are under the latest key are encrypted once
        // more.
        let pending_rewrap = if keks.previous.is_some() { KekDependent::ALL.into() } else { BTreeSet::new() };
        let seal_status = watch::Sender::new(seal_file.status(configured_pcrs));
        let initial_kek_made = initial_kek_made(dir);
        let host_kek_reports = watch::Sender::new(seal_file.reports(initial_kek_made));
        let state = KeystoreState { seal_file, manifest, pending_rewrap, last_recovery_key: None };
        let state = Arc::new(Mutex::new(state));
        // After the manifest has verified it.
        let (tenants, erasures) = (TenantKeksFile::read(dir)?, ErasureFile::read(dir)?);
        let pending_tenants =
            if tenants.has_previous() { TenantKekDependent::ALL.into() } else { BTreeSet::new() };
        let keystore = Keystore {
            dir: dir.to_owned(),
            tpm: tpm.clone(),
            clock: clock.clone(),
            configured_pcrs: configured_pcrs.to_vec(),
            state,
            tenant_kek_reports: watch::Sender::new(tenants.reports()),
            tenants: Mutex::new(tenants),
            erasure_key_reports: watch::Sender::new(
                erasures.as_ref().map(ErasureFile::reports).unwrap_or_default(),
            ),
            erasures: Mutex::new(erasures),
            pending_tenant_rewrap: std::sync::Mutex::new(pending_tenants),
            seal_status,
            initial_kek_made,
            host_kek_reports,
        };
        Ok((keystore, keks))
    }

    /// Has the TPM unseal the latest key-encryption key.
    pub(crate) async fn latest_kek(&self) -> Result<Kek, Error> {
        Ok(self.keks().await?.latest)
    }

    /// Has the TPM unseal the key-encryption keys in use.
    pub(crate) async fn keks(&self) -> Result<KekPair, Error> {
        let seal_file = self.state.lock().await.seal_file.clone();
        seal_file.unseal(&self.tpm).await
    }

    /// Replaces a tracked file of the state directory. It is on disk when this returns.
    pub(crate) async fn write_file<T: Serialize>(
        &self,
        name: &'static str,
        version: u64,
        contents: &T,
    ) -> Result<(), Error> {
        let text = store::to_bytes(&self.dir.join(name), version, contents)?;
        let (state, tpm) = (self.state.clone(), self.tpm.clone());
        // In a task, so that the change ends even if this future is dropped, and the next change waits for
        // that end.
        let task =
            tokio::spawn(async move { state.lock().await.manifest.replace_file(&tpm, name, text).await });
        task.await.map_err(|_| Error::ShuttingDown)?
    }

    /// Changes a database by `write`, after which its rows have this digest. The change is on disk when this
    /// returns.
    pub(crate) async fn write_database(
        &self,
        database: StateDatabase,
        digest: [u8; 32],
        write: impl FnOnce() -> Result<(), store::Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (state, tpm) = (self.state.clone(), self.tpm.clone());
        // In a task, as in `write_file`.
        let task = tokio::spawn(async move {
            state.lock().await.manifest.replace(&tpm, database.file_name(), &digest, write).await
        });
        task.await.map_err(|_| Error::ShuttingDown)?
    }

    /// Compares the digest of the rows of a database with the manifest; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::CredentialsRolledBack`], [`Error::RevocationsRolledBack`].
    pub(crate) async fn verify_database(
        &self,
        database: StateDatabase,
        digest: Option<&[u8; 32]>,
    ) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        state.manifest.verify_database(database.file_name(), digest).map_err(match database {
            StateDatabase::Credentials => Error::CredentialsRolledBack,
            StateDatabase::Revocations => Error::RevocationsRolledBack,
        })
    }

    /// A key for the purpose of this label. It survives restarts, rotations and a new key-encryption key, and is
    /// another one after an older state was accepted or moved to another TPM.
    pub(crate) async fn derived_key(&self, label: &str) -> Zeroizing<[u8; 32]> {
        self.state.lock().await.manifest.derived_key(label)
    }

    /// Increments the TPM's counter, if an earlier change could not.
    pub(crate) async fn sync_counter(&self) -> Result<(), Error> {
        self.state.lock().await.manifest.sync_counter(&self.tpm).await
    }

    /// How the key-encryption key is sealed, now and at each change. After a change, call
    /// [`Keystore::needs_rewrap`].
    pub(crate) fn seal_status(&self) -> watch::Receiver<SealStatus> {
        self.seal_status.subscribe()
    }

    /// Creates a recovery key and returns its text. Only its digest is kept, in memory. The key is in force
    /// once [`Keystore::confirm_recovery_key`] gets it back, so that a key that never reached the
    /// administrator does not replace the previous one. A later key takes the place of this one.
    pub(crate) async fn create_recovery_key(&self) -> Result<Zeroizing<String>, Error> {
        let recovery_key = RecoveryKey::generate()?;
        let last = LastRecoveryKey { digest: recovery_key.digest(), is_in_force: false };
        self.state.lock().await.last_recovery_key = Some(last);
        Ok(recovery_key.to_text())
    }

    /// Whether the recovery key that was created last is in force: a caller may confirm it twice, if it did
    /// not get the first reply.
    ///
    /// # Errors
    /// [`Error::UnexpectedRecoveryKey`] for any other key.
    pub(crate) async fn is_in_force(&self, recovery_key: &RecoveryKey) -> Result<bool, Error> {
        match &self.state.lock().await.last_recovery_key {
            Some(last) if last.digest == recovery_key.digest() => Ok(last.is_in_force),
            _ => Err(Error::UnexpectedRecoveryKey),
        }
    }

    /// Puts a recovery key in force, which replaces the previous one. It also makes a new key-encryption key,
    /// as [`Keystore::reseal_if_needed`] does: the previous recovery key and an old copy of the disk then
    /// decrypt no later secret.
    ///
    /// # Errors
    /// [`Error::UnexpectedRecoveryKey`]; [`Error::RewrapInProgress`] while there is a previous key-encryption
    /// key. The previous recovery key stays in force.
    pub(crate) async fn confirm_recovery_key(&self, recovery_key: &RecoveryKey) -> Result<(), Error> {
        if self.is_in_force(recovery_key).await? {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        if state.seal_file.has_previous() {
            return Err(Error::RewrapInProgress);
        }
        let old_kek = state.seal_file.unseal(&self.tpm).await?.latest;
        let (now, seal_file) = (self.clock.now(), state.seal_file.clone());
        let (seal_file, latest) =
            seal_file.with_new_kek(&self.tpm, &old_kek, &self.configured_pcrs, now).await?;
        let keks = KekPair { latest, previous: Some(old_kek) };
        let seal_file = seal_file.with_recovery_key(&keks, recovery_key, now)?;
        self.commit_new_kek(&mut state, seal_file, &keks.latest).await?;
        state.last_recovery_key = Some(LastRecoveryKey { digest: recovery_key.digest(), is_in_force: true });
        Ok(())
    }

    /// Returns once there is no previous key-encryption key.
    pub(crate) async fn wait_rewrapped(&self) {
        let mut seal_status = self.seal_status();
        while self.state.lock().await.seal_file.has_previous() {
            // Never an error: `self` has the sender.
            let _ = seal_status.changed().await;
        }
    }

    /// The keys, if this file is still to be encrypted under the latest of them.
    pub(crate) async fn needs_rewrap(&self, dependent: KekDependent) -> Result<Option<KekPair>, Error> {
        let state = self.state.lock().await;
        if !state.pending_rewrap.contains(&dependent) {
            return Ok(None);
        }
        state.seal_file.unseal(&self.tpm).await.map(Some)
    }

    /// Notes that this file is under the latest key. Once every file is, the previous key is dropped.
    pub(crate) async fn mark_rewrapped(&self, dependent: KekDependent) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        state.pending_rewrap.remove(&dependent);
        if !state.pending_rewrap.is_empty() || !state.seal_file.has_previous() {
            return Ok(());
        }
        let latest = state.seal_file.unseal(&self.tpm).await?.latest;
        state.manifest.rekey(&latest)?;
        let seal_file = state.seal_file.clone().without_previous();
        let result = self.save(&mut state, seal_file).await;
        if result.is_err() {
            // The dependent calls this again.
            state.pending_rewrap.insert(dependent);
        }
        result
    }

    async fn commit_new_kek(
        &self,
        state: &mut KeystoreState,
        seal_file: SealFile,
        new_kek: &Kek,
    ) -> Result<(), Error> {
        self.save(state, seal_file).await?;
        state.pending_rewrap = KekDependent::ALL.into();
        state.manifest.rekey(new_kek)?;
        Ok(())
    }

    async fn save(&self, state: &mut KeystoreState, seal_file: SealFile) -> Result<(), Error> {
        let text = store::to_bytes(&self.dir.join(seal_file::FILE_NAME), seal_file::VERSION, &seal_file)?;
        state.manifest.replace_file(&self.tpm, seal_file::FILE_NAME, text).await?;
        state.seal_file = seal_file;
        self.host_kek_reports.send_replace(state.seal_file.reports(self.initial_kek_made));
        self.seal_status.send_replace(state.seal_file.status(&self.configured_pcrs));
        Ok(())
    }
}

/// Accepts the current state directory as the latest: makes a new manifest with a new counter.
pub async fn accept_current_state(tpm: &Tpm, dir: &Path, initial_kek: &KeyBlob) -> Result<(), Error> {
    let keks = SealFile::read(dir, initial_kek)?.unseal(tpm).await?;
    StateManifest::recreate(tpm, dir, &keks).await?;
    Ok(())
}

/// After the PCRs of this TPM changed: opens the secrets with the recovery key, and seals them to the current
/// PCR values. With `accept_rollback`, a state directory that is not the latest is accepted.
///
/// # Errors
/// [`Error::WrongRecoveryKey`], [`Error::NoRecoveryKey`], [`Error::RolledBackAtRecovery`],
/// [`Error::InvalidFileAtRecovery`], a TPM that is not available.
pub async fn reseal_with_recovery_key(
    tpm: &Tpm,
    dir: &Path,
    initial_kek: &KeyBlob,
    configured_pcrs: &[u8],
    (recovery_key, accept_rollback): (&RecoveryKey, bool),
    clock: &Clock,
) -> Result<(), Error> {
    let seal_file = SealFile::read(dir, initial_kek)?;
    let keks = seal_file.recover(recovery_key)?;
    if accept_rollback {
        let seal_file = seal_file.resealed(tpm, &keks, configured_pcrs, clock.now()).await?;
        store::write(&dir.join(seal_file::FILE_NAME), seal_file::VERSION, &seal_file)?;
        StateManifest::recreate(tpm, dir, &keks).await?;
        return Ok(());
    }
    let mut manifest = StateManifest::open(tpm, dir, &keks, false).await.map_err(with_accept_hint)?;
    let seal_file = seal_file.resealed(tpm, &keks, configured_pcrs, clock.now()).await?;
    let text = store::to_bytes(&dir.join(seal_file::FILE_NAME), seal_file::VERSION, &seal_file)?;
    manifest.replace_file(tpm, seal_file::FILE_NAME, text).await
}

/// `hostbadge key accept` needs keys that open, so the text names the option of `key recover` that accepts
/// the state too.
fn with_accept_hint(error: Error) -> Error {
    match error {
        Error::RolledBack(rollback) => Error::RolledBackAtRecovery(rollback),
        Error::InvalidFile { path, reason } => Error::InvalidFileAtRecovery { path, reason },
        other => other,
    }
}

/// The migration of a host's secrets to another TPM, with the recovery key.
pub struct TpmMigration {
    dir: PathBuf,
    seal_file: SealFile,
    keks: KekPair,
    /// The databases that the new manifest lists.
    databases: DatabaseDigests,
}

impl TpmMigration {
    /// Opens the secrets in `dir`, and compares the files with the manifest. The counter is in the previous
    /// TPM and is not compared. With `accept_rollback`, other files are accepted.
    ///
    /// # Errors
    /// [`Error::WrongRecoveryKey`], [`Error::NoRecoveryKey`], [`Error::RolledBackAtRecovery`],
    /// [`Error::InvalidFileAtRecovery`]
    pub fn open(
        dir: &Path,
        initial_kek: &KeyBlob,
        (recovery_key, accept_rollback): (&RecoveryKey, bool),
    ) -> Result<TpmMigration, Error> {
        let seal_file = SealFile::read(dir, initial_kek)?;
        let keks = seal_file.recover(recovery_key)?;
        if !accept_rollback {
            StateManifest::verify_without_counter(dir, &keks).map_err(with_accept_hint)?;
        }
        let databases = match accept_rollback {
            true => StateManifest::current_databases(dir),
            false => StateManifest::listed_databases(dir, &keks),
        };
        Ok(TpmMigration { dir: dir.to_owned(), seal_file, keks, databases })
    }

    /// The key-encryption keys in use.
    pub fn keks(&self) -> &KekPair {
        &self.keks
    }

    /// The key-encryption keys of all tenants. They are encrypted under the host's, which stays the same, so that
    /// their file does not change.
    pub fn tenant_keks(&self) -> Result<TenantKeks, Error> {
        TenantKeksFile::read(&self.dir)?.decrypt(&self.keks)
    }

    /// Seals the keys in the new TPM, and writes `seal.json`.
    pub async fn reseal(&mut self, tpm: &Tpm, configured_pcrs: &[u8], clock: &Clock) -> Result<(), Error> {
        let seal_file =
            self.seal_file.clone().resealed(tpm, &self.keks, configured_pcrs, clock.now()).await?;
        store::write(&self.dir.join(seal_file::FILE_NAME), seal_file::VERSION, &seal_file)?;
        self.seal_file = seal_file;
        Ok(())
    }

    /// Makes a manifest with a counter in the new TPM. The last step, once all files are in place.
    pub async fn finish(self, tpm: &Tpm) -> Result<(), Error> {
        StateManifest::create(tpm, &self.dir, &self.keks, self.databases).await?;
        Ok(())
    }
}

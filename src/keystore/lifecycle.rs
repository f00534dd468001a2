//! The vault in force: key-encryption key and ledger together, and the ways back when one of them does not open.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use super::error::Error;
use super::kek::{Kek, KekDependent, KekPair};
use super::recovery_key::RecoveryKey;
use super::seal_file::{self, SealFile, SealStatus};
use super::state_manifest::StateManifest;
use crate::clock::Clock;
use crate::store;
use crate::tpm::{KeyBlob, Tpm};

/// What the daemon keeps its secrets with.
pub struct Keystore {
    dir: PathBuf,
    tpm: Tpm,
    clock: Clock,
    /// PCRs that the key-encryption key is to be sealed to.
    configured_pcrs: Vec<u8>,
    state: Arc<Mutex<KeystoreState>>,
    seal_status: watch::Sender<SealStatus>,
}

struct KeystoreState {
    seal_file: SealFile,
    manifest: StateManifest,
    /// Whose files are still to be encrypted under the latest key.
    pending_rewrap: BTreeSet<KekDependent>,
}

impl Keystore {
    /// Opens the vault in the state directory `dir`, and gives the key-encryption keys that are in use.
    ///
    /// `first` is the key that was made with the host; `fresh` says that this was just now.
    pub async fn open(
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
        // A change that was cut short: whoever had come to an end says so once more.
        let pending_rewrap = if keks.previous.is_some() { KekDependent::ALL.into() } else { BTreeSet::new() };
        let seal_status = watch::Sender::new(seal_file.status(configured_pcrs));
        let state = Arc::new(Mutex::new(KeystoreState { seal_file, manifest, pending_rewrap }));
        let (dir, tpm, clock, configured_pcrs) =
            (dir.to_owned(), tpm.clone(), clock.clone(), configured_pcrs.to_vec());
        Ok((Keystore { dir, tpm, clock, configured_pcrs, state, seal_status }, keks))
    }

    /// The latest key-encryption key, from the TPM.
    pub async fn latest_kek(&self) -> Result<Kek, Error> {
        Ok(self.keks().await?.latest)
    }

    /// The key-encryption keys that are in use.
    pub async fn keks(&self) -> Result<KekPair, Error> {
        let seal_file = self.state.lock().await.seal_file.clone();
        seal_file.unseal(&self.tpm).await
    }

    /// Replaces a file of the state directory, one that the ledger speaks of. On disk when this returns.
    pub async fn write_file<T: Serialize>(
        &self,
        name: &'static str,
        version: u64,
        contents: &T,
    ) -> Result<(), Error> {
        let text = store::to_bytes(&self.dir.join(name), version, contents)?;
        let (state, tpm) = (self.state.clone(), self.tpm.clone());
        // A task of its own: whoever asked may go away in the middle, and a second change is to wait for the end of this.
        let task =
            tokio::spawn(async move { state.lock().await.manifest.replace_file(&tpm, name, text).await });
        task.await.map_err(|_| Error::ShuttingDown)?
    }

    /// Raises a counter that waited for the TPM.
    pub async fn sync_counter(&self) -> Result<(), Error> {
        self.state.lock().await.manifest.sync_counter(&self.tpm).await
    }

    /// How the key-encryption key is guarded, now and whenever it was sealed anew: then it is time to ask
    /// [`Vault::is_due`].
    pub fn seal_status(&self) -> watch::Receiver<SealStatus> {
        self.seal_status.subscribe()
    }

    /// Makes a fresh key-encryption key if it is to be sealed to other PCRs than it is: each [`Holder`] is due then.
    ///
    /// Without a recovery key nothing is sealed to PCRs: the next firmware update would shut the host out.
    pub async fn reseal_if_needed(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let needs_recovery_key = !self.configured_pcrs.is_empty() && !state.seal_file.has_recovery_key();
        if state.seal_file.pcrs() == self.configured_pcrs
            || state.seal_file.has_previous()
            || needs_recovery_key
        {
            return Ok(());
        }
        let old_kek = state.seal_file.unseal(&self.tpm).await?.latest;
        let seal_file = state.seal_file.clone();
        let (seal_file, new_kek) =
            seal_file.with_new_kek(&self.tpm, &old_kek, &self.configured_pcrs, self.clock.now()).await?;
        self.commit_new_kek(&mut state, seal_file, &new_kek).await
    }

    /// Makes a recovery key in place of the one before, and gives it in the only form there will ever be. It comes with a
    /// fresh key-encryption key, as in [`Vault::rebind`]: what an old paper and an old copy of the disk open is to be of no
    /// use.
    pub async fn create_recovery_key(&self) -> Result<Zeroizing<String>, Error> {
        let mut state = self.state.lock().await;
        if state.seal_file.has_previous() {
            return Err(Error::RewrapInProgress);
        }
        let old_kek = state.seal_file.unseal(&self.tpm).await?.latest;
        let (recovery_key, now, seal_file) =
            (RecoveryKey::generate()?, self.clock.now(), state.seal_file.clone());
        let (seal_file, latest) =
            seal_file.with_new_kek(&self.tpm, &old_kek, &self.configured_pcrs, now).await?;
        let keks = KekPair { latest, previous: Some(old_kek) };
        let seal_file = seal_file.with_recovery_key(&keks, &recovery_key, now)?;
        self.commit_new_kek(&mut state, seal_file, &keks.latest).await?;
        Ok(recovery_key.to_text())
    }

    /// Returns when the key before is forgotten, if it is not yet.
    pub async fn wait_rewrapped(&self) {
        let mut seal_status = self.seal_status();
        while self.state.lock().await.seal_file.has_previous() {
            // The sender is ours.
            let _ = seal_status.changed().await;
        }
    }

    /// The keys, if what this holder has on the disk is still to be encrypted under the latest of them.
    pub async fn needs_rewrap(&self, dependent: KekDependent) -> Result<Option<KekPair>, Error> {
        let state = self.state.lock().await;
        if !state.pending_rewrap.contains(&dependent) {
            return Ok(None);
        }
        state.seal_file.unseal(&self.tpm).await.map(Some)
    }

    /// The holder's file is under the latest key. When that is so of all, the key before is forgotten.
    pub async fn mark_rewrapped(&self, dependent: KekDependent) -> Result<(), Error> {
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
            // So that it is tried again.
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
        self.seal_status.send_replace(state.seal_file.status(&self.configured_pcrs));
        Ok(())
    }
}

/// Takes the state directory as it is for the latest, as the administrator says.
pub async fn accept_current_state(tpm: &Tpm, dir: &Path, initial_kek: &KeyBlob) -> Result<(), Error> {
    let keks = SealFile::read(dir, initial_kek)?.unseal(tpm).await?;
    StateManifest::recreate(tpm, dir, &keks).await?;
    Ok(())
}

/// After this TPM's PCRs changed: opens the secrets with the recovery key, and seals them to the PCRs as they are now.
/// With `accept`, whether or not the state is the latest.
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

/// Where the keys do not open, nothing else can be accepted either: both at once.
fn with_accept_hint(error: Error) -> Error {
    match error {
        Error::RolledBack(rollback) => Error::RolledBackAtRecovery(rollback),
        Error::InvalidFile { path, reason } => Error::InvalidFileAtRecovery { path, reason },
        other => other,
    }
}

/// The move of a host's secrets to another TPM, by the recovery key.
pub struct TpmMigration {
    dir: PathBuf,
    seal_file: SealFile,
    keks: KekPair,
}

impl TpmMigration {
    /// Opens the secrets in `dir`. The counter cannot be asked, since it is in the TPM of before; the digests can.
    /// With `accept`, whether or not the state is the latest.
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
        Ok(TpmMigration { dir: dir.to_owned(), seal_file, keks })
    }

    /// The key-encryption keys that are in use.
    pub fn keks(&self) -> &KekPair {
        &self.keks
    }

    /// Seals the keys in the TPM that is there now, and writes that down.
    pub async fn reseal(&mut self, tpm: &Tpm, configured_pcrs: &[u8], clock: &Clock) -> Result<(), Error> {
        let seal_file =
            self.seal_file.clone().resealed(tpm, &self.keks, configured_pcrs, clock.now()).await?;
        store::write(&self.dir.join(seal_file::FILE_NAME), seal_file::VERSION, &seal_file)?;
        self.seal_file = seal_file;
        Ok(())
    }

    /// Once everything is in place: a ledger with a counter of this TPM.
    pub async fn finish(self, tpm: &Tpm) -> Result<(), Error> {
        StateManifest::create(tpm, &self.dir, &self.keks).await?;
        Ok(())
    }
}

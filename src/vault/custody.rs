//! The vault in force: key-encryption key and ledger together, and the ways back when one of them does not open.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use super::ledger::Ledger;
use super::recovery::RecoveryKey;
use super::seals::{self, Binding, Seals};
use super::{Error, Holder, Kek, Keks};
use crate::clock::Clock;
use crate::store;
use crate::tpm::{KeyBlob, Tpm};

/// What the daemon keeps its secrets with.
pub struct Vault {
    dir: PathBuf,
    tpm: Tpm,
    clock: Clock,
    /// PCRs that the key-encryption key is to be sealed to.
    wanted: Vec<u8>,
    inner: Arc<Mutex<Inner>>,
    binding: watch::Sender<Binding>,
}

struct Inner {
    seals: Seals,
    ledger: Ledger,
    /// Whose files are still to be encrypted under the latest key.
    due: BTreeSet<Holder>,
}

impl Vault {
    /// Opens the vault in the state directory `dir`, and gives the key-encryption keys that are in use.
    ///
    /// `first` is the key that was made with the host; `fresh` says that this was just now.
    pub async fn open(
        tpm: &Tpm,
        dir: &Path,
        first: &KeyBlob,
        wanted: &[u8],
        fresh: bool,
        clock: &Clock,
    ) -> Result<(Vault, Keks), Error> {
        let seals = Seals::read(dir, first)?;
        let keks = seals.unseal(tpm).await?;
        let ledger = Ledger::open(tpm, dir, &keks, fresh).await?;
        // A change that was cut short: whoever had come to an end says so once more.
        let due = if keks.before.is_some() { Holder::ALL.into() } else { BTreeSet::new() };
        let binding = watch::Sender::new(seals.binding(wanted));
        let inner = Arc::new(Mutex::new(Inner { seals, ledger, due }));
        let (dir, tpm, clock, wanted) = (dir.to_owned(), tpm.clone(), clock.clone(), wanted.to_vec());
        Ok((Vault { dir, tpm, clock, wanted, inner, binding }, keks))
    }

    /// The latest key-encryption key, from the TPM.
    pub async fn kek(&self) -> Result<Kek, Error> {
        Ok(self.keks().await?.latest)
    }

    /// The key-encryption keys that are in use.
    pub async fn keks(&self) -> Result<Keks, Error> {
        let seals = self.inner.lock().await.seals.clone();
        seals.unseal(&self.tpm).await
    }

    /// Replaces a file of the state directory, one that the ledger speaks of. On disk when this returns.
    pub async fn write<T: Serialize>(
        &self,
        name: &'static str,
        version: u64,
        state: &T,
    ) -> Result<(), Error> {
        let text = store::text(&self.dir.join(name), version, state)?;
        let (inner, tpm) = (self.inner.clone(), self.tpm.clone());
        // A task of its own: whoever asked may go away in the middle, and a second change is to wait for the end of this.
        let done = tokio::spawn(async move { inner.lock().await.ledger.replace(&tpm, name, text).await });
        done.await.map_err(|_| Error::Interrupted)?
    }

    /// Raises a counter that waited for the TPM.
    pub async fn settle(&self) -> Result<(), Error> {
        self.inner.lock().await.ledger.settle(&self.tpm).await
    }

    /// How the key-encryption key is guarded, now and whenever it was sealed anew: then it is time to ask
    /// [`Vault::is_due`].
    pub fn binding(&self) -> watch::Receiver<Binding> {
        self.binding.subscribe()
    }

    /// Makes a fresh key-encryption key if it is to be sealed to other PCRs than it is: each [`Holder`] is due then.
    ///
    /// Without a recovery key nothing is sealed to PCRs: the next firmware update would shut the host out.
    pub async fn rebind(&self) -> Result<(), Error> {
        let mut inner = self.inner.lock().await;
        let unsafe_yet = !self.wanted.is_empty() && !inner.seals.has_recovery();
        if inner.seals.pcrs() == self.wanted || inner.seals.has_previous() || unsafe_yet {
            return Ok(());
        }
        let old = inner.seals.unseal(&self.tpm).await?.latest;
        let seals = inner.seals.clone();
        let (seals, new) = seals.with_new_kek(&self.tpm, &old, &self.wanted, self.clock.now()).await?;
        self.replace(&mut inner, seals, &new).await
    }

    /// Makes a recovery key in place of the one before, and gives it in the only form there will ever be. It comes with a
    /// fresh key-encryption key, as in [`Vault::rebind`]: what an old paper and an old copy of the disk open is to be of no
    /// use.
    pub async fn make_recovery(&self) -> Result<Zeroizing<String>, Error> {
        let mut inner = self.inner.lock().await;
        if inner.seals.has_previous() {
            return Err(Error::Recovery("the keys are just being sealed anew; try again in a moment".into()));
        }
        let old = inner.seals.unseal(&self.tpm).await?.latest;
        let (key, now, seals) = (RecoveryKey::generate()?, self.clock.now(), inner.seals.clone());
        let (seals, latest) = seals.with_new_kek(&self.tpm, &old, &self.wanted, now).await?;
        let keks = Keks { latest, before: Some(old) };
        let seals = seals.with_recovery(&keks, &key, now)?;
        self.replace(&mut inner, seals, &keks.latest).await?;
        Ok(key.text())
    }

    /// Returns when the key before is forgotten, if it is not yet.
    pub async fn is_settled(&self) {
        let mut binding = self.binding();
        while self.inner.lock().await.seals.has_previous() {
            // The sender is ours.
            let _ = binding.changed().await;
        }
    }

    /// The keys, if what this holder has on the disk is still to be encrypted under the latest of them.
    pub async fn is_due(&self, holder: Holder) -> Result<Option<Keks>, Error> {
        let inner = self.inner.lock().await;
        match inner.due.contains(&holder) {
            true => inner.seals.unseal(&self.tpm).await.map(Some),
            false => Ok(None),
        }
    }

    /// The holder's file is under the latest key. When that is so of all, the key before is forgotten.
    pub async fn is_done(&self, holder: Holder) -> Result<(), Error> {
        let mut inner = self.inner.lock().await;
        inner.due.remove(&holder);
        if !inner.due.is_empty() || !inner.seals.has_previous() {
            return Ok(());
        }
        let latest = inner.seals.unseal(&self.tpm).await?.latest;
        inner.ledger.rekey(&latest)?;
        let seals = inner.seals.clone().without_previous();
        let forgotten = self.keep(&mut inner, seals).await;
        if forgotten.is_err() {
            // So that it is tried again.
            inner.due.insert(holder);
        }
        forgotten
    }

    async fn replace(&self, inner: &mut Inner, seals: Seals, new: &Kek) -> Result<(), Error> {
        self.keep(inner, seals).await?;
        inner.due = Holder::ALL.into();
        inner.ledger.rekey(new)?;
        Ok(())
    }

    async fn keep(&self, inner: &mut Inner, seals: Seals) -> Result<(), Error> {
        let text = store::text(&self.dir.join(seals::NAME), seals::VERSION, &seals)?;
        inner.ledger.replace(&self.tpm, seals::NAME, text).await?;
        inner.seals = seals;
        self.binding.send_replace(inner.seals.binding(&self.wanted));
        Ok(())
    }
}

/// Takes the state directory as it is for the latest, as the administrator says.
pub async fn accept(tpm: &Tpm, dir: &Path, first: &KeyBlob) -> Result<(), Error> {
    let keks = Seals::read(dir, first)?.unseal(tpm).await?;
    Ledger::accept(tpm, dir, &keks).await?;
    Ok(())
}

/// After this TPM's PCRs changed: opens the secrets with the recovery key, and seals them to the PCRs as they are now.
/// With `accept`, whether or not the state is the latest.
pub async fn reseal(
    tpm: &Tpm,
    dir: &Path,
    first: &KeyBlob,
    wanted: &[u8],
    (key, accept): (&RecoveryKey, bool),
    clock: &Clock,
) -> Result<(), Error> {
    let seals = Seals::read(dir, first)?;
    let keks = seals.recover(key)?;
    if accept {
        let seals = seals.resealed(tpm, &keks, wanted, clock.now()).await?;
        store::write(&dir.join(seals::NAME), seals::VERSION, &seals)?;
        Ledger::accept(tpm, dir, &keks).await?;
        return Ok(());
    }
    let mut ledger = Ledger::open(tpm, dir, &keks, false).await.map_err(both)?;
    let seals = seals.resealed(tpm, &keks, wanted, clock.now()).await?;
    let text = store::text(&dir.join(seals::NAME), seals::VERSION, &seals)?;
    ledger.replace(tpm, seals::NAME, text).await
}

/// Where the keys do not open, nothing else can be accepted either: both at once.
fn both(error: Error) -> Error {
    match error {
        Error::RolledBack(why) => Error::Recovery(format!(
            "the state directory is not the latest of this host: {why}; put the latest copy back, or take this one as \
             it is as well: hostbadge key recover --accept"
        )),
        Error::Foreign { path, what } => Error::Recovery(format!(
            "{}: {what}; put it back from a backup, or take the state as it is as well: hostbadge key recover --accept",
            path.display()
        )),
        other => other,
    }
}

/// The move of a host's secrets to another TPM, by the recovery key.
pub struct Rescue {
    dir: PathBuf,
    seals: Seals,
    keks: Keks,
}

impl Rescue {
    /// Opens the secrets in `dir`. The counter cannot be asked, since it is in the TPM of before; the digests can.
    /// With `accept`, whether or not the state is the latest.
    pub fn open(dir: &Path, first: &KeyBlob, (key, accept): (&RecoveryKey, bool)) -> Result<Rescue, Error> {
        let seals = Seals::read(dir, first)?;
        let keks = seals.recover(key)?;
        if !accept {
            Ledger::check_alone(dir, &keks).map_err(both)?;
        }
        Ok(Rescue { dir: dir.to_owned(), seals, keks })
    }

    /// The key-encryption keys that are in use.
    pub fn keks(&self) -> &Keks {
        &self.keks
    }

    /// Seals the keys in the TPM that is there now, and writes that down.
    pub async fn reseal(&mut self, tpm: &Tpm, wanted: &[u8], clock: &Clock) -> Result<(), Error> {
        let seals = self.seals.clone().resealed(tpm, &self.keks, wanted, clock.now()).await?;
        store::write(&self.dir.join(seals::NAME), seals::VERSION, &seals)?;
        self.seals = seals;
        Ok(())
    }

    /// Once everything is in place: a ledger with a counter of this TPM.
    pub async fn finish(self, tpm: &Tpm) -> Result<(), Error> {
        Ledger::make(tpm, &self.dir, &self.keks).await?;
        Ok(())
    }
}

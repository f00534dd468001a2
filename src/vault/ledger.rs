//! The ledger: which files of the state directory are the latest, held against a counter in the TPM.
//!
//! `ledger.json` names the digest of each file that matters and a generation, under a MAC whose key only this host
//! opens. Each change of a file raises the generation and then the TPM's counter, which nothing can set back. An older
//! copy of the directory therefore names a generation that the counter has passed, and an older copy of one file a digest
//! that the ledger does not name.
//!
//! ```text
//! ledger: generation n + 1, old or new digest ──> file replaced ──> counter n + 1 ──> ledger: new digest
//! ```
//!
//! A crash at any point leaves something that is accepted. While the TPM is away the counter waits, and changes up to
//! its return share one generation.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, Kek, Keks, cipher};
use crate::store;
use crate::tpm::Tpm;

pub(super) const NAME: &str = "ledger.json";
const VERSION: u64 = 1;

/// What the ledger speaks of. A file of these that is there without standing in it is not this host's latest either.
///
/// Not of `rsa.json`, which has no older state to go back to: the key in it is certified by the AK and endorsed by the
/// host key or it is not taken, and what is wrong with it is to stop RS256 alone.
const FILES: [&str; 8] = [
    "baseline.json",
    "ca.json",
    "certificate.json",
    "enrollment.json",
    "issuing.json",
    "seal.json",
    "signing.json",
    "tpm.json",
];
const ABSENT: &str = "absent";

const KEY: &[u8] = b"hostbadge ledger key";

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    generation: u64,
    /// NV index of the counter.
    counter: u32,
    /// SHA-256 in hexadecimal, or `absent`; two while a file is being replaced.
    files: BTreeMap<String, Vec<String>>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    entry: Entry,
    /// The MAC's key, encrypted under the key-encryption key.
    key: String,
    /// HMAC-SHA256 over the entry's JSON, in hexadecimal.
    mac: String,
}

/// The ledger in memory.
pub(super) struct Ledger {
    dir: PathBuf,
    entry: Entry,
    secret: Zeroizing<[u8; 32]>,
    /// The secret as it is written, under the latest key-encryption key.
    sealed: String,
    /// Whether the counter is one behind.
    pending: bool,
}

impl Ledger {
    /// Reads the ledger and holds the directory against it and against the TPM's counter.
    ///
    /// `fresh` says that this host's TPM objects have just been made: then there is none yet, and nothing to be compared.
    pub(super) async fn open(tpm: &Tpm, dir: &Path, keks: &Keks, fresh: bool) -> Result<Ledger, Error> {
        let Some(mut ledger) = Ledger::read(dir, keks)? else {
            return match fresh || Ledger::was_cut_short(tpm, dir).await? {
                true => Ledger::make(tpm, dir, keks).await,
                false => Err(Error::RolledBack("ledger.json is missing".to_owned())),
            };
        };
        let Entry { generation, counter, .. } = ledger.entry;
        match tpm.read_counter(counter).await? {
            Some(count) if count == generation => {}
            Some(count) if count.checked_add(1) == Some(generation) => ledger.pending = true,
            Some(count) => {
                return Err(Error::RolledBack(format!(
                    "it is of generation {generation}, and the TPM has counted to {count}"
                )));
            }
            None => {
                return Err(Error::RolledBack(format!("its counter is gone from the TPM ({counter:#x})")));
            }
        }
        if ledger.check()? {
            // After a crash one of two was taken; from now on only that one is.
            ledger.write().await?;
        }
        ledger.settle(tpm).await?;
        Ok(ledger)
    }

    /// A first start that ended before there was a ledger: TPM objects, and nothing else, in files or in the TPM.
    async fn was_cut_short(tpm: &Tpm, dir: &Path) -> Result<bool, Error> {
        let alone = FILES.iter().all(|name| *name == "tpm.json" || !dir.join(name).exists());
        Ok(alone && tpm.counters().await?.is_empty())
    }

    /// A ledger for the directory as it is, with a new counter.
    pub(super) async fn make(tpm: &Tpm, dir: &Path, keks: &Keks) -> Result<Ledger, Error> {
        let secret = cipher::random_key()?;
        let sealed = cipher::seal(&keks.latest, KEY, secret.as_slice())?;
        let files = FILES.iter().map(|name| Ok(((*name).to_owned(), vec![digest_of(&dir.join(name))?])));
        let files = files.collect::<Result<_, store::Error>>()?;
        let (counter, generation) = tpm.make_counter(secret.clone()).await?;
        let entry = Entry { generation, counter, files };
        let ledger = Ledger { dir: dir.to_owned(), entry, secret, sealed, pending: false };
        if let Err(error) = ledger.write().await {
            // There are few places for counters, and a full disk is tried again and again.
            let _ = tpm.remove_counter(counter).await;
            return Err(error);
        }
        Ok(ledger)
    }

    /// Takes the directory as it is, whatever the counter says. The counter of before is removed if it is known.
    pub(super) async fn accept(tpm: &Tpm, dir: &Path, keks: &Keks) -> Result<Ledger, Error> {
        if let Some(before) = Ledger::read(dir, keks).ok().flatten() {
            tpm.remove_counter(before.entry.counter).await?;
        }
        Ledger::make(tpm, dir, keks).await
    }

    /// Whether the files are those of the ledger, where there is no counter to be asked: the TPM is another.
    pub(super) fn check_alone(dir: &Path, keks: &Keks) -> Result<(), Error> {
        match Ledger::read(dir, keks)? {
            Some(mut ledger) => ledger.check().map(drop),
            None => Ok(()),
        }
    }

    /// Replaces a file and says so. On disk when this returns; the TPM's counter may follow later.
    pub(super) async fn replace(
        &mut self,
        tpm: &Tpm,
        name: &'static str,
        text: Vec<u8>,
    ) -> Result<(), Error> {
        debug_assert!(FILES.contains(&name));
        // An increment whose answer was late has happened; what comes now is to be of another generation.
        let _ = self.settle(tpm).await;
        let new = HEXLOWER.encode(digest(&SHA256, &text).as_ref());
        let mut entry = self.entry.clone();
        entry.generation += u64::from(!self.pending);
        let allowed = entry.files.entry(name.to_owned()).or_insert_with(|| vec![ABSENT.to_owned()]);
        if !allowed.contains(&new) {
            allowed.push(new.clone());
        }
        self.write_entry(&entry).await?;
        // Only what is on the disk may be counted to.
        (self.entry, self.pending) = (entry, true);
        let path = self.dir.join(name);
        blocking(move || {
            store::replace(&path, &text, 0o600).map_err(|source| store::Error::Io { path, source })
        })
        .await?;
        self.entry.files.insert(name.to_owned(), vec![new]);
        // The file is in force. A counter that cannot be reached now is raised at the next turn.
        if let Err(error) = self.settle(tpm).await {
            tracing::debug!(%error, "the TPM's counter waits");
        }
        // Until it is said that the old one will not do any more, either is taken, which is no reason to have failed.
        if let Err(error) = self.write().await {
            tracing::warn!("{error}");
        }
        Ok(())
    }

    /// Raises a counter that waits.
    pub(super) async fn settle(&mut self, tpm: &Tpm) -> Result<(), Error> {
        if self.pending { self.count(tpm).await } else { Ok(()) }
    }

    /// From now on the ledger's own key is encrypted under this key-encryption key.
    pub(super) fn rekey(&mut self, kek: &Kek) -> Result<(), Error> {
        self.sealed = cipher::seal(kek, KEY, self.secret.as_slice())?;
        Ok(())
    }

    async fn count(&mut self, tpm: &Tpm) -> Result<(), Error> {
        let (index, wanted) = (self.entry.counter, self.entry.generation);
        let now = tpm.raise_counter(index, self.secret.clone(), wanted).await?;
        // Whoever else can count knows the secret, so it was this daemon: a generation is never below the counter.
        self.entry.generation = wanted.max(now);
        self.pending = false;
        Ok(())
    }

    fn read(dir: &Path, keks: &Keks) -> Result<Option<Ledger>, Error> {
        let path = dir.join(NAME);
        let Some(Written { entry, key, mac }) = store::read(&path, VERSION)? else { return Ok(None) };
        let foreign = |what: &str| Error::Foreign { path: path.clone(), what: what.to_owned() };
        let Some(secret) = keks.iter().find_map(|kek| cipher::open_key(kek, KEY, &key)) else {
            return Err(foreign("is another host's or was changed"));
        };
        let mac = HEXLOWER.decode(mac.as_bytes()).unwrap_or_default();
        let text = serde_json::to_vec(&entry).map_err(|e| foreign(&e.to_string()))?;
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice()), &text, &mac)
            .map_err(|_| foreign("was changed"))?;
        Ok(Some(Ledger { dir: dir.to_owned(), entry, secret, sealed: key, pending: false }))
    }

    /// Holds the files against the ledger, and says whether one of two that it took is settled now.
    fn check(&mut self) -> Result<bool, Error> {
        let mut settled = false;
        for name in FILES {
            let now = digest_of(&self.dir.join(name))?;
            let allowed = self.entry.files.entry(name.to_owned()).or_insert_with(|| vec![ABSENT.to_owned()]);
            if !allowed.contains(&now) {
                let what = if now == ABSENT { "is missing" } else { "is not what this host wrote last" };
                return Err(Error::RolledBack(format!("{name} {what}")));
            }
            settled |= allowed.len() > 1;
            *allowed = vec![now];
        }
        Ok(settled)
    }

    async fn write(&self) -> Result<(), Error> {
        self.write_entry(&self.entry).await
    }

    async fn write_entry(&self, entry: &Entry) -> Result<(), Error> {
        let text = serde_json::to_vec(entry).map_err(|_| Error::Random)?;
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_slice()), &text);
        let (entry, key) = (entry.clone(), self.sealed.clone());
        let written = Written { entry, key, mac: HEXLOWER.encode(mac.as_ref()) };
        let file = self.dir.join(NAME);
        blocking(move || store::write(&file, VERSION, &written)).await
    }
}

fn digest_of(path: &Path) -> Result<String, store::Error> {
    let hex = |text: Vec<u8>| HEXLOWER.encode(digest(&SHA256, &text).as_ref());
    Ok(store::bytes(path)?.map_or(ABSENT.to_owned(), hex))
}

/// Disks freeze, so that they are never waited for on this thread.
async fn blocking(f: impl FnOnce() -> Result<(), store::Error> + Send + 'static) -> Result<(), Error> {
    match tokio::task::spawn_blocking(f).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            let source = io::Error::other(error.to_string());
            Err(store::Error::Io { path: NAME.into(), source }.into())
        }
    }
}

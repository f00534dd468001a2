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
use ring::hmac;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::cipher;
use super::error::{Error, Rollback};
use super::kek::{Kek, KekPair};
use crate::digest::sha256;
use crate::store;
use crate::tpm::Tpm;

pub(super) const FILE_NAME: &str = "ledger.json";
const VERSION: u64 = 1;

/// What the ledger speaks of. A file of these that is there without standing in it is not this host's latest either.
///
/// Not of `rsa.json`, which has no older state to go back to: the key in it is certified by the AK and endorsed by the
/// host key or it is not taken, and what is wrong with it is to stop RS256 alone.
const TRACKED_FILES: [&str; 8] = [
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

const MAC_KEY_AAD: &[u8] = b"hostbadge ledger key";

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestContent {
    generation: u64,
    /// NV index of the counter.
    counter: u32,
    /// SHA-256 in hexadecimal, or `absent`; two while a file is being replaced.
    files: BTreeMap<String, Vec<String>>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    entry: ManifestContent,
    /// The MAC's key, encrypted under the key-encryption key.
    key: String,
    /// HMAC-SHA256 over the entry's JSON, in hexadecimal.
    mac: String,
}

/// The ledger in memory.
pub(super) struct StateManifest {
    dir: PathBuf,
    content: ManifestContent,
    mac_key: Zeroizing<[u8; 32]>,
    /// The secret as it is written, under the latest key-encryption key.
    encrypted_mac_key: String,
    /// Whether the counter is one behind.
    counter_pending: bool,
}

impl StateManifest {
    /// Reads the ledger and holds the directory against it and against the TPM's counter.
    ///
    /// `fresh` says that this host's TPM objects have just been made: then there is none yet, and nothing to be compared.
    pub(super) async fn open(
        tpm: &Tpm,
        dir: &Path,
        keks: &KekPair,
        newly_provisioned: bool,
    ) -> Result<StateManifest, Error> {
        let Some(mut manifest) = StateManifest::read(dir, keks)? else {
            if newly_provisioned || StateManifest::first_start_incomplete(tpm, dir).await? {
                return StateManifest::create(tpm, dir, keks).await;
            }
            return Err(Error::RolledBack(Rollback::ManifestMissing));
        };
        let ManifestContent { generation, counter, .. } = manifest.content;
        match tpm.read_counter(counter).await? {
            Some(count) if count == generation => {}
            Some(count) if count.checked_add(1) == Some(generation) => manifest.counter_pending = true,
            Some(count) => return Err(Error::RolledBack(Rollback::Generation { generation, count })),
            None => return Err(Error::RolledBack(Rollback::CounterMissing(counter))),
        }
        if manifest.verify_files()? {
            // After a crash one of two was taken; from now on only that one is.
            manifest.save().await?;
        }
        manifest.sync_counter(tpm).await?;
        Ok(manifest)
    }

    /// A first start that ended before there was a ledger: TPM objects, and nothing else, in files or in the TPM.
    async fn first_start_incomplete(tpm: &Tpm, dir: &Path) -> Result<bool, Error> {
        let only_tpm_file = TRACKED_FILES.iter().all(|name| *name == "tpm.json" || !dir.join(name).exists());
        Ok(only_tpm_file && tpm.list_counters().await?.is_empty())
    }

    /// A ledger for the directory as it is, with a new counter.
    pub(super) async fn create(tpm: &Tpm, dir: &Path, keks: &KekPair) -> Result<StateManifest, Error> {
        let mac_key = cipher::random_key()?;
        let encrypted_mac_key = cipher::encrypt(&keks.latest, MAC_KEY_AAD, mac_key.as_slice())?;
        let files =
            TRACKED_FILES.iter().map(|name| Ok(((*name).to_owned(), vec![file_digest(&dir.join(name))?])));
        let files = files.collect::<Result<_, store::Error>>()?;
        let (counter, generation) = tpm.create_counter(mac_key.clone()).await?;
        let content = ManifestContent { generation, counter, files };
        let manifest = StateManifest {
            dir: dir.to_owned(),
            content,
            mac_key,
            encrypted_mac_key,
            counter_pending: false,
        };
        if let Err(error) = manifest.save().await {
            // There are few places for counters, and a full disk is tried again and again.
            let _ = tpm.remove_counter(counter).await;
            return Err(error);
        }
        Ok(manifest)
    }

    /// Takes the directory as it is, whatever the counter says. The counter of before is removed if it is known.
    pub(super) async fn recreate(tpm: &Tpm, dir: &Path, keks: &KekPair) -> Result<StateManifest, Error> {
        if let Some(previous) = StateManifest::read(dir, keks).ok().flatten() {
            tpm.remove_counter(previous.content.counter).await?;
        }
        StateManifest::create(tpm, dir, keks).await
    }

    /// Whether the files are those of the ledger, where there is no counter to be asked: the TPM is another.
    pub(super) fn verify_without_counter(dir: &Path, keks: &KekPair) -> Result<(), Error> {
        match StateManifest::read(dir, keks)? {
            Some(mut manifest) => manifest.verify_files().map(drop),
            None => Ok(()),
        }
    }

    /// Replaces a file and says so. On disk when this returns; the TPM's counter may follow later.
    pub(super) async fn replace_file(
        &mut self,
        tpm: &Tpm,
        name: &'static str,
        contents: Vec<u8>,
    ) -> Result<(), Error> {
        debug_assert!(TRACKED_FILES.contains(&name));
        // An increment whose answer was late has happened; what comes now is to be of another generation.
        let _ = self.sync_counter(tpm).await;
        let new_digest = HEXLOWER.encode(&sha256(&contents));
        let mut content = self.content.clone();
        content.generation += u64::from(!self.counter_pending);
        let allowed_digests = content.files.entry(name.to_owned()).or_insert_with(|| vec![ABSENT.to_owned()]);
        if !allowed_digests.contains(&new_digest) {
            allowed_digests.push(new_digest.clone());
        }
        self.save_content(&content).await?;
        // Only what is on the disk may be counted to.
        (self.content, self.counter_pending) = (content, true);
        let path = self.dir.join(name);
        run_blocking(move || {
            store::write_atomic(&path, &contents, 0o600).map_err(|source| store::Error::Io { path, source })
        })
        .await?;
        self.content.files.insert(name.to_owned(), vec![new_digest]);
        // The file is in force. A counter that cannot be reached now is raised at the next turn.
        if let Err(error) = self.sync_counter(tpm).await {
            tracing::debug!(%error, "the TPM's counter waits");
        }
        // Until it is said that the old one will not do any more, either is taken, which is no reason to have failed.
        if let Err(error) = self.save().await {
            tracing::warn!("{error}");
        }
        Ok(())
    }

    /// Raises a counter that waits.
    pub(super) async fn sync_counter(&mut self, tpm: &Tpm) -> Result<(), Error> {
        if self.counter_pending { self.raise_counter(tpm).await } else { Ok(()) }
    }

    /// From now on the ledger's own key is encrypted under this key-encryption key.
    pub(super) fn rekey(&mut self, kek: &Kek) -> Result<(), Error> {
        self.encrypted_mac_key = cipher::encrypt(kek, MAC_KEY_AAD, self.mac_key.as_slice())?;
        Ok(())
    }

    async fn raise_counter(&mut self, tpm: &Tpm) -> Result<(), Error> {
        let (index, target) = (self.content.counter, self.content.generation);
        let counter_value = tpm.increment_counter_to(index, self.mac_key.clone(), target).await?;
        // Whoever else can count knows the secret, so it was this daemon: a generation is never below the counter.
        self.content.generation = target.max(counter_value);
        self.counter_pending = false;
        Ok(())
    }

    fn read(dir: &Path, keks: &KekPair) -> Result<Option<StateManifest>, Error> {
        let path = dir.join(FILE_NAME);
        let Some(ManifestFile { entry: content, key: encrypted_mac_key, mac }) = store::read(&path, VERSION)?
        else {
            return Ok(None);
        };
        let invalid_file =
            |reason: &str| Error::InvalidFile { path: path.clone(), reason: reason.to_owned() };
        let Some(mac_key) =
            keks.iter().find_map(|kek| cipher::decrypt_key(kek, MAC_KEY_AAD, &encrypted_mac_key))
        else {
            return Err(invalid_file("is another host's or was changed"));
        };
        let mac = HEXLOWER.decode(mac.as_bytes()).unwrap_or_default();
        let json = serde_json::to_vec(&content)?;
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, mac_key.as_slice()), &json, &mac)
            .map_err(|_| invalid_file("was changed"))?;
        Ok(Some(StateManifest {
            dir: dir.to_owned(),
            content,
            mac_key,
            encrypted_mac_key,
            counter_pending: false,
        }))
    }

    /// Holds the files against the ledger, and says whether one of two that it took is settled now.
    fn verify_files(&mut self) -> Result<bool, Error> {
        let mut narrowed = false;
        for name in TRACKED_FILES {
            let now = file_digest(&self.dir.join(name))?;
            let allowed_digests =
                self.content.files.entry(name.to_owned()).or_insert_with(|| vec![ABSENT.to_owned()]);
            if !allowed_digests.contains(&now) {
                let rollback =
                    if now == ABSENT { Rollback::FileMissing(name) } else { Rollback::FileChanged(name) };
                return Err(Error::RolledBack(rollback));
            }
            narrowed |= allowed_digests.len() > 1;
            *allowed_digests = vec![now];
        }
        Ok(narrowed)
    }

    async fn save(&self) -> Result<(), Error> {
        self.save_content(&self.content).await
    }

    async fn save_content(&self, content: &ManifestContent) -> Result<(), Error> {
        let json = serde_json::to_vec(content)?;
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.mac_key.as_slice()), &json);
        let (entry, key) = (content.clone(), self.encrypted_mac_key.clone());
        let manifest_file = ManifestFile { entry, key, mac: HEXLOWER.encode(mac.as_ref()) };
        let path = self.dir.join(FILE_NAME);
        run_blocking(move || store::write(&path, VERSION, &manifest_file)).await
    }
}

fn file_digest(path: &Path) -> Result<String, store::Error> {
    let hex = |text: Vec<u8>| HEXLOWER.encode(&sha256(&text));
    Ok(store::read_raw(path)?.map_or(ABSENT.to_owned(), hex))
}

/// Disks freeze, so that they are never waited for on this thread.
async fn run_blocking(f: impl FnOnce() -> Result<(), store::Error> + Send + 'static) -> Result<(), Error> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            let source = io::Error::other(error.to_string());
            Err(store::Error::Io { path: FILE_NAME.into(), source }.into())
        }
    }
}

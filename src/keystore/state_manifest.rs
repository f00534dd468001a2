//! The anti-rollback manifest, `ledger.json`: the latest version of each state file, and of the rows of
//! `credentials.db` and `revocations.db`.
//!
//! `ledger.json` has the SHA-256 of each tracked file and a generation, under an HMAC whose key only this
//! host decrypts. Each change of a file increments the generation and then the TPM's counter, which cannot be
//! decremented. An older copy of the directory has a generation below the counter, and an older copy of one
//! file has a digest that is not listed.
//!
//! ```text
//! manifest: generation n + 1, old or new digest ──> file replaced ──> counter n + 1 ──> manifest: new digest
//! ```
//!
//! A crash at any point leaves a state that is accepted. While the TPM is unavailable, the counter update is
//! pending, and all changes until it succeeds share one generation.

mod component_files;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ring::hmac;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use component_files::ComponentFile;

use super::cipher;
use super::error::{Error, Rollback};
use super::kek::{Kek, KekPair};
use crate::digest::sha256;
use crate::store;
use crate::tpm::{CounterKind, Tpm};

pub(super) const FILE_NAME: &str = "ledger.json";
const VERSION: u64 = 1;

/// The tracked files. One that exists but is not listed in the manifest is rejected, too.
///
/// A [`ComponentFile`] is none of them.
const TRACKED_FILES: [&str; 11] = [
    "baseline.json",
    "ca.json",
    "certificate.json",
    "enrollment.json",
    "erasure.json",
    "issuing.json",
    "seal.json",
    "signing.json",
    "tenant_issuing.json",
    "tenants.json",
    "tpm.json",
];
/// A database is listed with the digest of its rows. It is verified by the component that uses it, so that a
/// fault in `credentials.db` affects credentials alone.
const DATABASES: [StateDatabase; 2] = [StateDatabase::Credentials, StateDatabase::Revocations];
/// The digest of a file that does not exist.
const ABSENT: &str = "absent";

const MAC_KEY_AAD: &[u8] = b"hostbadge ledger key";

/// A database in the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateDatabase {
    /// `credentials.db`.
    Credentials,
    /// `revocations.db`.
    Revocations,
}

impl StateDatabase {
    /// Its file name.
    pub fn file_name(self) -> &'static str {
        match self {
            StateDatabase::Credentials => "credentials.db",
            StateDatabase::Revocations => "revocations.db",
        }
    }

    /// The digest of the rows in `dir`; `None` where the database does not exist or is damaged.
    fn digest_in(self, dir: &Path) -> Option<[u8; 32]> {
        let path = dir.join(self.file_name());
        match self {
            StateDatabase::Credentials => Some(store::CredentialRows::read(&path).ok()??.digest()),
            StateDatabase::Revocations => Some(store::RevocationDatabase::open(&path).ok()??.read().ok()?.1),
        }
    }
}

/// Accepted digests by name, as in the manifest.
pub(super) type DatabaseDigests = BTreeMap<String, Vec<String>>;

/// The authenticated part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestContent {
    generation: u64,
    /// The NV index of the counter.
    counter: u32,
    /// By file name: SHA-256 in hexadecimal, or `absent`. Two digests while a file is being replaced. A
    /// database that is not listed is absent.
    files: BTreeMap<String, Vec<String>>,
}

/// `ledger.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    entry: ManifestContent,
    /// The HMAC key, encrypted under the key-encryption key.
    key: String,
    /// HMAC-SHA256 over the JSON of `entry`, in hexadecimal.
    mac: String,
}

/// The manifest in memory.
pub(super) struct StateManifest {
    dir: PathBuf,
    content: ManifestContent,
    mac_key: Zeroizing<[u8; 32]>,
    /// The HMAC key as it is stored, encrypted under the latest key-encryption key.
    encrypted_mac_key: String,
    /// Whether the counter is still to be incremented to the generation.
    counter_pending: bool,
}

impl StateManifest {
    /// Reads the manifest, and compares it with the directory and with the TPM's counter.
    ///
    /// With `newly_provisioned`, the host's TPM objects have just been made, and a missing manifest is
    /// created.
    ///
    /// # Errors
    /// [`Error::RolledBack`], [`Error::InvalidFile`], a TPM that is not available, a file that cannot be
    /// written.
    pub(super) async fn open(
        tpm: &Tpm,
        dir: &Path,
        keks: &KekPair,
        newly_provisioned: bool,
    ) -> Result<StateManifest, Error> {
        let Some(mut manifest) = StateManifest::read(dir, keks)? else {
            if newly_provisioned || StateManifest::first_start_incomplete(tpm, dir).await? {
                return StateManifest::create(tpm, dir, keks, DatabaseDigests::new()).await;
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
            // A crash interrupted a replacement. From now on only the version that is there is accepted.
            manifest.save().await?;
        }
        manifest.sync_counter(tpm).await?;
        Ok(manifest)
    }

    /// Whether the first start was interrupted before the manifest was made: the only file is `tpm.json`, and
    /// the TPM has no counter.
    async fn first_start_incomplete(tpm: &Tpm, dir: &Path) -> Result<bool, Error> {
        let only_tpm_file = TRACKED_FILES.iter().all(|name| *name == "tpm.json" || !dir.join(name).exists());
        Ok(only_tpm_file && tpm.list_counters(CounterKind::State).await?.is_empty())
    }

    /// Makes a manifest for the current directory, with a new counter and these databases.
    pub(super) async fn create(
        tpm: &Tpm,
        dir: &Path,
        keks: &KekPair,
        databases: DatabaseDigests,
    ) -> Result<StateManifest, Error> {
        let mac_key = cipher::random_key()?;
        let encrypted_mac_key = cipher::encrypt(&keks.latest, MAC_KEY_AAD, mac_key.as_slice())?;
        let files =
            TRACKED_FILES.iter().map(|name| Ok(((*name).to_owned(), vec![file_digest(&dir.join(name))?])));
        let mut files = files.collect::<Result<DatabaseDigests, store::Error>>()?;
        files.extend(databases);
        let (counter, generation) = tpm.create_counter(CounterKind::State, mac_key.clone()).await?;
        let content = ManifestContent { generation, counter, files };
        let manifest = StateManifest {
            dir: dir.to_owned(),
            content,
            mac_key,
            encrypted_mac_key,
            counter_pending: false,
        };
        if let Err(error) = manifest.save().await {
            // A TPM has few counters, and with a full disk this is retried many times.
            let _ = tpm.remove_counter(counter).await;
            return Err(error);
        }
        Ok(manifest)
    }

    /// Accepts the current directory as the latest, whatever the counter's value. The previous counter is
    /// removed if the previous manifest can be read.
    pub(super) async fn recreate(tpm: &Tpm, dir: &Path, keks: &KekPair) -> Result<StateManifest, Error> {
        if let Some(previous) = StateManifest::read(dir, keks).ok().flatten() {
            tpm.remove_counter(previous.content.counter).await?;
        }
        StateManifest::create(tpm, dir, keks, StateManifest::current_databases(dir)).await
    }

    /// The databases in the directory and the files of components. One that is damaged is left out, and therefore
    /// rejected later.
    pub(super) fn current_databases(dir: &Path) -> DatabaseDigests {
        let databases = DATABASES.iter().filter_map(|database| {
            Some((database.file_name().to_owned(), vec![hex(&database.digest_in(dir)?)]))
        });
        let files = ComponentFile::ALL.iter().filter_map(|file| {
            let digest = file_digest(&dir.join(file.name())).ok().filter(|digest| digest != ABSENT)?;
            Some((file.name().to_owned(), vec![digest]))
        });
        databases.chain(files).collect()
    }

    /// The databases that the manifest in the directory lists; none if it cannot be read.
    pub(super) fn listed_databases(dir: &Path, keks: &KekPair) -> DatabaseDigests {
        let Some(mut manifest) = StateManifest::read(dir, keks).ok().flatten() else {
            return DatabaseDigests::new();
        };
        manifest
            .content
            .files
            .retain(|name, _| DATABASES.iter().any(|database| name == database.file_name()));
        manifest.content.files
    }

    /// Compares the files with the manifest, without the counter, which is in another TPM.
    ///
    /// # Errors
    /// [`Error::RolledBack`], [`Error::InvalidFile`]
    pub(super) fn verify_without_counter(dir: &Path, keks: &KekPair) -> Result<(), Error> {
        let Some(mut manifest) = StateManifest::read(dir, keks)? else { return Ok(()) };
        manifest.verify_files().map(drop)
    }

    /// Replaces a tracked file. It is on disk when this returns; the counter update may still be pending.
    pub(super) async fn replace_file(
        &mut self,
        tpm: &Tpm,
        name: &'static str,
        contents: Vec<u8>,
    ) -> Result<(), Error> {
        debug_assert!(
            TRACKED_FILES.contains(&name) || ComponentFile::ALL.iter().any(|file| file.name() == name)
        );
        let (digest, path) = (sha256(&contents), self.dir.join(name));
        let write = move || {
            store::write_atomic(&path, &contents, 0o600).map_err(|source| store::Error::Io { path, source })
        };
        self.replace(tpm, name, &digest, write).await
    }

    /// Changes a tracked file or database by `write`, after which it has this digest.
    pub(super) async fn replace(
        &mut self,
        tpm: &Tpm,
        name: &'static str,
        digest: &[u8; 32],
        write: impl FnOnce() -> Result<(), store::Error> + Send + 'static,
    ) -> Result<(), Error> {
        // An increment whose response was late may have happened: then this change needs another generation.
        let _ = self.sync_counter(tpm).await;
        let new_digest = hex(digest);
        let mut content = self.content.clone();
        content.generation += u64::from(!self.counter_pending);
        let allowed_digests = content.files.entry(name.to_owned()).or_insert_with(|| vec![ABSENT.to_owned()]);
        if !allowed_digests.contains(&new_digest) {
            allowed_digests.push(new_digest.clone());
        }
        self.save_content(&content).await?;
        // In memory only once it is on disk, so that the counter never passes the manifest on disk.
        (self.content, self.counter_pending) = (content, true);
        run_blocking(write).await?;
        self.content.files.insert(name.to_owned(), vec![new_digest]);
        // The file is replaced, so a failure of the counter is not an error. The next `sync_counter` tries
        // again.
        if let Err(error) = self.sync_counter(tpm).await {
            tracing::debug!(%error, "the TPM counter update is pending");
        }
        // If this fails, the manifest on disk accepts the old and the new version of the file, until the next
        // change.
        if let Err(error) = self.save().await {
            tracing::warn!("{error}");
        }
        Ok(())
    }

    /// Increments the counter, if that is pending.
    pub(super) async fn sync_counter(&mut self, tpm: &Tpm) -> Result<(), Error> {
        if self.counter_pending { self.increment_counter(tpm).await } else { Ok(()) }
    }

    /// Encrypts the HMAC key under another key-encryption key, for the next write.
    pub(super) fn rekey(&mut self, kek: &Kek) -> Result<(), Error> {
        self.encrypted_mac_key = cipher::encrypt(kek, MAC_KEY_AAD, self.mac_key.as_slice())?;
        Ok(())
    }

    async fn increment_counter(&mut self, tpm: &Tpm) -> Result<(), Error> {
        let (index, target) = (self.content.counter, self.content.generation);
        let counter_value = tpm.increment_counter_to(index, self.mac_key.clone(), target).await?;
        // The counter is higher if an earlier increment succeeded and its response was lost: only this daemon
        // has the counter's secret. The generation is never below the counter.
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

    /// A key for the purpose of this label, which is the same for as long as the manifest is. A manifest that is made
    /// again, because an older state was accepted, has other keys.
    pub(super) fn derived_key(&self, label: &str) -> Zeroizing<[u8; 32]> {
        // No JSON of a manifest begins like this, so that this is no MAC of one.
        let message = format!("hostbadge derived key: {label}");
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.mac_key.as_slice()), message.as_bytes());
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(mac.as_ref());
        key
    }

    /// Compares the digest of a database's rows with the manifest; `None` for one that does not exist. From
    /// now on only this digest is accepted.
    ///
    /// # Errors
    /// [`Rollback::FileMissing`] or [`Rollback::FileChanged`].
    pub(super) fn verify_database(
        &mut self,
        name: &'static str,
        digest: Option<&[u8; 32]>,
    ) -> Result<(), Rollback> {
        let now = digest.map_or(ABSENT.to_owned(), hex);
        let allowed_digests =
            self.content.files.entry(name.to_owned()).or_insert_with(|| vec![ABSENT.to_owned()]);
        if !allowed_digests.contains(&now) {
            return Err(if digest.is_none() {
                Rollback::FileMissing(name)
            } else {
                Rollback::FileChanged(name)
            });
        }
        *allowed_digests = vec![now];
        Ok(())
    }

    /// Compares the files with the manifest. Returns whether a file with two accepted digests now has one.
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
    Ok(store::read_raw(path)?.map_or(ABSENT.to_owned(), |text| hex(&sha256(&text))))
}

fn hex(digest: &[u8; 32]) -> String {
    HEXLOWER.encode(digest)
}

/// Runs a disk operation on a blocking thread: a disk may not respond for seconds.
async fn run_blocking(f: impl FnOnce() -> Result<(), store::Error> + Send + 'static) -> Result<(), Error> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            let source = io::Error::other(error);
            Err(store::Error::Io { path: FILE_NAME.into(), source }.into())
        }
    }
}

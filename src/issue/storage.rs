//! Makes and keeps what the issuer stands on: the TPM's objects, and the issuing keys sealed under them.
//!
//! Two files: `tpm.json` holds public and private areas that only this TPM can load; `issuing.json` holds the issuing
//! keys, encrypted under a key that only this TPM unseals, with their states and the host key's endorsements.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::encrypted_key::EncryptedKey;
use super::issuer::HostIdentity;
use super::key_schedule::KeySchedule;
use super::keys::{self, IssuingKeys, KeyChange};
use super::rotation::RotationPolicy;
use super::{Error, IssuingKey, endorsement};
use crate::clock::{Clock, Timestamp};
use crate::keystore::{KekPair, Keystore};
use crate::store;
use crate::tpm::{self, Tpm, TpmObjects};
use crate::verify::Jwk;

/// Format of `tpm.json`.
const TPM_FILE_VERSION: u64 = 1;
/// Format of `issuing.json`. Format 1, with a single key, is read as well.
const KEY_SCHEDULE_VERSION: u64 = 2;

/// `tpm.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TpmFile {
    objects: TpmObjects,
}

pub(super) fn tpm_file_path(state_dir: &Path) -> PathBuf {
    state_dir.join("tpm.json")
}

pub(super) fn issuing_keys_path(state_dir: &Path) -> PathBuf {
    state_dir.join(ISSUING_KEYS_FILE)
}

const ISSUING_KEYS_FILE: &str = "issuing.json";

/// Reads the TPM's objects, for [`Tpm::open`].
pub fn read_host_key_blobs(state_dir: &Path) -> Result<Option<TpmObjects>, Error> {
    let blobs = store::read::<TpmFile>(&tpm_file_path(state_dir), TPM_FILE_VERSION)?.map(|file| file.objects);
    if blobs.is_none() && issuing_keys_path(state_dir).exists() {
        // A new identity beside an old key would orphan the key without a word.
        let reason = "is missing though issuing.json is there".to_owned();
        return Err(Error::InvalidFile { path: tpm_file_path(state_dir), reason });
    }
    Ok(blobs)
}

/// Writes the TPM's objects.
pub(super) fn write_host_key_blobs(state_dir: &Path, blobs: &TpmObjects) -> Result<(), store::Error> {
    store::write(&tpm_file_path(state_dir), TPM_FILE_VERSION, &TpmFile { objects: blobs.clone() })
}

/// How the host is to be called, as far as configuration says.
#[derive(Clone, Debug, Default)]
pub struct IssuerConfig {
    pub trust_domain: Option<String>,
    pub issuer: Option<String>,
}

impl IssuerConfig {
    /// The host's names, once its id is known.
    pub fn host_identity(&self, id: &str, software_tpm: bool) -> HostIdentity {
        let trust_domain = self.trust_domain.clone().unwrap_or_else(|| format!("{id}.internal"));
        let issuer = self.issuer.clone().unwrap_or_else(|| format!("https://{trust_domain}"));
        HostIdentity { id: id.to_owned(), trust_domain, issuer, software_tpm }
    }
}

/// The keys, and what happened to them on the way.
pub struct LoadedKeys {
    pub keys: IssuingKeys,
    pub changes: Vec<KeyChange>,
}

/// Loads what is there and makes what is missing. The first time on a host this makes its identity.
pub async fn load_or_create_keys(
    tpm: &Tpm,
    state_dir: &Path,
    issuer_config: &IssuerConfig,
    rotation_policy: RotationPolicy,
    pcrs: &[u8],
    clock: &Clock,
) -> Result<LoadedKeys, Error> {
    let mut tpm_info = tpm.info().await?;
    let newly_provisioned = tpm_info.host_key.is_none();
    if newly_provisioned {
        let blobs = tpm.provision().await?;
        // On disk before first use: an identity that was used and lost would be worse than none.
        write_host_key_blobs(state_dir, &blobs)?;
        tracing::info!(
            event = "host-provisioned",
            "made the host key and the AK in the TPM: host {}",
            tpm_info.host_id
        );
        tpm_info = tpm.info().await?;
    }
    // A part of the file that is another TPM's shows now, and not at the next rotation.
    tpm.check_certification().await?;
    let point = tpm_info.host_key.ok_or_else(|| Error::Key("the TPM shows no host key".into()))?;
    let host_key = Jwk::from_point(&point);
    let host = issuer_config.host_identity(&tpm_info.host_id, tpm_info.software);
    let initial_kek = read_host_key_blobs(state_dir)?.ok_or(tpm::Error::NotProvisioned)?.kek;
    let file = issuing_keys_path(state_dir);
    let schedule = read_key_schedule(&file)?;
    let (keystore, keks) =
        Keystore::open(tpm, state_dir, &initial_kek, pcrs, newly_provisioned, clock).await?;

    let mut changes = Vec::new();
    let schedule = match schedule {
        Some(schedule) => schedule,
        None => {
            let (key, encrypted_key) =
                keys::create_key(tpm, &keks.latest, &host.id, &host_key, clock.now()).await?;
            let schedule = KeySchedule::with_first_key(encrypted_key, clock.now());
            write_key_schedule(&keystore, &schedule).await?;
            tracing::info!(event = "key-created", "made issuing key {}, endorsed by the host key", key.kid());
            changes.push(KeyChange::Activated { kid: key.kid().to_owned() });
            schedule
        }
    };
    let loader = KeyLoader { file: &file, keks: &keks, host_id: &host.id, host_key: &host_key };
    loader.reject_duplicates(&schedule)?;
    let active = loader.load_private(&schedule.active().sealed)?;
    let next = schedule.next().map(|next| loader.load_private(&next.sealed)).transpose()?;
    let retired = schedule
        .retired()
        .iter()
        .map(|retired_key| loader.load_public(&retired_key.sealed))
        .collect::<Result<_, _>>()?;
    let clock = clock.clone();
    let keystore = Arc::new(keystore);
    let (rsa_key, needs_rewrite) = (None, false);
    let mut keys = IssuingKeys {
        keystore,
        host,
        host_key,
        rotation_policy,
        clock,
        schedule,
        active,
        next,
        retired,
        rsa_key,
        needs_rewrite,
    };
    // The keys are open all the same; the rotator tries again, and says what is in the way.
    let _ = keys.rewrap().await;
    Ok(LoadedKeys { keys, changes })
}

pub(super) fn read_key_schedule(file: &Path) -> Result<Option<KeySchedule>, store::Error> {
    store::read_versions(file, 1..=KEY_SCHEDULE_VERSION, |format, state| match format {
        1 => serde_json::from_value::<EncryptedKey>(state).map(KeySchedule::from_format_1),
        _ => serde_json::from_value(state),
    })
}

/// Replaces `issuing.json`: on disk when this returns.
pub(super) async fn write_key_schedule(keystore: &Keystore, schedule: &KeySchedule) -> Result<(), Error> {
    Ok(keystore.write_file(ISSUING_KEYS_FILE, KEY_SCHEDULE_VERSION, schedule).await?)
}

/// The same where there is no vault yet.
pub(super) fn write_key_schedule_directly(file: &Path, schedule: &KeySchedule) -> Result<(), store::Error> {
    store::write(file, KEY_SCHEDULE_VERSION, schedule)
}

/// What it takes to believe a key on disk.
struct KeyLoader<'a> {
    file: &'a Path,
    keks: &'a KekPair,
    host_id: &'a str,
    host_key: &'a Jwk,
}

impl KeyLoader<'_> {
    fn invalid_file(&self, reason: &str) -> Error {
        Error::InvalidFile { path: self.file.to_owned(), reason: reason.to_owned() }
    }

    /// A key in two states would be retired and sign all the same.
    fn reject_duplicates(&self, schedule: &KeySchedule) -> Result<(), Error> {
        let mut kids = HashSet::new();
        match schedule.encrypted_keys().all(|sealed| kids.insert(&sealed.kid)) {
            true => Ok(()),
            false => Err(self.invalid_file("holds one key twice")),
        }
    }

    /// A key that signs, now or later.
    fn load_private(&self, encrypted_key: &EncryptedKey) -> Result<Arc<IssuingKey>, Error> {
        let pkcs8 = encrypted_key.decrypt(self.keks).ok_or_else(|| {
            self.invalid_file(
                "does not open under this TPM's sealed key; it is another host's or was changed",
            )
        })?;
        let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(encrypted_key.created))?;
        if key.kid() != encrypted_key.kid {
            return Err(self.invalid_file("names another key than it holds"));
        }
        endorsement::verify(&encrypted_key.endorsement, self.host_id, self.host_key, key.jwk())?;
        Ok(Arc::new(key))
    }

    /// A key that only verifies. Its secret stays closed: the endorsement says what its public half is.
    fn load_public(&self, encrypted_key: &EncryptedKey) -> Result<Jwk, Error> {
        let jwk = endorsement::endorsed_key(&encrypted_key.endorsement, self.host_id, self.host_key)?;
        match jwk.kid == encrypted_key.kid {
            true => Ok(jwk),
            false => Err(self.invalid_file("names another key than its endorsement")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_1_is_read_as_an_active_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = issuing_keys_path(dir.path());
        store::write(&file, 1, &EncryptedKey::for_test("a", 1_700_000_000)).unwrap();
        let schedule = read_key_schedule(&file).unwrap().unwrap();
        assert_eq!(schedule.active().sealed, EncryptedKey::for_test("a", 1_700_000_000));
        assert_eq!(schedule.active().activated, Timestamp::from_secs(1_700_000_000));
        assert!(
            schedule.next().is_none() && schedule.retired().is_empty() && schedule.destroyed().is_empty()
        );

        write_key_schedule_directly(&file, &schedule).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().contains("\"version\": 2"));
        assert_eq!(read_key_schedule(&file).unwrap().unwrap(), schedule);
    }

    #[test]
    fn newer_formats_and_corrupt_files_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let file = issuing_keys_path(dir.path());
        store::write(&file, 3, &EncryptedKey::for_test("a", 1)).unwrap();
        assert!(read_key_schedule(&file).unwrap_err().to_string().contains("written in format 3"));
        store::write(&file, 2, &EncryptedKey::for_test("a", 1)).unwrap();
        assert!(read_key_schedule(&file).unwrap_err().to_string().contains("corrupt"));
    }
}

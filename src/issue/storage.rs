//! The state files of the issuer.
//!
//! `tpm.json` has the public and private areas of the TPM's objects, which only this TPM can load.
//! `issuing.json` has the key schedule: the issuing keys, encrypted under a key that only this TPM unseals,
//! with their states and endorsements.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::encrypted_key::EncryptedKey;
use super::error::Error;
use super::key_schedule::KeySchedule;
use crate::keystore::Keystore;
use crate::store;
use crate::tpm::TpmObjects;

/// Format of `tpm.json`.
const TPM_FILE_VERSION: u64 = 1;
/// Format of `issuing.json`. Format 1, with a single key, is read as well.
const KEY_SCHEDULE_VERSION: u64 = 3;
const ISSUING_KEYS_FILE: &str = "issuing.json";

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

/// Reads the TPM's objects from `tpm.json`, for [`crate::tpm::Tpm::open`]. `None` on a host that has no keys
/// yet.
///
/// # Errors
/// [`Error::InvalidFile`] if `issuing.json` exists without `tpm.json`: a new host key would orphan the
/// issuing keys.
pub fn read_host_key_blobs(state_dir: &Path) -> Result<Option<TpmObjects>, Error> {
    let blobs = store::read::<TpmFile>(&tpm_file_path(state_dir), TPM_FILE_VERSION)?.map(|file| file.objects);
    if blobs.is_none() && issuing_keys_path(state_dir).exists() {
        let reason = "is missing, but issuing.json exists".to_owned();
        return Err(Error::InvalidFile { path: tpm_file_path(state_dir), reason });
    }
    Ok(blobs)
}

/// Replaces `tpm.json`; it is on disk when this returns.
pub(super) fn write_host_key_blobs(state_dir: &Path, blobs: &TpmObjects) -> Result<(), store::Error> {
    store::write(&tpm_file_path(state_dir), TPM_FILE_VERSION, &TpmFile { objects: blobs.clone() })
}

/// Reads `issuing.json`, at `file`; `None` if it does not exist.
pub(super) fn read_key_schedule(file: &Path) -> Result<Option<KeySchedule>, store::Error> {
    store::read_versions(file, 1..=KEY_SCHEDULE_VERSION, |format, state| match format {
        1 => serde_json::from_value::<EncryptedKey>(state).map(KeySchedule::from_format_1),
        _ => serde_json::from_value(state),
    })
}

/// Replaces `issuing.json`; it is on disk when this returns.
pub(super) async fn write_key_schedule(keystore: &Keystore, schedule: &KeySchedule) -> Result<(), Error> {
    Ok(keystore.write_file(ISSUING_KEYS_FILE, KEY_SCHEDULE_VERSION, schedule).await?)
}

/// Replaces `issuing.json` without the anti-rollback manifest, which the caller makes afterwards.
pub(super) fn write_key_schedule_directly(file: &Path, schedule: &KeySchedule) -> Result<(), store::Error> {
    store::write(file, KEY_SCHEDULE_VERSION, schedule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn format_1_is_read_as_an_active_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = issuing_keys_path(dir.path());
        store::write(&file, 1, &EncryptedKey::for_test("a", 1_700_000_000)).unwrap();
        let schedule = read_key_schedule(&file).unwrap().unwrap();
        assert_eq!(schedule.active().encrypted_key, EncryptedKey::for_test("a", 1_700_000_000));
        assert_eq!(schedule.active().activated, Timestamp::from_secs(1_700_000_000));
        assert!(
            schedule.next().is_none() && schedule.retired().is_empty() && schedule.destroyed().is_empty()
        );

        write_key_schedule_directly(&file, &schedule).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().contains("\"version\": 3"));
        assert_eq!(read_key_schedule(&file).unwrap().unwrap(), schedule);
    }

    #[test]
    fn newer_formats_and_corrupt_files_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let file = issuing_keys_path(dir.path());
        store::write(&file, 4, &EncryptedKey::for_test("a", 1)).unwrap();
        assert!(read_key_schedule(&file).unwrap_err().to_string().contains("written in format 4"));
        store::write(&file, 2, &EncryptedKey::for_test("a", 1)).unwrap();
        assert!(matches!(read_key_schedule(&file).unwrap_err(), store::Error::Corrupt { .. }));
    }
}

//! `tenant_issuing.json`: the key schedules of the tenants.
//!
//! All tenants share one file, so that the state manifest lists a fixed number of files, and a reload with
//! many new tenants increments the TPM's counter once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::encrypted_key::EncryptedKey;
use super::error::Error;
use super::key_schedule::KeySchedule;
use crate::clock::Timestamp;
use crate::keystore::Keystore;
use crate::store;

const FILE_NAME: &str = "tenant_issuing.json";
const VERSION: u64 = 1;

/// Tenants with issuing keys. Each has at least one key in memory, an entry in the bundle, and its own rotation.
pub(super) const MAX_TENANTS: usize = 64;

/// `tenant_issuing.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantSchedulesFile {
    /// How often the file was written: the sequence number of the bundle depends on it, and must not decrease
    /// when a tenant is removed.
    pub(super) changes: u64,
    /// By tenant.
    pub(super) tenants: BTreeMap<String, TenantSchedule>,
}

/// The keys of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantSchedule {
    /// Since when no agent names the tenant, in seconds since the epoch; absent where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
    pub(super) keys: KeySchedule,
}

impl TenantSchedule {
    pub(super) fn new(keys: KeySchedule) -> TenantSchedule {
        TenantSchedule { left: None, keys }
    }

    /// Since when no agent names the tenant.
    pub(super) fn left(&self) -> Option<Timestamp> {
        self.left.map(Timestamp::from_secs)
    }

    pub(super) fn set_left(&mut self, left: Option<Timestamp>) {
        self.left = left.map(|at| at.ceil_to_second().as_secs());
    }
}

impl TenantSchedulesFile {
    /// Reads the file in the state directory; no tenants where it does not exist.
    pub(super) fn read(state_dir: &Path) -> Result<TenantSchedulesFile, store::Error> {
        let file: TenantSchedulesFile = store::read(&path(state_dir), VERSION)?.unwrap_or_default();
        let with_bounds = |(name, tenant): (String, TenantSchedule)| {
            (name, TenantSchedule { keys: tenant.keys.with_bounds_of_tenant(), ..tenant })
        };
        Ok(TenantSchedulesFile { tenants: file.tenants.into_iter().map(with_bounds).collect(), ..file })
    }

    /// Replaces the file without the state manifest, which the caller makes afterwards.
    pub(super) fn write_directly(&self, state_dir: &Path) -> Result<(), store::Error> {
        store::write(&path(state_dir), VERSION, self)
    }
}

/// The path of the file in the state directory.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}

/// The file, which the keys of all tenants share.
pub(super) struct TenantSchedules {
    keystore: Arc<Keystore>,
    file: Mutex<TenantSchedulesFile>,
}

impl TenantSchedules {
    pub(super) fn new(keystore: Arc<Keystore>, file: TenantSchedulesFile) -> TenantSchedules {
        TenantSchedules { keystore, file: Mutex::new(file) }
    }

    /// Writes the file with a change. It is on disk when this returns; after an error, memory has what it had
    /// before.
    pub(super) async fn change(&self, edit: impl FnOnce(&mut TenantSchedulesFile)) -> Result<u64, Error> {
        let mut file = self.file.lock().await;
        let mut changed = file.clone();
        edit(&mut changed);
        changed.changes += 1;
        self.keystore.write_file(FILE_NAME, VERSION, &changed).await?;
        *file = changed;
        Ok(file.changes)
    }

    /// Replaces the key schedule of a tenant. Keys that it no longer has count as changes too: the documents may
    /// have lacked them before, each with a greater sequence number, because they are revoked.
    pub(super) async fn replace(&self, tenant: &str, keys: &KeySchedule) -> Result<(), Error> {
        self.change(|file| {
            let Some(entry) = file.tenants.get_mut(tenant) else { return };
            let is_gone = |old: &&EncryptedKey| keys.encrypted_keys().all(|new| new.kid != old.kid);
            let gone = entry.keys.encrypted_keys().filter(is_gone).count();
            file.changes += u64::try_from(gone).unwrap_or_default();
            entry.keys = keys.clone();
        })
        .await
        .map(drop)
    }

    /// How often the file was written.
    pub(super) async fn changes(&self) -> u64 {
        self.file.lock().await.changes
    }
}

#[cfg(test)]
mod tests {
    use super::super::key_schedule::{MAX_RETIRED_KEYS, MIN_RETIRED_OF_TENANT};
    use super::*;

    #[test]
    fn schedules_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(TenantSchedulesFile::read(dir.path()).unwrap(), TenantSchedulesFile::default());
        let now = Timestamp::from_secs(1_800_000_000);
        let keys = KeySchedule::with_first_key(EncryptedKey::for_test("k", 1), now).with_bounds_of_tenant();
        let mut left = TenantSchedule::new(keys.clone());
        left.set_left(Some(now));
        let tenants = [("acme".to_owned(), TenantSchedule::new(keys)), ("globex".to_owned(), left)];
        let file = TenantSchedulesFile { changes: 7, tenants: tenants.into() };
        file.write_directly(dir.path()).unwrap();
        let read = TenantSchedulesFile::read(dir.path()).unwrap();
        assert_eq!(read, file);
        assert_eq!((read.tenants["acme"].left(), read.tenants["globex"].left()), (None, Some(now)));
    }

    /// The file of the largest number of tenants, each after as many rotations as it can have.
    #[test]
    fn a_full_file_is_small_enough_to_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let key = |n: u64| EncryptedKey::of_full_size_for_test(n);
        let mut now = Timestamp::from_secs(1_800_000_000);
        let mut rotated = |max_retired: usize| {
            let mut keys = KeySchedule::with_first_key(key(0), now).with_bounds_of_tenant();
            keys.set_max_retired(max_retired);
            for n in 1..200 {
                now = now.after(std::time::Duration::from_secs(30));
                keys = keys.make_room(now).0.publish(key(n), now).unwrap().activate(now).unwrap();
            }
            let mut keys = keys.publish(key(200), now).unwrap();
            keys.set_max_retired(MIN_RETIRED_OF_TENANT);
            keys
        };
        // Ten tenants rotated while there were no others.
        let (many, few) = (rotated(MAX_RETIRED_KEYS), rotated(MIN_RETIRED_OF_TENANT));
        assert_eq!((many.retired().len(), few.retired().len()), (MAX_RETIRED_KEYS, MIN_RETIRED_OF_TENANT));
        let tenant = |n| {
            let keys = if n < 10 { many.clone() } else { few.clone() };
            (format!("{n:063}"), TenantSchedule::new(keys))
        };
        let tenants = (0..MAX_TENANTS).map(tenant).collect();
        let file = TenantSchedulesFile { changes: 1, tenants };
        file.write_directly(dir.path()).unwrap();
        assert_eq!(TenantSchedulesFile::read(dir.path()).unwrap(), file);
    }
}

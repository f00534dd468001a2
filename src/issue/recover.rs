//! Recovery with the recovery key: after the PCRs of this TPM changed, and on another TPM.

use std::fs;
use std::path::{Path, PathBuf};

use super::endorsement;
use super::error::Error;
use super::host_identity::IssuerConfig;
use super::key::IssuingKey;
use super::key_schedule::KeySchedule;
use super::storage::{
    issuing_keys_path, read_host_key_blobs, read_key_schedule, tpm_file_path, write_host_key_blobs,
    write_key_schedule_directly,
};
use super::tenant_schedules::{self, TenantSchedulesFile};
use crate::clock::{Clock, Timestamp};
use crate::keystore::{self, KekPair, RecoveryKey, TpmMigration};
use crate::store;
use crate::tpm::{self, Tpm, TpmObjects};
use crate::verify::Jwk;

/// Files that are of no use with another TPM. They are kept, with the suffix `.replaced`. `tpm.json` is the
/// last, because it decides to which TPM the state belongs.
const TPM_BOUND_FILES: [&str; 7] =
    ["ledger.json", "rsa.json", "ca.json", "signing.json", "certificate.json", "baseline.json", "tpm.json"];

/// Checks that the recovery key opens this state. `recovery` is the key, and whether to accept a state
/// directory that is not the latest.
///
/// # Errors
/// [`keystore::Error::WrongRecoveryKey`] and [`keystore::Error::NoRecoveryKey`] among others.
pub fn check_recovery_key(state_dir: &Path, recovery: (&RecoveryKey, bool)) -> Result<(), Error> {
    TpmMigration::open(state_dir, &require_host_key_blobs(state_dir)?.kek, recovery)
        .map(drop)
        .map_err(Error::from)
}

/// Opens the state with the recovery key and seals it to this TPM and to the current values of `pcrs`.
///
/// `recovery` is the key, and whether to accept a state directory that is not the latest. `tpm` must have
/// been opened with the stored objects if they are this TPM's, and without objects otherwise. In that case it
/// gets new objects, the new host key endorses every issuing key, and the host gets another id.
///
/// # Errors
/// A wrong recovery key, a state that is not the latest, a TPM that is not available, a file that cannot be
/// written.
pub async fn recover(
    tpm: &Tpm,
    state_dir: &Path,
    issuer_config: &IssuerConfig,
    pcrs: &[u8],
    recovery: (&RecoveryKey, bool),
    clock: &Clock,
) -> Result<(), Error> {
    let blobs = require_host_key_blobs(state_dir)?;
    if tpm.info().await?.host_key.is_some() {
        keystore::reseal_with_recovery_key(tpm, state_dir, &blobs.kek, pcrs, recovery, clock).await?;
        return Ok(());
    }
    let migration = TpmMigration::open(state_dir, &blobs.kek, recovery)?;
    migrate(tpm, state_dir, issuer_config, pcrs, migration, clock).await
}

fn require_host_key_blobs(state_dir: &Path) -> Result<TpmObjects, Error> {
    read_host_key_blobs(state_dir)?.ok_or(Error::NothingToRecover)
}

/// Each step leaves a state that the same recovery key opens. The last step binds the state to this TPM.
async fn migrate(
    tpm: &Tpm,
    state_dir: &Path,
    issuer_config: &IssuerConfig,
    pcrs: &[u8],
    mut migration: TpmMigration,
    clock: &Clock,
) -> Result<(), Error> {
    let file = issuing_keys_path(state_dir);
    let mut schedule = read_key_schedule(&file)?.ok_or_else(|| invalid_file(&file, "is missing"))?;
    let blobs = tpm.provision().await?;
    let tpm_info = tpm.info().await?;
    let host = issuer_config.host_identity(&tpm_info.host_id, tpm_info.software);
    let host_key = Jwk::from_point(&tpm_info.host_key.ok_or(tpm::Error::NotProvisioned)?);

    let endorser = Endorser { tpm, host_id: &host.id, host_key: &host_key, clock };
    endorser.endorse(&mut schedule, migration.keks(), &file).await?;
    let mut tenants = TenantSchedulesFile::read(state_dir)?;
    let tenants_file = tenant_schedules::path(state_dir);
    let tenant_keks = migration.tenant_keks()?;
    // A crash interrupted the removal of a tenant without a key.
    tenants.tenants.retain(|name, _| tenant_keks.get(name).is_some());
    for (name, tenant) in &mut tenants.tenants {
        let Some(keks) = tenant_keks.pair(name) else { continue };
        endorser.endorse(&mut tenant.keys, keks, &tenants_file).await?;
    }

    // Before the other writes, which the old anti-rollback manifest would not accept.
    set_aside_tpm_bound_files(state_dir)?;
    migration.reseal(tpm, pcrs, clock).await?;
    write_key_schedule_directly(&file, &schedule)?;
    if tenants_file.exists() {
        tenants.write_directly(state_dir)?;
    }
    write_host_key_blobs(state_dir, &blobs)?;
    Ok(migration.finish(tpm).await?)
}

/// The new host key, which endorses the keys that the previous one endorsed.
struct Endorser<'a> {
    tpm: &'a Tpm,
    host_id: &'a str,
    host_key: &'a Jwk,
    clock: &'a Clock,
}

impl Endorser<'_> {
    /// Endorses all keys of the schedule in `file`, which decrypt under `keks`.
    async fn endorse(&self, schedule: &mut KeySchedule, keks: &KekPair, file: &Path) -> Result<(), Error> {
        for encrypted_key in schedule.encrypted_keys_mut() {
            let pkcs8 = encrypted_key
                .decrypt(keks)
                .ok_or_else(|| invalid_file(file, "does not open under this recovery key"))?;
            let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(encrypted_key.created))?;
            if key.kid() != encrypted_key.kid {
                return Err(invalid_file(file, "names another key than it holds"));
            }
            let Endorser { tpm, host_id, host_key, clock } = self;
            encrypted_key.endorsement =
                endorsement::endorse(tpm, host_id, host_key, key.jwk(), clock.now()).await?;
        }
        Ok(())
    }
}

fn invalid_file(path: &Path, reason: &str) -> Error {
    Error::InvalidFile { path: path.to_owned(), reason: reason.to_owned() }
}

/// Renames the files of [`TPM_BOUND_FILES`]. `tpm.json` is copied, so that it is never missing.
fn set_aside_tpm_bound_files(state_dir: &Path) -> Result<(), store::Error> {
    for path in TPM_BOUND_FILES.iter().map(|name| state_dir.join(name)).filter(|path| path.exists()) {
        let mut backup = path.clone().into_os_string();
        backup.push(".replaced");
        let backup = PathBuf::from(backup);
        let result = if path == tpm_file_path(state_dir) {
            fs::copy(&path, &backup).map(drop)
        } else {
            fs::rename(&path, &backup)
        };
        result.map_err(|source| store::Error::Io { path, source })?;
    }
    Ok(())
}

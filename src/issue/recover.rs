//! The way back by the recovery key: after this TPM's PCRs changed, and onto another TPM.

use std::fs;
use std::path::Path;

use super::encrypted_key::EncryptedKey;
use super::storage::{
    issuing_keys_path, read_host_key_blobs, read_key_schedule, tpm_file_path, write_host_key_blobs,
    write_key_schedule_directly,
};
use super::{Error, IssuerConfig, IssuingKey, endorsement};
use crate::clock::{Clock, Timestamp};
use crate::keystore::{self, RecoveryKey, TpmMigration};
use crate::store;
use crate::tpm::{self, Tpm, TpmObjects};
use crate::verify::Jwk;

/// Files that mean nothing with another TPM, and are kept aside for whoever wants to look at them.
const TPM_BOUND_FILES: [&str; 7] =
    ["ledger.json", "rsa.json", "ca.json", "signing.json", "certificate.json", "baseline.json", "tpm.json"];

/// Whether the recovery key opens this state.
pub fn check_recovery_key(state_dir: &Path, recovery: (&RecoveryKey, bool)) -> Result<(), Error> {
    TpmMigration::open(state_dir, &require_host_key_blobs(state_dir)?.kek, recovery)
        .map(drop)
        .map_err(Error::from)
}

/// Opens the state with the recovery key and seals it to what this TPM is and has measured now.
///
/// The `way` is the key, and whether the state is to be taken even if it is not the latest. `tpm` has been opened with
/// the stored objects if they are this TPM's, and else with none: then it is given new ones, every issuing key gets the new
/// host key's word, and the host has another id.
pub async fn recover(
    tpm: &Tpm,
    state_dir: &Path,
    issuer_config: &IssuerConfig,
    pcrs: &[u8],
    recovery: (&RecoveryKey, bool),
    clock: &Clock,
) -> Result<(), Error> {
    let blobs = require_host_key_blobs(state_dir)?;
    match tpm.info().await?.host_key {
        Some(_) => {
            Ok(keystore::reseal_with_recovery_key(tpm, state_dir, &blobs.kek, pcrs, recovery, clock).await?)
        }
        None => {
            migrate(
                tpm,
                state_dir,
                issuer_config,
                pcrs,
                TpmMigration::open(state_dir, &blobs.kek, recovery)?,
                clock,
            )
            .await
        }
    }
}

fn require_host_key_blobs(state_dir: &Path) -> Result<TpmObjects, Error> {
    read_host_key_blobs(state_dir)?.ok_or_else(|| Error::Key("there is nothing to recover".into()))
}

/// Each step leaves a state that the same recovery key opens again, until the last makes it this TPM's own.
async fn migrate(
    tpm: &Tpm,
    state_dir: &Path,
    issuer_config: &IssuerConfig,
    pcrs: &[u8],
    mut migration: TpmMigration,
    clock: &Clock,
) -> Result<(), Error> {
    let file = issuing_keys_path(state_dir);
    let schedule = read_key_schedule(&file)?.ok_or_else(|| Error::Key("issuing.json is missing".into()))?;
    let blobs = tpm.provision().await?;
    let tpm_info = tpm.info().await?;
    let host = issuer_config.host_identity(&tpm_info.host_id, tpm_info.software);
    let point = tpm_info.host_key.ok_or(tpm::Error::NotProvisioned)?;
    let host_key = Jwk::from_point(&point);

    let mut re_endorsed = Vec::new();
    for encrypted_key in schedule.encrypted_keys() {
        let pkcs8 = encrypted_key.decrypt(migration.keks()).ok_or_else(|| {
            let reason = "does not open under this recovery key".to_owned();
            Error::InvalidFile { path: file.clone(), reason }
        })?;
        let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(encrypted_key.created))?;
        if key.kid() != encrypted_key.kid {
            let reason = "names another key than it holds".to_owned();
            return Err(Error::InvalidFile { path: file, reason });
        }
        let jws = endorsement::endorse(tpm, &host.id, &host_key, key.jwk(), clock.now()).await?;
        re_endorsed.push(encrypted_key.with_endorsement(jws));
    }
    let with_new_endorsement = |old_key: &EncryptedKey| {
        let found = re_endorsed.iter().find(|new_key| new_key.kid == old_key.kid).cloned();
        found.ok_or_else(|| Error::Key("a key has no endorsement".into()))
    };
    let schedule = schedule.try_map_keys(with_new_endorsement)?;

    // First the ledger, which would refuse what comes now.
    for path in TPM_BOUND_FILES.iter().map(|name| state_dir.join(name)).filter(|path| path.exists()) {
        let mut backup = path.clone().into_os_string();
        backup.push(".replaced");
        let io_error = |source| store::Error::Io { path: path.clone(), source };
        // The last of them is what says whose state this is, and is replaced rather than missing for a moment.
        match path == tpm_file_path(state_dir) {
            true => fs::copy(&path, &backup).map(drop),
            false => fs::rename(&path, &backup),
        }
        .map_err(io_error)?;
    }
    migration.reseal(tpm, pcrs, clock).await?;
    write_key_schedule_directly(&file, &schedule)?;
    write_host_key_blobs(state_dir, &blobs)?;
    Ok(migration.finish(tpm).await?)
}

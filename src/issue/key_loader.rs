//! Loads the issuing keys at startup, and makes the host's keys on its first start.

use std::path::Path;
use std::sync::Arc;

use super::error::Error;
use super::host_identity::IssuerConfig;
use super::host_keys::HostKeys;
use super::key_event::{KeyChange, KeyEvent};
use super::key_schedule::KeySchedule;
use super::keys::{self, IssuingKeys, Owner};
use super::rotation::RotationPolicy;
use super::schedule_loader::ScheduleLoader;
use super::storage::{
    issuing_keys_path, read_host_key_blobs, read_key_schedule, write_host_key_blobs, write_key_schedule,
};
use super::tenant_issuers::{TenantContext, TenantIssuers};
use crate::clock::ClockState;
use crate::keystore::Keystore;
use crate::tpm::{self, Tpm};
use crate::verify::Jwk;

/// The keys, and the changes made while loading them, for the audit log.
pub struct LoadedKeys {
    /// The keys in memory.
    pub keys: HostKeys,
    /// The creation of the first issuing key; empty if there was one.
    pub changes: Vec<KeyEvent>,
}

/// Loads the keys of this host, and makes the missing ones. On the first start this gives the host its
/// identity.
///
/// `pcrs` are the PCRs to which the key-encryption key is to be sealed; empty means none.
///
/// # Errors
/// A TPM that is not available, a state directory that is not the latest, a file that was changed or cannot
/// be written.
pub async fn load_or_create_keys(
    tpm: &Tpm,
    state_dir: &Path,
    issuer_config: &IssuerConfig,
    rotation_policy: RotationPolicy,
    pcrs: &[u8],
    clock: &ClockState,
) -> Result<LoadedKeys, Error> {
    let newly_provisioned = provision_if_needed(tpm, state_dir).await?;
    // Finds a file with parts of another TPM's objects now, and not at the next rotation.
    tpm.check_certification().await?;
    let tpm_info = tpm.info().await?;
    let host_key = Jwk::from_point(&tpm_info.host_key.ok_or(tpm::Error::NotProvisioned)?);
    let host = issuer_config.host_identity(&tpm_info.host_id, tpm_info.software);
    let initial_kek = read_host_key_blobs(state_dir)?.ok_or(tpm::Error::NotProvisioned)?.kek;
    let file = issuing_keys_path(state_dir);
    let schedule = read_key_schedule(&file)?;
    let (keystore, keks) =
        Keystore::open(tpm, state_dir, &initial_kek, pcrs, newly_provisioned, clock.clock()).await?;

    let mut changes = Vec::new();
    let schedule = match schedule {
        Some(mut schedule) => {
            schedule.start_sequence(clock.now());
            schedule
        }
        None => {
            let (key, encrypted_key) =
                keys::create_key(tpm, &keks.latest, &host.id, &host_key, clock.now()).await?;
            let schedule = KeySchedule::with_first_key(encrypted_key, clock.now());
            write_key_schedule(&keystore, &schedule).await?;
            tracing::info!(event = "key-created", "made issuing key {}, endorsed by the host key", key.kid());
            let activated = KeyChange::Activated { kid: key.kid().to_owned() };
            changes.extend(KeyEvent::all(None, vec![activated]));
            schedule
        }
    };
    let loader = ScheduleLoader { file: &file, keks: &keks, host_id: &host.id, host_key: &host_key };
    let scheduled_keys = loader.load(schedule)?;
    let keystore = Arc::new(keystore);
    let context = TenantContext {
        keystore: keystore.clone(),
        host: host.clone(),
        host_key: host_key.clone(),
        rotation_policy,
        clock: clock.clone(),
    };
    let tenants = TenantIssuers::load(context, state_dir).await?;
    let owner = Owner::Host;
    let own =
        IssuingKeys::new(owner, keystore, host, host_key, rotation_policy, clock.clone(), scheduled_keys);
    let mut keys = HostKeys::new(own, tenants);
    // The keys can be used even if this fails. The key rotator tries again, and reports the error.
    changes.extend(keys.rotate_kek().await.unwrap_or_default());
    Ok(LoadedKeys { keys, changes })
}

/// Makes the host key and the AK on a TPM that has none, and returns whether it did.
async fn provision_if_needed(tpm: &Tpm, state_dir: &Path) -> Result<bool, Error> {
    let tpm_info = tpm.info().await?;
    if tpm_info.host_key.is_some() {
        return Ok(false);
    }
    let blobs = tpm.provision().await?;
    // On disk before first use, so that no identity is used that a crash would lose.
    write_host_key_blobs(state_dir, &blobs)?;
    tracing::info!(
        event = "host-provisioned",
        "made the host key and the AK in the TPM: host {}",
        tpm_info.host_id
    );
    Ok(true)
}

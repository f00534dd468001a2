//! Loads the issuing keys at startup, and makes the host's keys on its first start.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::encrypted_key::EncryptedKey;
use super::endorsement;
use super::error::Error;
use super::host_identity::IssuerConfig;
use super::key::IssuingKey;
use super::key_schedule::KeySchedule;
use super::keys::{self, IssuingKeys, KeyChange, ScheduledKeys};
use super::rotation::RotationPolicy;
use super::storage::{
    issuing_keys_path, read_host_key_blobs, read_key_schedule, write_host_key_blobs, write_key_schedule,
};
use crate::clock::{ClockState, Timestamp};
use crate::keystore::{KekPair, Keystore};
use crate::tpm::{self, Tpm};
use crate::verify::Jwk;
use crate::verify::endorsement::verify_endorsement;

/// The keys, and the changes made while loading them, for the audit log.
pub struct LoadedKeys {
    /// The keys in memory.
    pub keys: IssuingKeys,
    /// The creation of the first issuing key; empty if there was one.
    pub changes: Vec<KeyChange>,
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
            changes.push(KeyChange::Activated { kid: key.kid().to_owned() });
            schedule
        }
    };
    let loader = KeyLoader { file: &file, keks: &keks, host_id: &host.id, host_key: &host_key };
    let scheduled_keys = loader.load(schedule)?;
    let mut keys =
        IssuingKeys::new(Arc::new(keystore), host, host_key, rotation_policy, clock.clone(), scheduled_keys);
    // The keys can be used even if this fails. The key rotator tries again, and reports the error.
    let _ = keys.rewrap().await;
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

/// Decrypts the keys of a schedule and checks their endorsements.
struct KeyLoader<'a> {
    /// `issuing.json`, for errors.
    file: &'a Path,
    keks: &'a KekPair,
    host_id: &'a str,
    host_key: &'a Jwk,
}

impl KeyLoader<'_> {
    fn load(&self, schedule: KeySchedule) -> Result<ScheduledKeys, Error> {
        self.reject_duplicates(&schedule)?;
        let active = self.load_private(&schedule.active().encrypted_key)?;
        let next = schedule.next().map(|next| self.load_private(&next.encrypted_key)).transpose()?;
        let retired = schedule.retired().iter().map(|retired| self.load_public(&retired.encrypted_key));
        let retired = retired.collect::<Result<_, _>>()?;
        Ok(ScheduledKeys { schedule, active, next, retired })
    }

    /// A key in two states would be retired and still sign.
    fn reject_duplicates(&self, schedule: &KeySchedule) -> Result<(), Error> {
        let mut kids = HashSet::new();
        if schedule.encrypted_keys().all(|key| kids.insert(&key.kid)) {
            Ok(())
        } else {
            Err(self.invalid_file("contains the same key twice"))
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
        endorsement::verify(&encrypted_key.endorsement, self.host_id, self.host_key, key.jwk())
            .map_err(Error::Endorsement)?;
        Ok(Arc::new(key))
    }

    /// A key that only verifies. It is not decrypted: its endorsement has the public key.
    fn load_public(&self, encrypted_key: &EncryptedKey) -> Result<Jwk, Error> {
        let jwk = verify_endorsement(&encrypted_key.endorsement, self.host_id, self.host_key)
            .map_err(Error::Endorsement)?;
        if jwk.kid == encrypted_key.kid {
            Ok(jwk)
        } else {
            Err(self.invalid_file("names another key than its endorsement"))
        }
    }

    fn invalid_file(&self, reason: &str) -> Error {
        Error::InvalidFile { path: self.file.to_owned(), reason: reason.to_owned() }
    }
}

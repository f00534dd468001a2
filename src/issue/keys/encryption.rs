//! The key-encryption key of the issuing keys: its rotation, and the recovery key.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{IssuingKeys, KeyChange, KeySchedule, Owner};
use crate::clock::Timestamp;
use crate::issue::encrypted_key::EncryptedKey;
use crate::issue::error::Error;
use crate::issue::key::IssuingKey;
use crate::keystore::{KekDependent, KekPair, NewKek, RecoveryKey};

/// How long a change of the key-encryption key waits for the previous change to end.
const REWRAP_TIMEOUT: Duration = Duration::from_secs(5);

impl IssuingKeys {
    /// Makes a new key-encryption key, if the present one is to be sealed to other PCRs or was in use for its
    /// interval. Call [`IssuingKeys::rewrap`] afterwards.
    pub async fn rotate_kek(&mut self) -> Result<Option<KeyChange>, Error> {
        if matches!(self.owner, Owner::Tenant { .. }) {
            return Ok(None);
        }
        // A clock that is ahead for a moment makes every key look old.
        let interval = self.clock.is_settled().then_some(self.rotation_policy.key_encryption);
        let new = self.keystore.reseal_if_needed(interval).await?;
        Ok(new.map(|NewKek { id, reason }| KeyChange::KekCreated { kid: id, reason }))
    }

    /// Encrypts the keys again if the key-encryption key has changed. Those of a tenant are encrypted again by
    /// [`super::super::tenant_issuers`], under the key that the tenant gets here.
    pub async fn rewrap(&mut self) -> Result<(), Error> {
        if matches!(self.owner, Owner::Tenant { .. }) {
            return Ok(());
        }
        self.keystore.rotate_tenant_keks().await?;
        let Some(keks) = self.keystore.needs_rewrap(KekDependent::IssuingKeys).await? else { return Ok(()) };
        let schedule = self.rewrapped_schedule(&keks)?;
        self.save(schedule).await?;
        Ok(self.keystore.mark_rewrapped(KekDependent::IssuingKeys).await?)
    }

    /// The schedule with all keys encrypted under the latest of these keys.
    pub(in crate::issue) fn rewrapped_schedule(&self, keks: &KekPair) -> Result<KeySchedule, Error> {
        let mut schedule = self.keys.schedule.clone();
        for encrypted_key in schedule.encrypted_keys_mut() {
            let pkcs8 =
                encrypted_key.decrypt(keks).ok_or_else(|| Error::Decrypt(encrypted_key.kid.clone()))?;
            let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(encrypted_key.created))?;
            let endorsement = encrypted_key.endorsement.clone();
            *encrypted_key = EncryptedKey::encrypt(&keks.latest, &key, &pkcs8, endorsement)?;
        }
        Ok(schedule)
    }

    /// Takes the schedule in memory that is on disk.
    pub(in crate::issue) fn set_schedule(&mut self, schedule: KeySchedule) {
        self.keys.schedule = schedule;
    }

    /// Creates a recovery key, which is not in force yet, and returns its text.
    pub async fn create_recovery_key(&self) -> Result<Zeroizing<String>, Error> {
        Ok(self.keystore.create_recovery_key().await?)
    }

    /// Puts the recovery key that was created last in force, and makes a new key-encryption key with it.
    ///
    /// # Errors
    /// [`keystore::Error::UnexpectedRecoveryKey`](crate::keystore::Error::UnexpectedRecoveryKey) for any
    /// other key; [`keystore::Error::RewrapInProgress`](crate::keystore::Error::RewrapInProgress) if a change
    /// of the key-encryption key has not ended after 5 seconds.
    pub async fn confirm_recovery_key(&mut self, recovery_key: &RecoveryKey) -> Result<(), Error> {
        self.rewrap().await?;
        // The other users of the previous key are notified at once, and encrypt their files within this time.
        let _ = tokio::time::timeout(REWRAP_TIMEOUT, self.keystore.wait_rewrapped()).await;
        self.keystore.confirm_recovery_key(recovery_key).await?;
        // The recovery key is valid now. Files under the previous key are encrypted again here, or by the
        // next `advance`.
        let _ = self.rewrap().await;
        Ok(())
    }
}

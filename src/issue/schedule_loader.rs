//! Loads the keys of a schedule: decrypts those that sign, and checks the endorsements of all.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::encrypted_key::EncryptedKey;
use super::endorsement;
use super::error::Error;
use super::key::IssuingKey;
use super::key_schedule::KeySchedule;
use super::keys::ScheduledKeys;
use crate::clock::Timestamp;
use crate::keystore::KekPair;
use crate::verify::Jwk;
use crate::verify::endorsement::verify_endorsement;

/// Decrypts the keys of a schedule and checks their endorsements.
pub(super) struct ScheduleLoader<'a> {
    /// The file of the schedule, for errors.
    pub(super) file: &'a Path,
    pub(super) keks: &'a KekPair,
    pub(super) host_id: &'a str,
    pub(super) host_key: &'a Jwk,
}

impl ScheduleLoader<'_> {
    pub(super) fn load(&self, schedule: KeySchedule) -> Result<ScheduledKeys, Error> {
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

//! Revoked issuing keys: they are destroyed, and another key signs.
//!
//! They are neither served nor signed with from the moment of the revocation on ([`super::super::issuer`]). What
//! happens here follows: the schedule on disk is brought in line, at each start too, because a crash can come
//! between the two.

use std::sync::Arc;

use super::{IssuingKeys, KeyChange};
use crate::issue::error::Error;
use crate::revocation::RevocationSet;
use crate::tpm::Tpm;

impl IssuingKeys {
    /// Whether the key that signs is revoked.
    pub fn is_active_revoked(&self, revocations: &RevocationSet) -> bool {
        revocations.blocks_key(self.active().kid())
    }

    /// Destroys revoked keys; empty if none are. In place of the active key the published one signs at once, or a
    /// new one, which needs the TPM. Call this again until it is empty.
    pub(in crate::issue) async fn destroy_revoked(
        &mut self,
        tpm: &Tpm,
        revocations: &RevocationSet,
    ) -> Result<Vec<KeyChange>, Error> {
        let is_revoked = |kid: &str| revocations.blocks_key(kid);
        // First and on its own, because it does not need the TPM.
        if let Some(schedule) = self.keys.schedule.without_revoked(is_revoked, self.clock.now()) {
            return self.save_without_revoked(schedule, is_revoked).await;
        }
        if self.is_active_revoked(revocations) {
            return self.replace_revoked(tpm).await;
        }
        Ok(Vec::new())
    }

    async fn save_without_revoked(
        &mut self,
        schedule: super::KeySchedule,
        is_revoked: impl Fn(&str) -> bool,
    ) -> Result<Vec<KeyChange>, Error> {
        let kids: Vec<String> = self.kids().collect();
        self.save(schedule).await?;
        self.keys.next.take_if(|next| is_revoked(next.kid()));
        self.keys.retired.retain(|jwk| !is_revoked(&jwk.kid));
        let retained: Vec<String> = self.kids().collect();
        let is_destroyed = |kid: &String| !retained.contains(kid);
        Ok(kids.into_iter().filter(is_destroyed).map(|kid| KeyChange::Revoked { kid }).collect())
    }

    async fn replace_revoked(&mut self, tpm: &Tpm) -> Result<Vec<KeyChange>, Error> {
        let schedule = self.keys.schedule.clone();
        let mut changes = Vec::new();
        let key = match self.keys.next.clone() {
            Some(key) => {
                self.save(schedule.replace_revoked(self.clock.now())?).await?;
                key
            }
            None => {
                let (key, encrypted_key) = self.create_key(tpm).await?;
                let (kid, now) = (key.kid().to_owned(), self.clock.now());
                self.save(schedule.publish(encrypted_key, now)?.replace_revoked(now)?).await?;
                let active_from = self.keys.schedule.active().activated;
                changes.push(KeyChange::Published { kid, active_from });
                Arc::new(key)
            }
        };
        self.keys.next = None;
        self.timer.settle();
        changes.push(KeyChange::Activated { kid: key.kid().to_owned() });
        let revoked = std::mem::replace(&mut self.keys.active, key);
        changes.push(KeyChange::Revoked { kid: revoked.kid().to_owned() });
        Ok(changes)
    }
}

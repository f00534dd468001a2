//! The issuing keys in memory, beside the file that says what each of them is.
//!
//! The file comes first: a step is written, and only then taken in memory. Whatever crashes in between, the next start
//! reads the step as done.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::encrypted_key::EncryptedKey;
use super::issuer::HostIdentity;
use super::key_schedule::{KeySchedule, RotationStep, ScheduleError};
use super::rotation::RotationPolicy;
use super::{
    Error, HostKeyRef, IssuerState, IssuingKey, PublishedDocuments, RsaSigningKey, endorsement, report,
    storage,
};
use crate::clock::{Clock, Timestamp};
use crate::keystore::{KekDependent, Keystore};
use crate::tpm::Tpm;
use crate::verify::Jwk;

/// How long a change of the key-encryption key waits for the end of the one before.
const REWRAP_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that happened to a key: for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// It signs from `active_from` on.
    Published {
        kid: String,
        active_from: Timestamp,
    },
    Activated {
        kid: String,
    },
    /// It verifies until `destroyed_from`.
    Retired {
        kid: String,
        destroyed_from: Timestamp,
    },
    Destroyed {
        kid: String,
    },
}

/// The issuing keys of this host, and the means to change them.
pub struct IssuingKeys {
    pub(super) keystore: Arc<Keystore>,
    pub(super) host: HostIdentity,
    pub(super) host_key: Jwk,
    pub(super) rotation_policy: RotationPolicy,
    pub(super) clock: Clock,
    pub(super) schedule: KeySchedule,
    pub(super) active: Arc<IssuingKey>,
    pub(super) next: Option<Arc<IssuingKey>>,
    /// Public halves, in the ring's order: what signs no more is not held.
    pub(super) retired: Vec<Jwk>,
    /// The TPM's own, for RS256.
    pub(super) rsa_key: Option<Arc<RsaSigningKey>>,
    /// A replacement failed, perhaps after the file was another already.
    pub(super) needs_rewrite: bool,
}

impl IssuingKeys {
    /// All that minting needs, as it is now.
    pub fn issuer_state(&self) -> Result<IssuerState, Error> {
        let next = self.next.iter().map(|key| key.jwk());
        let jwks = std::iter::once(self.active.jwk()).chain(next).chain(self.retired.iter().rev());
        let tpm_keys = std::iter::once(&self.host_key).chain(self.rsa_key.iter().map(|key| key.jwk()));
        let mut reports = report::key_reports(&self.schedule, &self.rotation_policy);
        let changed_at = reports.iter().filter_map(|key| key.since).max().unwrap_or_else(|| self.clock.now());
        let documents = PublishedDocuments::new(
            &self.host,
            jwks.cloned().collect(),
            tpm_keys.cloned().collect(),
            changed_at,
        )?;
        reports.extend(report::tpm_key_reports(&self.host_key, self.rsa_key.as_deref()));
        let rsa_key = self.rsa_key.clone();
        IssuerState::new(self.host.clone(), self.active.clone(), &self.host_key, rsa_key, documents, reports)
    }

    /// From now on the TPM signs RS256 with this key, where there is one.
    pub fn set_rsa_key(&mut self, rsa_key: Option<Arc<RsaSigningKey>>) {
        self.rsa_key = rsa_key;
    }

    /// The TPM's RSA key, where there is one.
    pub fn rsa_key(&self) -> Option<&RsaSigningKey> {
        self.rsa_key.as_deref()
    }

    /// Who endorses keys of this host.
    pub fn host_key_ref(&self) -> HostKeyRef {
        HostKeyRef { host_id: self.host.id.clone(), host_key: self.host_key.clone() }
    }

    /// What the keys are kept with.
    pub fn keystore(&self) -> &Arc<Keystore> {
        &self.keystore
    }

    /// Encrypts the keys anew where the key-encryption key is another one, or is to be sealed to other PCRs.
    pub async fn rewrap(&mut self) -> Result<(), Error> {
        self.keystore.reseal_if_needed().await?;
        let Some(keks) = self.keystore.needs_rewrap(KekDependent::IssuingKeys).await? else { return Ok(()) };
        let schedule = self.schedule.clone().try_map_keys(|encrypted_key| {
            let pkcs8 =
                encrypted_key.decrypt(&keks).ok_or_else(|| Error::Key("it does not open any more".into()))?;
            let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(encrypted_key.created))?;
            EncryptedKey::encrypt(&keks.latest, &key, &pkcs8, encrypted_key.endorsement.clone())
        })?;
        self.save(schedule).await?;
        Ok(self.keystore.mark_rewrapped(KekDependent::IssuingKeys).await?)
    }

    /// Makes a recovery key, and a fresh key-encryption key with it.
    pub async fn create_recovery_key(&mut self) -> Result<Zeroizing<String>, Error> {
        self.rewrap().await?;
        // Others who have something under the key before are told at once, and need no longer than this.
        let _ = tokio::time::timeout(REWRAP_TIMEOUT, self.keystore.wait_rewrapped()).await;
        let text = self.keystore.create_recovery_key().await?;
        // The key is good from now on; what is encrypted under the one before follows, now or at the next turn.
        let _ = self.rewrap().await;
        Ok(text)
    }

    /// The key that signs.
    pub fn active(&self) -> &IssuingKey {
        &self.active
    }

    /// When the schedule has something to do next.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.schedule.next_wakeup(&self.rotation_policy)
    }

    /// Takes one step that is due, if one is. What failed changes nothing and is tried at the next turn.
    pub async fn advance(&mut self, tpm: &Tpm) -> Result<Vec<KeyChange>, Error> {
        if self.needs_rewrite {
            self.save(self.schedule.clone()).await?;
        }
        // What waits for the TPM must not hold up what does not.
        if let Err(error) = self.keystore.sync_counter().await {
            tracing::debug!(%error, "the TPM's counter waits");
        }
        match self.schedule.next_due(&self.rotation_policy, self.clock.now()) {
            None => self.rewrap().await.map(|()| Vec::new()),
            Some(RotationStep::Destroy) => self.destroy().await,
            Some(RotationStep::Activate) => self.activate().await,
            Some(RotationStep::Publish) => self.publish(tpm).await,
        }
    }

    /// Publishes a key, which signs once relying parties have had their time to learn it.
    pub async fn publish(&mut self, tpm: &Tpm) -> Result<Vec<KeyChange>, Error> {
        if self.next.is_some() {
            return Err(ScheduleError::AlreadyPublished.into());
        }
        let (key, encrypted_key) = self.create_key(tpm).await?;
        self.save(self.schedule.clone().publish(encrypted_key, self.clock.now())?).await?;
        self.next = Some(Arc::new(key));
        Ok(self.pending_publication().into_iter().collect())
    }

    /// Has the next key sign at once: the published one, or a fresh one where there is none.
    pub async fn rotate_now(&mut self, tpm: &Tpm) -> Result<Vec<KeyChange>, Error> {
        if self.next.is_some() {
            return self.activate().await;
        }
        self.schedule.check_capacity()?;
        let (key, encrypted_key) = self.create_key(tpm).await?;
        let (kid, now) = (key.kid().to_owned(), self.clock.now());
        // Both steps in one file: a crash does not leave a key published that was to sign.
        self.save(self.schedule.clone().publish(encrypted_key, now)?.activate(now)?).await?;
        let mut changes = vec![KeyChange::Published { kid, active_from: self.schedule.active().activated }];
        changes.extend(self.promote(Arc::new(key)));
        Ok(changes)
    }

    /// The published key and when it signs.
    pub fn pending_publication(&self) -> Option<KeyChange> {
        self.schedule.next().map(|next| KeyChange::Published {
            kid: next.sealed.kid.clone(),
            active_from: self.rotation_policy.activate_at(next.published),
        })
    }

    async fn activate(&mut self) -> Result<Vec<KeyChange>, Error> {
        let Some(key) = self.next.clone() else { return Err(ScheduleError::NothingPublished.into()) };
        self.save(self.schedule.clone().activate(self.clock.now())?).await?;
        self.next = None;
        Ok(self.promote(key))
    }

    /// In memory, what the ring says already. The private half of the old key goes with its last user.
    fn promote(&mut self, key: Arc<IssuingKey>) -> Vec<KeyChange> {
        let kid = key.kid().to_owned();
        let old_key = std::mem::replace(&mut self.active, key);
        self.retired.push(old_key.jwk().clone());
        let destroyed_from = RotationPolicy::destroy_at(self.schedule.active().activated);
        vec![
            KeyChange::Activated { kid },
            KeyChange::Retired { kid: old_key.kid().to_owned(), destroyed_from },
        ]
    }

    async fn destroy(&mut self) -> Result<Vec<KeyChange>, Error> {
        self.save(self.schedule.clone().destroy(self.clock.now())).await?;
        let is_retired = |jwk: &Jwk| self.schedule.retired().iter().any(|old| old.sealed.kid == jwk.kid);
        let (retained, destroyed) = self.retired.drain(..).partition(is_retired);
        self.retired = retained;
        Ok(Vec::into_iter(destroyed).map(|jwk: Jwk| KeyChange::Destroyed { kid: jwk.kid }).collect())
    }

    async fn create_key(&self, tpm: &Tpm) -> Result<(IssuingKey, EncryptedKey), Error> {
        let kek = self.keystore.latest_kek().await?;
        create_key(tpm, &kek, &self.host.id, &self.host_key, self.clock.now()).await
    }

    /// Replaces the file, and the ring once the file is on the disk.
    async fn save(&mut self, schedule: KeySchedule) -> Result<(), Error> {
        // Also if this future is dropped on the way.
        self.needs_rewrite = true;
        storage::write_key_schedule(&self.keystore, &schedule).await?;
        self.schedule = schedule;
        self.needs_rewrite = false;
        Ok(())
    }
}

/// Makes a key that the host key endorses.
pub(super) async fn create_key(
    tpm: &Tpm,
    kek: &[u8; 32],
    host_id: &str,
    host_key: &Jwk,
    now: Timestamp,
) -> Result<(IssuingKey, EncryptedKey), Error> {
    let pkcs8 = IssuingKey::generate()?;
    let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(now.as_secs()))?;
    let endorsement = endorsement::endorse(tpm, host_id, host_key, key.jwk(), now).await?;
    let encrypted_key = EncryptedKey::encrypt(kek, &key, &pkcs8, endorsement)?;
    Ok((key, encrypted_key))
}

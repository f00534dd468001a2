//! The issuing keys in memory, and the steps that change them.
//!
//! A step is written to `issuing.json`, or for a tenant to `tenant_issuing.json`, first, and taken in memory once
//! the file is on disk. After a crash in between, the next start reads the step as taken.

mod encryption;
mod revoked;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::encrypted_key::EncryptedKey;
use super::error::{Error, ScheduleError};
use super::host_identity::HostIdentity;
use super::issuer::IssuerKeys;
use super::key::IssuingKey;
use super::key_event::KeyChange;
use super::key_schedule::{KeySchedule, RotationStep};
use super::retention::{Retention, drop_destroyed};
use super::rotation::RotationPolicy;
use super::rsa::HostKeyRef;
use super::successor_timer::SuccessorTimer;
use super::tenant_schedules::TenantSchedules;
use super::{endorsement, report, storage};
use crate::clock::{ClockState, Timestamp};
use crate::keystore::Keystore;
use crate::tpm::Tpm;
use crate::verify::Jwk;

/// Whose keys they are, and with that where they are stored.
pub(super) enum Owner {
    /// The host's, for agents without a tenant.
    Host,
    /// A tenant's.
    Tenant { name: String, schedules: Arc<TenantSchedules> },
}

/// The issuing keys of this host, or of one of its tenants.
pub struct IssuingKeys {
    owner: Owner,
    keystore: Arc<Keystore>,
    host: HostIdentity,
    host_key: Jwk,
    rotation_policy: RotationPolicy,
    clock: ClockState,
    keys: ScheduledKeys,
    retention: Retention,
    timer: SuccessorTimer,
    /// Whether a write of the schedule failed or was cancelled, so that its content is not known.
    needs_rewrite: bool,
}

/// A key schedule with its keys.
pub(super) struct ScheduledKeys {
    pub(super) schedule: KeySchedule,
    pub(super) active: Arc<IssuingKey>,
    pub(super) next: Option<Arc<IssuingKey>>,
    /// The public keys, in the order of the schedule. Private keys that do not sign any more are not in
    /// memory.
    pub(super) retired: Vec<Jwk>,
}

impl IssuingKeys {
    /// Keys that are on disk.
    pub(super) fn new(
        owner: Owner,
        keystore: Arc<Keystore>,
        host: HostIdentity,
        host_key: Jwk,
        rotation_policy: RotationPolicy,
        clock: ClockState,
        keys: ScheduledKeys,
    ) -> IssuingKeys {
        IssuingKeys {
            owner,
            keystore,
            host,
            host_key,
            rotation_policy,
            timer: SuccessorTimer::new(clock.clone()),
            clock,
            keys,
            retention: Retention::default(),
            needs_rewrite: false,
        }
    }

    /// What requests are served from while these keys do not change. `tpm_keys` are the public keys in the TPM.
    pub(super) fn issuer_keys(&self, tpm_keys: &[Jwk]) -> Result<IssuerKeys, Error> {
        let next = self.keys.next.iter().map(|key| key.jwk());
        let jwks = std::iter::once(self.keys.active.jwk()).chain(next).chain(self.keys.retired.iter().rev());
        let tenant = match &self.owner {
            Owner::Host => None,
            Owner::Tenant { name, .. } => Some(name.as_str()),
        };
        let issuer = self.host.issuer_of(tenant);
        let issuing_keys: Vec<Jwk> = jwks.cloned().collect();
        let reports = report::key_reports(&self.keys.schedule, &self.rotation_policy, tenant);
        let active = self.keys.active.clone();
        IssuerKeys::new(&self.host.issuer, issuer, active, issuing_keys, tpm_keys, reports)
    }

    /// The names of this host.
    pub(super) fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// The clock.
    pub(super) fn clock(&self) -> &ClockState {
        &self.clock
    }

    /// The sequence number of the key schedule.
    pub(super) fn sequence(&self) -> u64 {
        self.keys.schedule.sequence()
    }

    /// How many keys are retired.
    pub(super) fn retired_count(&self) -> usize {
        self.keys.schedule.retired().len()
    }

    /// Sets how many retired keys a tenant may have.
    pub(super) fn set_max_retired(&mut self, retired: usize) {
        self.keys.schedule.set_max_retired(retired);
    }

    /// All keys that are in the key set.
    pub(super) fn kids(&self) -> impl Iterator<Item = String> {
        self.keys.schedule.encrypted_keys().map(|key| key.kid.clone())
    }

    /// The host key, which endorses the other keys of this host.
    pub fn host_key_ref(&self) -> HostKeyRef {
        HostKeyRef { host_id: self.host.id.clone(), host_key: self.host_key.clone() }
    }

    /// The keystore that writes the state files.
    pub fn keystore(&self) -> &Arc<Keystore> {
        &self.keystore
    }

    /// The key that signs.
    pub fn active(&self) -> &IssuingKey {
        &self.keys.active
    }

    /// When the next step of the schedule is due that is not due yet.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let now = self.clock.now();
        let activation = self.time_to_activation().map(|remaining| now.after(remaining));
        self.keys.schedule.next_wakeup(&self.rotation_policy, now).into_iter().chain(activation).min()
    }

    /// Takes one step, if one is due; empty if none was. A step that fails changes nothing: call this again
    /// later.
    pub async fn advance(&mut self, tpm: &Tpm) -> Result<Vec<KeyChange>, Error> {
        if self.needs_rewrite {
            self.save(self.keys.schedule.clone()).await?;
        }
        // Without the TPM this fails, and the steps that do not need the TPM are taken all the same.
        if let Err(error) = self.keystore.sync_counter().await {
            tracing::debug!(%error, "the TPM counter update is pending");
        }
        let now = self.clock.now();
        if let Some(corrected) = self.keys.schedule.with_publication_corrected(now) {
            self.save(corrected).await?;
            self.timer.start();
            return Ok(self.pending_publication().into_iter().collect());
        }
        let retired = self.keys.schedule.retired().iter();
        let retired = retired.map(|key| (key.encrypted_key.kid.as_str(), key.retired));
        let expired = self.retention.due(retired, &self.clock);
        if !expired.is_empty() {
            return self.destroy(&expired).await;
        }
        let mut steps = self.keys.schedule.due_steps(&self.rotation_policy, now);
        let step = steps.find(|step| *step != RotationStep::Destroy);
        drop(steps);
        match step {
            Some(RotationStep::Activate) if self.time_to_activation().is_none() => self.activate().await,
            Some(RotationStep::Publish) => self.publish(tpm).await,
            _ if self.timer.was_set_back() && self.keys.next.is_none() => self.publish(tpm).await,
            _ => match self.rotate_kek().await? {
                Some(change) => Ok(vec![change]),
                None => self.rewrap().await.map(|()| Vec::new()),
            },
        }
    }

    fn time_to_activation(&self) -> Option<Duration> {
        self.keys.next.as_ref()?;
        self.timer.time_to_activation(self.rotation_policy.publish_before)
    }

    /// Makes and publishes a key. It becomes active after `publish_before`, when relying parties have fetched
    /// it.
    pub async fn publish(&mut self, tpm: &Tpm) -> Result<Vec<KeyChange>, Error> {
        if self.keys.next.is_some() {
            return Err(ScheduleError::AlreadyPublished.into());
        }
        let (key, encrypted_key) = self.create_key(tpm).await?;
        self.save(self.keys.schedule.clone().publish(encrypted_key, self.clock.now())?).await?;
        self.keys.next = Some(Arc::new(key));
        // A slow TPM or disk takes nothing from the time that relying parties have.
        self.timer.start();
        self.timer.settle();
        Ok(self.pending_publication().into_iter().collect())
    }

    /// Activates the published key at once, or a new one if none is published. With `make_room` also while no
    /// further key can retire: the retired key that is due to be destroyed first is destroyed then.
    pub async fn rotate_now(&mut self, tpm: &Tpm, make_room: bool) -> Result<Vec<KeyChange>, Error> {
        let schedule = self.keys.schedule.clone();
        let (schedule, destroyed_early) =
            if make_room { schedule.make_room(self.clock.now()) } else { (schedule, None) };
        schedule.check_capacity()?;
        let mut changes = Vec::new();
        // All steps in one write, so that a crash does not leave the key published and not active, and a
        // failure destroys nothing.
        let key = match self.keys.next.clone() {
            Some(key) => {
                self.save(schedule.activate(self.clock.now())?).await?;
                key
            }
            None => {
                let (key, encrypted_key) = self.create_key(tpm).await?;
                let (kid, now) = (key.kid().to_owned(), self.clock.now());
                self.save(schedule.publish(encrypted_key, now)?.activate(now)?).await?;
                let active_from = self.keys.schedule.active().activated;
                changes.push(KeyChange::Published { kid, active_from });
                Arc::new(key)
            }
        };
        self.keys.next = None;
        self.timer.settle();
        changes.extend(self.promote(key));
        changes.extend(self.drop_destroyed(destroyed_early));
        Ok(changes)
    }

    /// The published key, if there is one.
    pub fn pending_publication(&self) -> Option<KeyChange> {
        self.keys.schedule.next().map(|next| KeyChange::Published {
            kid: next.encrypted_key.kid.clone(),
            active_from: self.rotation_policy.activate_at(next.published),
        })
    }

    async fn activate(&mut self) -> Result<Vec<KeyChange>, Error> {
        let Some(key) = self.keys.next.clone() else { return Err(ScheduleError::NothingPublished.into()) };
        self.save(self.keys.schedule.clone().activate(self.clock.now())?).await?;
        self.keys.next = None;
        Ok(self.promote(key))
    }

    /// Takes the activation in memory. The old private key is dropped with the last `IssuerState` that has
    /// it.
    fn promote(&mut self, key: Arc<IssuingKey>) -> Vec<KeyChange> {
        let kid = key.kid().to_owned();
        let old_key = std::mem::replace(&mut self.keys.active, key);
        self.keys.retired.push(old_key.jwk().clone());
        let destroyed_from = RotationPolicy::destroy_at(self.keys.schedule.active().activated);
        vec![
            KeyChange::Activated { kid },
            KeyChange::Retired { kid: old_key.kid().to_owned(), destroyed_from },
        ]
    }

    async fn destroy(&mut self, kids: &HashSet<String>) -> Result<Vec<KeyChange>, Error> {
        self.save(self.keys.schedule.clone().destroy_kids(kids, self.clock.now())).await?;
        Ok(self.drop_destroyed(None))
    }

    fn drop_destroyed(&mut self, early: Option<(String, Timestamp)>) -> Vec<KeyChange> {
        let retired = self.keys.schedule.retired();
        let is_retired = |kid: &str| retired.iter().any(|key| key.encrypted_key.kid == kid);
        drop_destroyed(&mut self.keys.retired, is_retired, early)
    }

    async fn create_key(&self, tpm: &Tpm) -> Result<(IssuingKey, EncryptedKey), Error> {
        let kek = match &self.owner {
            Owner::Host => self.keystore.latest_kek().await?,
            Owner::Tenant { name, .. } => {
                let keks = self.keystore.tenant_keks().await?;
                keks.get(name).ok_or_else(|| Error::NoTenantKey(name.clone()))?.clone()
            }
        };
        create_key(tpm, &kek, &self.host.id, &self.host_key, self.clock.now()).await
    }

    /// Replaces the file, and the schedule in memory once the file is on disk.
    async fn save(&mut self, schedule: KeySchedule) -> Result<(), Error> {
        // Set first, in case this future is dropped before the write has ended.
        self.needs_rewrite = true;
        match &self.owner {
            Owner::Host => storage::write_key_schedule(&self.keystore, &schedule).await?,
            Owner::Tenant { name, schedules } => schedules.replace(name, &schedule).await?,
        }
        self.keys.schedule = schedule;
        self.needs_rewrite = false;
        Ok(())
    }
}

/// Makes a key, endorsed by the host key and encrypted under `kek`.
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

//! The RSA keys of this host in the TPM, and the steps that change them.
//!
//! A step is written to `rsa.json` first, and taken in memory once the file is on disk. After a crash in between, the
//! next start reads the step as taken. The TPM makes keys outside of this module, because that takes up to a minute.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::endorsement;
use super::error::{Error, ScheduleError};
use super::key_event::KeyChange;
use super::retention::{Retention, drop_destroyed};
use super::rotation::RotationPolicy;
use super::rsa::{HostKeyRef, RsaKeySet, RsaSigningKey, public_key};
use super::rsa_file::{self, VerifiedRsaFile};
use super::rsa_report::rsa_key_reports;
use super::rsa_schedule::{GeneratedRsaKey, RsaSchedule, RsaStep};
use super::successor_timer::SuccessorTimer;
use crate::clock::{ClockState, Timestamp};
use crate::keystore::Keystore;
use crate::revocation::RevocationSet;
use crate::tpm::{RsaKeyBlob, Tpm};
use crate::verify::Jwk;

/// The RSA keys of this host.
pub struct RsaKeys {
    keystore: Arc<Keystore>,
    host_key_ref: HostKeyRef,
    /// That of RSA keys.
    policy: RotationPolicy,
    clock: ClockState,
    schedule: RsaSchedule,
    active: Option<Arc<RsaSigningKey>>,
    /// The public halves, in the order of the schedule.
    retired: Vec<Jwk>,
    retention: Retention,
    timer: SuccessorTimer,
    /// Whether a write of the schedule failed or was cancelled, so that its content is not known.
    needs_rewrite: bool,
}

impl RsaKeys {
    /// Reads the keys of the host from `rsa.json` in the state directory; there are none if it does not exist.
    ///
    /// # Errors
    /// [`Error::InvalidRsaKeyFile`] for a file that is not this host's latest; a TPM that is not available.
    pub async fn load(
        tpm: &Tpm,
        state_dir: &Path,
        keystore: &Arc<Keystore>,
        host_key_ref: HostKeyRef,
        policy: RotationPolicy,
        clock: &ClockState,
    ) -> Result<RsaKeys, Error> {
        let VerifiedRsaFile { schedule, retired } =
            rsa_file::load(tpm, state_dir, keystore, &host_key_ref).await?;
        Ok(RsaKeys {
            keystore: keystore.clone(),
            host_key_ref,
            policy: policy.for_rsa(),
            active: schedule.active().map(|active| Arc::new(RsaSigningKey::new(&active.key))),
            schedule,
            retired,
            retention: Retention::default(),
            timer: SuccessorTimer::new(clock.clone()),
            clock: clock.clone(),
            needs_rewrite: false,
        })
    }

    /// The keys as requests see them.
    pub(super) fn key_set(&self) -> RsaKeySet {
        let active = self.active.iter().map(|key| key.jwk().clone());
        let next = self.schedule.next().map(|next| public_key(&next.key));
        let retired = self.retired.iter().rev().cloned();
        RsaKeySet {
            active: self.active.clone(),
            published: active.chain(next).chain(retired).collect(),
            reports: rsa_key_reports(&self.schedule, &self.policy),
        }
    }

    /// The `kid` of the key that signs; `None` before a grant needs one, and while another is being made in place of
    /// a revoked one.
    pub fn active_kid(&self) -> Option<&str> {
        self.active.as_ref().map(|key| key.kid())
    }

    /// Whether there is a key that can sign next.
    pub fn has_successor(&self) -> bool {
        self.schedule.next().is_some() || self.schedule.generated().is_some()
    }

    /// Whether it is time that the TPM makes a successor.
    pub fn needs_successor(&self) -> bool {
        let is_due = self.schedule.due_step(&self.policy, self.clock.now()) == Some(RsaStep::Generate);
        !self.has_successor() && self.active.is_some() && (is_due || self.timer.was_set_back())
    }

    /// When the next step is due that is not due yet.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let now = self.clock.now();
        let activation = self.time_to_activation().map(|remaining| now.after(remaining));
        self.schedule.next_wakeup(&self.policy, now).into_iter().chain(activation).min()
    }

    /// The published key, if there is one.
    pub fn pending_publication(&self) -> Option<KeyChange> {
        self.schedule.next().map(|next| KeyChange::Published {
            kid: next.kid.clone(),
            active_from: self.policy.activate_at(next.published),
        })
    }

    /// Checks that the active key can be retired.
    ///
    /// # Errors
    /// [`ScheduleError::TooManyRetired`]
    pub fn check_capacity(&self) -> Result<(), Error> {
        Ok(self.schedule.check_capacity()?)
    }

    /// Destroys revoked keys, in whatever state; empty if none are. It does not need the TPM. If the active key was one
    /// of them, the published one signs at the next [`RsaKeys::advance`].
    pub(crate) async fn destroy_revoked(
        &mut self,
        revocations: &RevocationSet,
    ) -> Result<Vec<KeyChange>, Error> {
        let is_revoked = |kid: &str| revocations.blocks_key(kid);
        let revoked: Vec<String> =
            self.schedule.kids().filter(|kid| is_revoked(kid)).map(str::to_owned).collect();
        if revoked.is_empty() {
            return Ok(Vec::new());
        }
        self.save(self.schedule.clone().without_revoked(is_revoked, self.clock.now())).await?;
        self.active.take_if(|key| is_revoked(key.kid()));
        self.retired.retain(|key| !is_revoked(&key.kid));
        Ok(revoked.into_iter().map(|kid| KeyChange::Revoked { kid }).collect())
    }

    /// Takes one step, if one is due; empty if none was. A step that fails changes nothing: call this again later. That
    /// a key is generated is not among the steps.
    pub async fn advance(&mut self, tpm: &Tpm) -> Result<Vec<KeyChange>, Error> {
        if self.needs_rewrite {
            self.save(self.schedule.clone()).await?;
        }
        let now = self.clock.now();
        if let Some(corrected) = self.schedule.with_publication_corrected(now) {
            self.save(corrected).await?;
            self.timer.start();
            return Ok(self.pending_publication().into_iter().collect());
        }
        let retired = self.schedule.retired().iter().map(|key| (key.kid.as_str(), key.retired));
        let expired = self.retention.due(retired, &self.clock);
        if !expired.is_empty() {
            return self.destroy(&expired).await;
        }
        let is_first = self.active.is_none();
        match self.schedule.due_step(&self.policy, now) {
            Some(RsaStep::Activate) if is_first || self.time_to_activation().is_none() => {
                self.activate().await
            }
            Some(RsaStep::Publish) => self.publish(tpm).await,
            _ if self.schedule.generated().is_some() && self.timer.was_set_back() => self.publish(tpm).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Stores a key that the TPM has made. It is published by a later step.
    pub async fn add_generated(&mut self, key: RsaKeyBlob) -> Result<KeyChange, Error> {
        let kid = public_key(&key).kid;
        let generated = GeneratedRsaKey {
            kid: kid.clone(),
            created: Timestamp::from_secs(self.clock.now().as_secs()),
            key,
        };
        self.save(self.schedule.clone().with_generated(generated)?).await?;
        Ok(KeyChange::Generated { kid })
    }

    /// Publishes the generated key. It becomes active after `publish_before`, when relying parties have fetched it; at
    /// once, and in the same write, if no key is active.
    pub async fn publish(&mut self, tpm: &Tpm) -> Result<Vec<KeyChange>, Error> {
        let published = self.published_schedule(tpm, self.schedule.clone()).await?;
        if self.active.is_none() {
            return self.publish_and_activate(published).await;
        }
        self.save(published).await?;
        // A slow TPM or disk takes nothing from the time that relying parties have.
        self.timer.start();
        self.timer.settle();
        Ok(self.pending_publication().into_iter().collect())
    }

    /// Activates the published or the generated key at once. With `make_room` also while no further key can retire:
    /// the retired key that is due to be destroyed first is destroyed then.
    pub async fn rotate_now(&mut self, tpm: &Tpm, make_room: bool) -> Result<Vec<KeyChange>, Error> {
        let schedule = self.schedule.clone();
        let (schedule, early) =
            if make_room { schedule.make_room(self.clock.now()) } else { (schedule, None) };
        schedule.check_capacity()?;
        let mut changes = match schedule.next() {
            Some(_) => self.save_activated(schedule).await?,
            None => {
                let published = self.published_schedule(tpm, schedule).await?;
                self.publish_and_activate(published).await?
            }
        };
        changes.extend(self.drop_destroyed(early));
        Ok(changes)
    }

    /// The schedule with the generated key published. The host key endorses it.
    async fn published_schedule(&self, tpm: &Tpm, schedule: RsaSchedule) -> Result<RsaSchedule, Error> {
        let generated = schedule.generated().ok_or(ScheduleError::NothingGenerated)?;
        let (HostKeyRef { host_id, host_key }, now) = (&self.host_key_ref, self.clock.now());
        let jwk = public_key(&generated.key);
        let endorsement = endorsement::endorse(tpm, host_id, host_key, &jwk, now).await?;
        Ok(schedule.publish(endorsement, self.clock.now())?)
    }

    /// All steps in one write, so that a crash does not leave the key published and not active.
    async fn publish_and_activate(&mut self, published: RsaSchedule) -> Result<Vec<KeyChange>, Error> {
        let kid = published.next().map(|next| next.kid.clone()).unwrap_or_default();
        let activated = self.save_activated(published).await?;
        let active_from = self.schedule.active().map_or_else(|| self.clock.now(), |active| active.activated);
        Ok(std::iter::once(KeyChange::Published { kid, active_from }).chain(activated).collect())
    }

    async fn activate(&mut self) -> Result<Vec<KeyChange>, Error> {
        self.save_activated(self.schedule.clone()).await
    }

    /// Writes this schedule with its published key active, and takes that in memory.
    async fn save_activated(&mut self, schedule: RsaSchedule) -> Result<Vec<KeyChange>, Error> {
        let schedule = schedule.activate(self.clock.now())?;
        let key = schedule.active().map(|active| Arc::new(RsaSigningKey::new(&active.key)));
        self.save(schedule).await?;
        self.timer.settle();
        let mut changes: Vec<KeyChange> =
            key.iter().map(|key| KeyChange::Activated { kid: key.kid().to_owned() }).collect();
        if let Some(old) = std::mem::replace(&mut self.active, key) {
            let kid = old.kid().to_owned();
            let retired = self.schedule.active().map_or_else(|| self.clock.now(), |active| active.activated);
            changes.push(KeyChange::Retired { kid, destroyed_from: RotationPolicy::destroy_at(retired) });
            self.retired.push(old.jwk().clone());
        }
        Ok(changes)
    }

    async fn destroy(&mut self, kids: &HashSet<String>) -> Result<Vec<KeyChange>, Error> {
        self.save(self.schedule.clone().destroy_kids(kids, self.clock.now())).await?;
        Ok(self.drop_destroyed(None))
    }

    fn drop_destroyed(&mut self, early: Option<(String, Timestamp)>) -> Vec<KeyChange> {
        let retired = self.schedule.retired();
        let is_retired = |kid: &str| retired.iter().any(|key| key.kid == kid);
        drop_destroyed(&mut self.retired, is_retired, early)
    }

    fn time_to_activation(&self) -> Option<Duration> {
        self.schedule.next()?;
        self.timer.time_to_activation(self.policy.publish_before)
    }

    /// Replaces the file, and the schedule in memory once the file is on disk.
    async fn save(&mut self, schedule: RsaSchedule) -> Result<(), Error> {
        // Set first, in case this future is dropped before the write has ended.
        self.needs_rewrite = true;
        rsa_file::write(&self.keystore, &schedule).await?;
        self.schedule = schedule;
        self.needs_rewrite = false;
        Ok(())
    }
}

//! The states of the issuing keys, as a value: the content of `issuing.json`, and the steps that change it.
//!
//! ```text
//! published ── publish_before ──> active ── successor active ──> retired ── last token expired ──> destroyed
//! ```
//!
//! Exactly one key is active and at most one is published, which the fields of [`KeySchedule`] enforce. Each
//! step makes a whole new schedule, which is written by one replacement of the file: a crash leaves the old
//! or the new schedule, and the next step follows from either. Time is a parameter, and nothing here reads
//! the disk.

mod bounds;
mod revoked;

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use bounds::{BOUNDS_OF_TENANT, Bounds};
pub(super) use bounds::{MAX_RETIRED_KEYS, MIN_RETIRED_OF_TENANT};

use super::encrypted_key::EncryptedKey;
use super::error::ScheduleError;
use super::rotation::RotationPolicy;
use crate::clock::Timestamp;

/// A time that is further ahead than this is of a clock that was ahead, or the clock is behind now. Within
/// it, the clock is being adjusted.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// All issuing keys of one issuer: of a host, format 3 of `issuing.json`, or of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySchedule {
    /// Greater after each change of the keys, whatever the clock says; 0 in the formats that lack it.
    #[serde(default)]
    sequence: u64,
    active: ActiveKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<PublishedKey>,
    /// Oldest first.
    retired: Vec<RetiredKey>,
    /// Oldest first.
    destroyed: Vec<DestroyedKey>,
    /// Not in the file: it follows from the owner.
    #[serde(skip)]
    bounds: Bounds,
}

/// A key that is in the key set and does not sign yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishedKey {
    #[serde(rename = "sealed")]
    pub(super) encrypted_key: EncryptedKey,
    #[serde(with = "seconds")]
    pub(super) published: Timestamp,
}

/// The key that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActiveKey {
    #[serde(rename = "sealed")]
    pub(super) encrypted_key: EncryptedKey,
    #[serde(with = "seconds")]
    pub(super) published: Timestamp,
    #[serde(with = "seconds")]
    pub(super) activated: Timestamp,
}

/// A key that does not sign any more, but may have signed tokens that have not expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetiredKey {
    #[serde(rename = "sealed")]
    pub(super) encrypted_key: EncryptedKey,
    #[serde(with = "seconds")]
    pub(super) published: Timestamp,
    #[serde(with = "seconds")]
    pub(super) activated: Timestamp,
    #[serde(with = "seconds")]
    pub(super) retired: Timestamp,
}

/// The name and times of a key whose private key is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DestroyedKey {
    pub(super) kid: String,
    #[serde(with = "seconds")]
    pub(super) created: Timestamp,
    #[serde(with = "seconds")]
    pub(super) published: Timestamp,
    #[serde(with = "seconds")]
    pub(super) activated: Timestamp,
    #[serde(with = "seconds")]
    pub(super) retired: Timestamp,
    #[serde(with = "seconds")]
    pub(super) destroyed: Timestamp,
}

/// A step of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RotationStep {
    /// Destroy the retired keys whose last token has expired, if [`super::retention`] agrees.
    Destroy,
    /// Make the published key the active one.
    Activate,
    /// Make and publish a new key. It is the only step that needs the TPM, so the others are taken first.
    Publish,
}

impl KeySchedule {
    /// A schedule with a host's first key, active at once: relying parties know no other key.
    pub(super) fn with_first_key(encrypted_key: EncryptedKey, now: Timestamp) -> KeySchedule {
        let now = now.ceil_to_second();
        let active = ActiveKey { encrypted_key, published: now, activated: now };
        let sequence = now.as_secs();
        let bounds = Bounds::default();
        KeySchedule { sequence, active, next: None, retired: Vec::new(), destroyed: Vec::new(), bounds }
    }

    /// The schedule with the bounds of a tenant's.
    pub(super) fn with_bounds_of_tenant(self) -> KeySchedule {
        KeySchedule { bounds: BOUNDS_OF_TENANT, ..self }
    }

    /// Sets how many retired keys a tenant may have.
    pub(super) fn set_max_retired(&mut self, retired: usize) {
        self.bounds.retired = retired;
    }

    /// The schedule of a file in format 1, which has one key, active since it was made.
    pub(super) fn from_format_1(encrypted_key: EncryptedKey) -> KeySchedule {
        let created = Timestamp::from_secs(encrypted_key.created);
        KeySchedule { sequence: 0, ..KeySchedule::with_first_key(encrypted_key, created) }
    }

    /// The sequence number of the key set. It continues the numbers of earlier releases, which were the
    /// seconds of the latest change.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Sets the sequence number of a schedule in a format that lacks it. The file has it after the next
    /// change.
    pub(super) fn start_sequence(&mut self, now: Timestamp) {
        if self.sequence == 0 {
            let next = self.next.iter().map(|key| key.published);
            let retired = self.retired.iter().map(|key| key.retired);
            let destroyed = self.destroyed.iter().map(|key| key.destroyed);
            let changes = next.chain(retired).chain(destroyed).chain([self.active.activated, now]);
            self.sequence = changes.map(Timestamp::as_secs).max().unwrap_or_default();
        }
    }

    fn increase_sequence(&mut self, now: Timestamp) {
        self.sequence = self.sequence.saturating_add(1).max(now.as_secs());
    }

    pub(super) fn active(&self) -> &ActiveKey {
        &self.active
    }

    pub(super) fn next(&self) -> Option<&PublishedKey> {
        self.next.as_ref()
    }

    /// Oldest first.
    pub(super) fn retired(&self) -> &[RetiredKey] {
        &self.retired
    }

    /// Oldest first.
    pub(super) fn destroyed(&self) -> &[DestroyedKey] {
        &self.destroyed
    }

    /// All keys that have a private key: active, published, then retired ones, the latest first.
    pub(super) fn encrypted_keys(&self) -> impl Iterator<Item = &EncryptedKey> {
        let next = self.next.iter().map(|key| &key.encrypted_key);
        let retired = self.retired.iter().rev().map(|key| &key.encrypted_key);
        std::iter::once(&self.active.encrypted_key).chain(next).chain(retired)
    }

    /// The same keys, for encrypting or endorsing them again. Their states do not change.
    pub(super) fn encrypted_keys_mut(&mut self) -> impl Iterator<Item = &mut EncryptedKey> {
        let next = self.next.iter_mut().map(|key| &mut key.encrypted_key);
        let retired = self.retired.iter_mut().rev().map(|key| &mut key.encrypted_key);
        std::iter::once(&mut self.active.encrypted_key).chain(next).chain(retired)
    }

    /// The steps that are due at `now`, in the order in which they are taken.
    ///
    /// If the active key is of a clock that was ahead, its successor is due at once: the tokens that the key
    /// signed then would be valid when their time has come, unless it is destroyed before.
    pub(super) fn due_steps(
        &self,
        policy: &RotationPolicy,
        now: Timestamp,
    ) -> impl Iterator<Item = RotationStep> {
        let due = self.pending_steps(policy).filter(move |(_, at)| *at <= now).map(|(step, _)| step);
        let successor_is_due = self.next.is_none() && is_ahead(self.active.activated, now);
        due.chain(successor_is_due.then_some(RotationStep::Publish))
    }

    /// The first step that is due at `now`.
    #[cfg(test)]
    pub(super) fn next_due(&self, policy: &RotationPolicy, now: Timestamp) -> Option<RotationStep> {
        self.due_steps(policy, now).next()
    }

    /// When the next step is due that is not due yet. One that is due and not taken waits for something else.
    pub(super) fn next_wakeup(&self, policy: &RotationPolicy, now: Timestamp) -> Option<Timestamp> {
        self.pending_steps(policy).map(|(_, at)| at).filter(|at| *at > now).min()
    }

    /// The schedule with the published key published now, if it was published by a clock that was ahead: the
    /// time in which relying parties fetch it begins again, and the key becomes active. Nothing is destroyed,
    /// so this is right for a clock that is behind, too.
    pub(super) fn with_publication_corrected(&self, now: Timestamp) -> Option<KeySchedule> {
        let mut corrected = self.clone();
        let next = corrected.next.as_mut().filter(|next| is_ahead(next.published, now))?;
        next.published = now.ceil_to_second();
        Some(corrected)
    }

    /// Each step that follows from the current states, in the order in which they are taken if several are
    /// due.
    fn pending_steps(&self, policy: &RotationPolicy) -> impl Iterator<Item = (RotationStep, Timestamp)> {
        let destroy = self
            .retired
            .iter()
            .map(|key| (RotationStep::Destroy, RotationPolicy::destroy_at(key.retired)))
            .min_by_key(|(_, at)| *at);
        let next = match &self.next {
            Some(_) if self.retired.len() >= self.bounds.retired => None,
            Some(key) => Some((RotationStep::Activate, policy.activate_at(key.published))),
            None => Some((RotationStep::Publish, self.publish_at(policy))),
        };
        destroy.into_iter().chain(next)
    }

    /// When the active key's successor is due to be published, if it is not yet.
    pub(super) fn publish_at(&self, policy: &RotationPolicy) -> Timestamp {
        policy.publish_successor_at(&self.active.encrypted_key.kid, self.active.activated)
    }

    /// Publishes a key.
    ///
    /// # Errors
    /// [`ScheduleError::AlreadyPublished`]
    pub(super) fn publish(
        mut self,
        encrypted_key: EncryptedKey,
        now: Timestamp,
    ) -> Result<KeySchedule, ScheduleError> {
        if self.next.is_some() {
            return Err(ScheduleError::AlreadyPublished);
        }
        self.next = Some(PublishedKey { encrypted_key, published: now.ceil_to_second() });
        self.increase_sequence(now);
        Ok(self)
    }

    /// Makes the published key the active one, and retires the active one.
    ///
    /// # Errors
    /// [`ScheduleError::NothingPublished`], [`ScheduleError::TooManyRetired`]
    pub(super) fn activate(mut self, now: Timestamp) -> Result<KeySchedule, ScheduleError> {
        self.check_capacity()?;
        let Some(PublishedKey { encrypted_key, published }) = self.next.take() else {
            return Err(ScheduleError::NothingPublished);
        };
        let now = now.ceil_to_second();
        let old_key =
            std::mem::replace(&mut self.active, ActiveKey { encrypted_key, published, activated: now });
        self.retired.push(RetiredKey {
            encrypted_key: old_key.encrypted_key,
            published: old_key.published,
            activated: old_key.activated,
            retired: now,
        });
        self.increase_sequence(now);
        Ok(self)
    }

    /// Checks that one more key can be retired. A retired key that still has to verify is not dropped for
    /// another.
    ///
    /// # Errors
    /// [`ScheduleError::TooManyRetired`]
    pub(super) fn check_capacity(&self) -> Result<(), ScheduleError> {
        let oldest = self.retired.iter().map(|key| RotationPolicy::destroy_at(key.retired)).min();
        match oldest {
            Some(until) if self.retired.len() >= self.bounds.retired => {
                Err(ScheduleError::TooManyRetired { max: self.bounds.retired, until })
            }
            _ => Ok(()),
        }
    }

    /// Drops the private keys of the retired keys whose last token has expired by the time of day.
    pub(super) fn destroy(self, now: Timestamp) -> KeySchedule {
        self.destroy_if(now, |key| RotationPolicy::destroy_at(key.retired) <= now)
    }

    /// Drops the private keys of these retired keys.
    pub(super) fn destroy_kids(self, kids: &HashSet<String>, now: Timestamp) -> KeySchedule {
        self.destroy_if(now, |key| kids.contains(&key.encrypted_key.kid))
    }

    /// Makes room for one more retired key: by those that are due to be destroyed, and if there is none by
    /// the one that is due first. Tokens that the latter signed may still be valid, and do not verify any
    /// more: the result is its `kid` and when its last token expires.
    pub(super) fn make_room(self, now: Timestamp) -> (KeySchedule, Option<(String, Timestamp)>) {
        let schedule = self.destroy(now);
        if schedule.check_capacity().is_ok() {
            return (schedule, None);
        }
        let first_due = schedule
            .retired
            .iter()
            .map(|key| (key.encrypted_key.kid.clone(), RotationPolicy::destroy_at(key.retired)))
            .min_by_key(|(_, at)| *at);
        let Some((kid, _)) = &first_due else { return (schedule, None) };
        (schedule.destroy_if(now, |key| key.encrypted_key.kid == *kid), first_due)
    }

    fn destroy_if(mut self, now: Timestamp, is_destroyed: impl Fn(&RetiredKey) -> bool) -> KeySchedule {
        let (due, retained): (Vec<_>, _) = self.retired.drain(..).partition(|key| is_destroyed(key));
        self.retired = retained;
        if !due.is_empty() {
            self.increase_sequence(now);
        }
        self.destroyed.extend(due.into_iter().map(|key| DestroyedKey::new(key, now.ceil_to_second())));
        self.forget_destroyed();
        self
    }

    fn forget_destroyed(&mut self) {
        self.destroyed.drain(..self.destroyed.len().saturating_sub(self.bounds.destroyed));
    }
}

impl DestroyedKey {
    fn new(key: RetiredKey, destroyed: Timestamp) -> DestroyedKey {
        DestroyedKey {
            kid: key.encrypted_key.kid,
            created: Timestamp::from_secs(key.encrypted_key.created),
            published: key.published,
            activated: key.activated,
            retired: key.retired,
            destroyed,
        }
    }
}

pub(super) fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    time > now.after(CLOCK_TOLERANCE)
}

/// Serializes a [`Timestamp`] as whole seconds since the epoch.
pub(super) mod seconds {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::clock::Timestamp;

    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(at.as_secs())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(deserializer).map(Timestamp::from_secs)
    }
}

#[cfg(test)]
mod tests;

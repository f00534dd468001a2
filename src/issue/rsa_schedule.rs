//! The states of the RSA keys, as a value: the content of `rsa.json`, and the steps that change it.
//!
//! ```text
//! generated ── interval ──> published ── publish_before ──> active ── successor active ──> retired ──> destroyed
//! ```
//!
//! The TPM takes up to a minute for a key, so that one is generated up to [`GENERATE_AHEAD`] before it is published.
//! At most one key is active, one published and one generated, which the fields of [`RsaSchedule`] enforce; there is
//! no active key before a grant needs one, and after a revocation until the TPM has made another. Of a retired key only
//! the public half is left. Each step makes a whole new schedule, which is written by one replacement of the file: a
//! crash leaves the old or the new schedule, and the next step follows from either.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::ScheduleError;
use super::key_schedule::{DestroyedKey, MAX_RETIRED_KEYS, is_ahead};
use super::rotation::RotationPolicy;
use crate::clock::Timestamp;
use crate::tpm::RsaKeyBlob;

/// How long before its publication a key is generated.
pub(super) const GENERATE_AHEAD: Duration = Duration::from_secs(3600);
/// Destroyed keys that the file lists; the oldest are forgotten.
const MAX_DESTROYED_KEYS: usize = 100;

/// All RSA keys of a host: format 2 of `rsa.json`. `K` is the key as the TPM keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RsaSchedule<K = RsaKeyBlob> {
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<ActiveRsaKey<K>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<PublishedRsaKey<K>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generated: Option<GeneratedRsaKey<K>>,
    /// Oldest first.
    retired: Vec<RetiredRsaKey>,
    /// Oldest first.
    destroyed: Vec<DestroyedKey>,
}

/// A key that exists and is in no key set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GeneratedRsaKey<K> {
    pub(super) kid: String,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) created: Timestamp,
    pub(super) key: K,
}

/// A key that is in the key set and does not sign yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishedRsaKey<K> {
    pub(super) kid: String,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) created: Timestamp,
    pub(super) key: K,
    /// A JWS by the host key.
    pub(super) endorsement: String,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) published: Timestamp,
}

/// The key that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActiveRsaKey<K> {
    pub(super) kid: String,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) created: Timestamp,
    pub(super) key: K,
    /// A JWS by the host key.
    pub(super) endorsement: String,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) published: Timestamp,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) activated: Timestamp,
}

/// A key whose private half is gone, and that may have signed tokens that have not expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetiredRsaKey {
    pub(super) kid: String,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) created: Timestamp,
    /// A JWS by the host key, which has the public key.
    pub(super) endorsement: String,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) published: Timestamp,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) activated: Timestamp,
    #[serde(with = "super::key_schedule::seconds")]
    pub(super) retired: Timestamp,
}

/// A step towards the next active key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RsaStep {
    /// Have the TPM make a key.
    Generate,
    /// Have the host key endorse the generated key, and publish it.
    Publish,
    /// Make the published key the active one.
    Activate,
}

impl<K> Default for RsaSchedule<K> {
    /// The schedule of a host without RSA keys.
    fn default() -> RsaSchedule<K> {
        RsaSchedule { active: None, next: None, generated: None, retired: Vec::new(), destroyed: Vec::new() }
    }
}

impl<K> RsaSchedule<K> {
    /// The schedule of a file in format 1, which has one key, active since it was made.
    pub(super) fn from_format_1(key: GeneratedRsaKey<K>, endorsement: String) -> RsaSchedule<K> {
        let GeneratedRsaKey { kid, created, key } = key;
        let active = ActiveRsaKey { kid, created, key, endorsement, published: created, activated: created };
        RsaSchedule { active: Some(active), ..RsaSchedule::default() }
    }

    pub(super) fn active(&self) -> Option<&ActiveRsaKey<K>> {
        self.active.as_ref()
    }

    pub(super) fn next(&self) -> Option<&PublishedRsaKey<K>> {
        self.next.as_ref()
    }

    pub(super) fn generated(&self) -> Option<&GeneratedRsaKey<K>> {
        self.generated.as_ref()
    }

    /// Oldest first.
    pub(super) fn retired(&self) -> &[RetiredRsaKey] {
        &self.retired
    }

    /// Oldest first.
    pub(super) fn destroyed(&self) -> &[DestroyedKey] {
        &self.destroyed
    }

    /// The keys that are not destroyed.
    pub(super) fn kids(&self) -> impl Iterator<Item = &str> {
        let active = self.active.iter().map(|key| &key.kid);
        let next = self.next.iter().map(|key| &key.kid);
        let generated = self.generated.iter().map(|key| &key.kid);
        let retired = self.retired.iter().map(|key| &key.kid);
        active.chain(next).chain(generated).chain(retired).map(String::as_str)
    }

    /// The step towards the next active key, and when it is due. Without an active key it is due at once; the first
    /// key is generated when a grant needs one.
    pub(super) fn next_step(&self, policy: &RotationPolicy) -> Option<(RsaStep, Timestamp)> {
        const AT_ONCE: Timestamp = Timestamp::from_secs(0);
        match (&self.active, &self.next, &self.generated) {
            (None, Some(_), _) => Some((RsaStep::Activate, AT_ONCE)),
            (None, None, Some(_)) => Some((RsaStep::Publish, AT_ONCE)),
            (None, None, None) => None,
            (Some(_), Some(_), _) if self.retired.len() >= MAX_RETIRED_KEYS => None,
            (Some(_), Some(next), _) => Some((RsaStep::Activate, policy.activate_at(next.published))),
            (Some(active), None, Some(_)) => Some((RsaStep::Publish, publish_at(active, policy))),
            (Some(active), None, None) => {
                Some((RsaStep::Generate, publish_at(active, policy).before(GENERATE_AHEAD)))
            }
        }
    }

    /// The step towards the next active key, if it is due at `now`. The successor of a key that is of a clock that was
    /// ahead is due at once: the tokens that the key signed then would be valid when their time has come.
    pub(super) fn due_step(&self, policy: &RotationPolicy, now: Timestamp) -> Option<RsaStep> {
        let (step, at) = self.next_step(policy)?;
        let of_the_future = self.active.as_ref().is_some_and(|active| is_ahead(active.activated, now));
        (at <= now || (of_the_future && step != RsaStep::Activate)).then_some(step)
    }

    /// When the next step is due that is not due at `now`.
    pub(super) fn next_wakeup(&self, policy: &RotationPolicy, now: Timestamp) -> Option<Timestamp> {
        let destroyed = self.retired.iter().map(|key| RotationPolicy::destroy_at(key.retired));
        let step = self.next_step(policy).map(|(_, at)| at);
        destroyed.chain(step).filter(|at| *at > now).min()
    }

    /// When the active key's successor is published, if it is not yet.
    pub(super) fn publish_at(&self, policy: &RotationPolicy) -> Option<Timestamp> {
        self.active.as_ref().map(|active| publish_at(active, policy))
    }

    /// Adds a key that the TPM has made.
    ///
    /// # Errors
    /// [`ScheduleError::AlreadyPublished`] if there is a successor.
    pub(super) fn with_generated(mut self, key: GeneratedRsaKey<K>) -> Result<RsaSchedule<K>, ScheduleError> {
        if self.next.is_some() || self.generated.is_some() {
            return Err(ScheduleError::AlreadyPublished);
        }
        self.generated = Some(key);
        Ok(self)
    }

    /// Publishes the generated key, which the host key has endorsed.
    ///
    /// # Errors
    /// [`ScheduleError::AlreadyPublished`], [`ScheduleError::NothingGenerated`]
    pub(super) fn publish(
        mut self,
        endorsement: String,
        now: Timestamp,
    ) -> Result<RsaSchedule<K>, ScheduleError> {
        if self.next.is_some() {
            return Err(ScheduleError::AlreadyPublished);
        }
        let Some(GeneratedRsaKey { kid, created, key }) = self.generated.take() else {
            return Err(ScheduleError::NothingGenerated);
        };
        let published = now.ceil_to_second();
        self.next = Some(PublishedRsaKey { kid, created, key, endorsement, published });
        Ok(self)
    }

    /// Makes the published key the active one, and retires the active one, whose private half is dropped.
    ///
    /// # Errors
    /// [`ScheduleError::NothingPublished`], [`ScheduleError::TooManyRetired`]
    pub(super) fn activate(mut self, now: Timestamp) -> Result<RsaSchedule<K>, ScheduleError> {
        self.check_capacity()?;
        let Some(PublishedRsaKey { kid, created, key, endorsement, published }) = self.next.take() else {
            return Err(ScheduleError::NothingPublished);
        };
        let now = now.ceil_to_second();
        let active = ActiveRsaKey { kid, created, key, endorsement, published, activated: now };
        self.retired.extend(self.active.replace(active).map(|old| old.retired_at(now)));
        Ok(self)
    }

    /// Checks that the active key can be retired.
    ///
    /// # Errors
    /// [`ScheduleError::TooManyRetired`]
    pub(super) fn check_capacity(&self) -> Result<(), ScheduleError> {
        let oldest = self.retired.iter().map(|key| RotationPolicy::destroy_at(key.retired)).min();
        match oldest {
            Some(until) if self.active.is_some() && self.retired.len() >= MAX_RETIRED_KEYS => {
                Err(ScheduleError::TooManyRetired { max: MAX_RETIRED_KEYS, until })
            }
            _ => Ok(()),
        }
    }

    /// Drops these retired keys.
    pub(super) fn destroy_kids(self, kids: &HashSet<String>, now: Timestamp) -> RsaSchedule<K> {
        self.destroy_if(now, |key| kids.contains(&key.kid))
    }

    /// Makes room for one more retired key: by those that are due to be destroyed, and if there is none by the one that
    /// is due first. Tokens that the latter signed may still be valid, and do not verify any more: the result is its
    /// `kid` and when its last token expires.
    pub(super) fn make_room(self, now: Timestamp) -> (RsaSchedule<K>, Option<(String, Timestamp)>) {
        let schedule = self.destroy_if(now, |key| RotationPolicy::destroy_at(key.retired) <= now);
        if schedule.check_capacity().is_ok() {
            return (schedule, None);
        }
        let first_due = schedule
            .retired
            .iter()
            .map(|key| (key.kid.clone(), RotationPolicy::destroy_at(key.retired)))
            .min_by_key(|(_, at)| *at);
        let Some((kid, _)) = &first_due else { return (schedule, None) };
        (schedule.destroy_if(now, |key| key.kid == *kid), first_due)
    }

    /// Moves the keys for which `is_revoked` holds to the destroyed ones, from any other state and without their
    /// private halves: none of their tokens verifies any more. `now` is also the time of each step that such a key had
    /// not taken. If the active key is one of them, no key is active until [`RsaSchedule::activate`].
    pub(super) fn without_revoked(
        mut self,
        is_revoked: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> RsaSchedule<K> {
        let at = now.ceil_to_second();
        let unused = |kid: String, created, published| {
            let (activated, retired) = (at, at);
            DestroyedKey { kid, created, published, activated, retired, destroyed: at }
        };
        let generated = self.generated.take_if(|key| is_revoked(&key.kid));
        self.destroyed.extend(generated.map(|key| unused(key.kid, key.created, at)));
        let next = self.next.take_if(|key| is_revoked(&key.kid));
        self.destroyed.extend(next.map(|key| unused(key.kid, key.created, key.published)));
        let active = self.active.take_if(|key| is_revoked(&key.kid));
        self.destroyed.extend(active.map(|key| key.retired_at(at).destroyed_at(at)));
        self.destroy_if(now, |key| is_revoked(&key.kid))
    }

    /// The schedule with the published key published now, if it was published by a clock that was ahead: the time in
    /// which relying parties fetch it begins again.
    pub(super) fn with_publication_corrected(&self, now: Timestamp) -> Option<RsaSchedule<K>>
    where
        K: Clone,
    {
        let mut corrected = self.clone();
        let next = corrected.next.as_mut().filter(|next| is_ahead(next.published, now))?;
        next.published = now.ceil_to_second();
        Some(corrected)
    }

    fn destroy_if(mut self, now: Timestamp, is_destroyed: impl Fn(&RetiredRsaKey) -> bool) -> RsaSchedule<K> {
        let at = now.ceil_to_second();
        let (due, retained): (Vec<_>, _) = self.retired.drain(..).partition(|key| is_destroyed(key));
        self.retired = retained;
        self.destroyed.extend(due.into_iter().map(|key| key.destroyed_at(at)));
        self.destroyed.drain(..self.destroyed.len().saturating_sub(MAX_DESTROYED_KEYS));
        self
    }
}

impl<K> ActiveRsaKey<K> {
    /// Drops the private half.
    fn retired_at(self, retired: Timestamp) -> RetiredRsaKey {
        let ActiveRsaKey { kid, created, endorsement, published, activated, .. } = self;
        RetiredRsaKey { kid, created, endorsement, published, activated, retired }
    }
}

impl RetiredRsaKey {
    fn destroyed_at(self, destroyed: Timestamp) -> DestroyedKey {
        let RetiredRsaKey { kid, created, published, activated, retired, .. } = self;
        DestroyedKey { kid, created, published, activated, retired, destroyed }
    }
}

fn publish_at<K>(active: &ActiveRsaKey<K>, policy: &RotationPolicy) -> Timestamp {
    policy.publish_successor_at(&active.kid, active.activated)
}

#[cfg(test)]
mod tests;

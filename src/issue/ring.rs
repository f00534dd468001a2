//! The states of issuing keys, as a value: what `issuing.json` holds, and each way from one such file to the next.
//!
//! ```text
//! published ── publish_before ──> active ── successor active ──> retired ── last token expired ──> destroyed
//! ```
//!
//! Exactly one key is active and at most one is published, because there is room for no other. Each step makes a whole
//! new ring, which is written by one replacement of the file: a crash leaves the ring before or the ring after, and
//! either says what comes next. Nothing here reads a clock or a disk.

use serde::{Deserialize, Serialize};

use super::rotation::Rotation;
use super::sealed::Sealed;
use crate::clock::Timestamp;

/// Retired keys that are kept. A key becomes active only while there is room for the one that it replaces.
pub const RETIRED_MOST: usize = 100;
/// Destroyed keys that are remembered.
const DESTROYED_MOST: usize = 100;

/// All issuing keys of a host, format 2 of `issuing.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    active: Active,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Published>,
    /// Oldest first.
    retired: Vec<Retired>,
    /// Oldest first.
    destroyed: Vec<Destroyed>,
}

/// A key that relying parties learn, and that does not sign yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub sealed: Sealed,
    #[serde(with = "seconds")]
    pub published: Timestamp,
}

/// The key that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Active {
    pub sealed: Sealed,
    #[serde(with = "seconds")]
    pub published: Timestamp,
    #[serde(with = "seconds")]
    pub activated: Timestamp,
}

/// A key that signs no more, but may have signed tokens that have not expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    pub sealed: Sealed,
    #[serde(with = "seconds")]
    pub published: Timestamp,
    #[serde(with = "seconds")]
    pub activated: Timestamp,
    #[serde(with = "seconds")]
    pub retired: Timestamp,
}

/// What is remembered of a key whose secret is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroyed {
    pub kid: String,
    #[serde(with = "seconds")]
    pub created: Timestamp,
    #[serde(with = "seconds")]
    pub published: Timestamp,
    #[serde(with = "seconds")]
    pub activated: Timestamp,
    #[serde(with = "seconds")]
    pub retired: Timestamp,
    #[serde(with = "seconds")]
    pub destroyed: Timestamp,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Retired keys whose last token has expired are destroyed.
    Destroy,
    /// The published key signs from now on.
    Activate,
    /// A new key is made and published. The only step that needs the TPM, hence the last to be due.
    Publish,
}

/// Why a step cannot be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    #[error("the next key is published already")]
    AlreadyPublished,
    #[error("no key is published")]
    NothingPublished,
    #[error(
        "{RETIRED_MOST} retired keys still verify tokens; try again after {0}, when the oldest is destroyed"
    )]
    TooManyRetired(Timestamp),
}

impl Ring {
    /// A host's first key signs at once: nobody knows an older one.
    pub fn first(sealed: Sealed, now: Timestamp) -> Ring {
        let now = now.rounded_up();
        let active = Active { sealed, published: now, activated: now };
        Ring { active, next: None, retired: Vec::new(), destroyed: Vec::new() }
    }

    /// Format 1 held one key, which signed from when it was made.
    pub fn of_format_1(sealed: Sealed) -> Ring {
        let created = Timestamp::from_secs(sealed.created);
        Ring::first(sealed, created)
    }

    pub fn active(&self) -> &Active {
        &self.active
    }

    pub fn next(&self) -> Option<&Published> {
        self.next.as_ref()
    }

    /// Oldest first.
    pub fn retired(&self) -> &[Retired] {
        &self.retired
    }

    /// Oldest first.
    pub fn destroyed(&self) -> &[Destroyed] {
        &self.destroyed
    }

    /// All keys with a secret: active, published, then retired ones, the latest first.
    pub fn sealed(&self) -> impl Iterator<Item = &Sealed> {
        let next = self.next.iter().map(|key| &key.sealed);
        let retired = self.retired.iter().rev().map(|key| &key.sealed);
        std::iter::once(&self.active.sealed).chain(next).chain(retired)
    }

    /// The same keys in the same states, each sealed anew.
    pub fn try_map<E>(mut self, mut f: impl FnMut(&Sealed) -> Result<Sealed, E>) -> Result<Ring, E> {
        let next = self.next.iter_mut().map(|key| &mut key.sealed);
        let retired = self.retired.iter_mut().map(|key| &mut key.sealed);
        for sealed in std::iter::once(&mut self.active.sealed).chain(next).chain(retired) {
            *sealed = f(sealed)?;
        }
        Ok(self)
    }

    /// What is to be done at `now`, if anything.
    pub fn due(&self, rotation: &Rotation, now: Timestamp) -> Option<Step> {
        self.ahead(rotation).find(|(_, at)| *at <= now).map(|(step, _)| step)
    }

    /// When something is to be done next.
    pub fn wake(&self, rotation: &Rotation) -> Option<Timestamp> {
        self.ahead(rotation).map(|(_, at)| at).min()
    }

    /// Each step that follows from the ring as it is, in the order in which they are taken where several are due.
    fn ahead(&self, rotation: &Rotation) -> impl Iterator<Item = (Step, Timestamp)> {
        let destroy = self
            .retired
            .iter()
            .map(|key| (Step::Destroy, Rotation::destroy(key.retired)))
            .min_by_key(|(_, at)| *at);
        let next = match &self.next {
            Some(_) if self.retired.len() >= RETIRED_MOST => None,
            Some(key) => Some((Step::Activate, rotation.activate(key.published))),
            None => Some((Step::Publish, self.publish_at(rotation))),
        };
        destroy.into_iter().chain(next)
    }

    /// When the active key's successor is published, where there is none yet.
    pub fn publish_at(&self, rotation: &Rotation) -> Timestamp {
        rotation.publish_successor(&self.active.sealed.kid, self.active.activated)
    }

    /// Publishes a key.
    pub fn publish(mut self, sealed: Sealed, now: Timestamp) -> Result<Ring, Unready> {
        if self.next.is_some() {
            return Err(Unready::AlreadyPublished);
        }
        self.next = Some(Published { sealed, published: now.rounded_up() });
        Ok(self)
    }

    /// Puts the published key in the active one's place.
    pub fn activate(mut self, now: Timestamp) -> Result<Ring, Unready> {
        self.room()?;
        let Some(Published { sealed, published }) = self.next.take() else {
            return Err(Unready::NothingPublished);
        };
        let now = now.rounded_up();
        let old = std::mem::replace(&mut self.active, Active { sealed, published, activated: now });
        self.retired.push(Retired {
            sealed: old.sealed,
            published: old.published,
            activated: old.activated,
            retired: now,
        });
        Ok(self)
    }

    /// Whether one more key can be retired. A key that still has to verify is never dropped for another.
    pub fn room(&self) -> Result<(), Unready> {
        let oldest = self.retired.iter().map(|key| Rotation::destroy(key.retired)).min();
        match oldest {
            Some(at) if self.retired.len() >= RETIRED_MOST => Err(Unready::TooManyRetired(at)),
            _ => Ok(()),
        }
    }

    /// Drops the secrets of the retired keys whose last token has expired.
    pub fn destroy(mut self, now: Timestamp) -> Ring {
        let (due, kept) = self.retired.into_iter().partition(|key| Rotation::destroy(key.retired) <= now);
        self.retired = kept;
        self.destroyed.extend(Vec::into_iter(due).map(|key: Retired| Destroyed {
            kid: key.sealed.kid,
            created: Timestamp::from_secs(key.sealed.created),
            published: key.published,
            activated: key.activated,
            retired: key.retired,
            destroyed: now.rounded_up(),
        }));
        self.destroyed.drain(..self.destroyed.len().saturating_sub(DESTROYED_MOST));
        self
    }
}

/// Moments as seconds since the epoch.
mod seconds {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::clock::Timestamp;

    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(at.secs())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(deserializer).map(Timestamp::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const MONTHLY: Rotation = Rotation { every: Duration::from_secs(30 * 24 * 3600), publish_before: DAY };
    const START: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn first() -> Ring {
        Ring::first(Sealed::named("first", START.secs()), START)
    }

    fn kids(ring: &Ring) -> Vec<&str> {
        ring.sealed().map(|sealed| sealed.kid.as_str()).collect()
    }

    #[test]
    fn one_life_of_a_key() {
        let ring = first();
        let publish = ring.wake(&MONTHLY).unwrap();
        assert!(publish >= START.after(DAY * 26) && publish <= START.after(DAY * 29));
        assert_eq!(ring.due(&MONTHLY, Timestamp::from_secs(publish.secs() - 1)), None);
        assert_eq!(ring.due(&MONTHLY, publish), Some(Step::Publish));

        let published = publish.rounded_up();
        let ring = ring.publish(Sealed::named("second", publish.secs()), publish).unwrap();
        assert_eq!(kids(&ring), ["first", "second"], "the active key is the first of the set");
        assert_eq!(ring.wake(&MONTHLY), Some(published.after(DAY)));
        assert_eq!(ring.due(&MONTHLY, publish), None);

        let now = published.after(DAY);
        assert_eq!(ring.due(&MONTHLY, now), Some(Step::Activate));
        let ring = ring.activate(now).unwrap();
        assert_eq!(kids(&ring), ["second", "first"]);
        let gone = now.after(HOUR).after(Duration::from_secs(30));
        assert_eq!(ring.wake(&MONTHLY), Some(gone));
        assert_eq!(ring.due(&MONTHLY, now.after(HOUR)), None);
        assert_eq!(ring.due(&MONTHLY, gone), Some(Step::Destroy));

        let ring = ring.destroy(gone);
        assert_eq!(kids(&ring), ["second"]);
        let [remembered] = ring.destroyed() else { panic!("{ring:?}") };
        assert_eq!((remembered.kid.as_str(), remembered.retired, remembered.destroyed), ("first", now, gone));
        assert_eq!(ring.destroy(gone.after(DAY)).destroyed().len(), 1, "once");
    }

    #[test]
    fn steps_out_of_order_are_refused() {
        assert_eq!(first().activate(START), Err(Unready::NothingPublished));
        let ring = first().publish(Sealed::named("a", 0), START).unwrap();
        assert_eq!(ring.publish(Sealed::named("b", 0), START), Err(Unready::AlreadyPublished));
    }

    /// A key that still has to verify is not dropped for another, however often somebody rotates.
    #[test]
    fn more_than_a_hundred_retired_keys_are_not_made() {
        let mut ring = first();
        for n in 0..RETIRED_MOST {
            ring = ring.publish(Sealed::named(&n.to_string(), 0), START).unwrap().activate(START).unwrap();
        }
        let ring = ring.publish(Sealed::named("one more", 0), START).unwrap();
        let oldest = Rotation::destroy(START);
        assert_eq!(ring.clone().activate(START), Err(Unready::TooManyRetired(oldest)));
        assert_eq!(ring.due(&MONTHLY, START.after(DAY)), Some(Step::Destroy), "makes room first");
        assert_eq!(ring.wake(&MONTHLY), Some(oldest));
        let ring = ring.destroy(oldest);
        assert_eq!((ring.retired().len(), ring.destroyed().len()), (0, DESTROYED_MOST));
        assert!(ring.activate(oldest).is_ok());
    }

    /// A clock that went back moves nothing forward.
    #[test]
    fn nothing_is_due_before_its_time_came() {
        let ring = first().publish(Sealed::named("a", 0), START).unwrap().activate(START.after(DAY)).unwrap();
        assert_eq!(ring.due(&MONTHLY, Timestamp::from_secs(0)), None);
    }

    #[test]
    fn what_a_destroyed_key_leaves_is_a_name_and_times() {
        let ring = first().publish(Sealed::named("a", 0), START).unwrap().activate(START).unwrap();
        let text = |ring: &Ring| serde_json::to_string(ring).unwrap();
        assert_eq!(text(&ring).matches("secret").count(), 2);
        let text = text(&ring.destroy(START.after(DAY)));
        assert_eq!(text.matches("secret").count(), 1);
        assert!(text.contains(r#"{"kid":"first","created":1700000000,"published":"#), "{text}");
    }

    /// With nothing in the way, a key signs at most `every`, and no two changes are nearer than nine tenths of it.
    #[test]
    fn an_undisturbed_host_rotates_as_configured() {
        let (mut ring, mut now, mut since) = (first(), START, START);
        for n in 0..200_000 {
            now = now.after(Duration::from_secs(300));
            while let Some(step) = ring.due(&MONTHLY, now) {
                ring = match step {
                    Step::Publish => ring.publish(Sealed::named(&n.to_string(), now.secs()), now).unwrap(),
                    Step::Activate => {
                        let signed = now.since(since);
                        assert!(signed >= DAY * 27 && signed <= DAY * 30 + HOUR, "{signed:?}");
                        since = now;
                        ring.activate(now).unwrap()
                    }
                    Step::Destroy => ring.destroy(now),
                };
            }
        }
        assert!(ring.destroyed().len() > 20);
    }
}

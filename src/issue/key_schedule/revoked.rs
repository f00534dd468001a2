//! The steps that destroy revoked keys.
//!
//! A revoked key is not retired: its tokens must not verify any more. The documents lack it from the moment of the
//! revocation on ([`super::super::issuer`]), with a sequence number that is greater by the number of such keys, so
//! that a step which destroys them has to continue from there.

use super::{ActiveKey, DestroyedKey, KeySchedule, PublishedKey, RetiredKey};
use crate::clock::Timestamp;
use crate::issue::encrypted_key::EncryptedKey;
use crate::issue::error::ScheduleError;

impl KeySchedule {
    /// Destroys the published key and the retired ones for which `is_revoked` holds; `None` if there are none.
    pub(in crate::issue) fn without_revoked(
        &self,
        is_revoked: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Option<KeySchedule> {
        let mut changed = self.clone();
        let is_revoked = |key: &EncryptedKey| is_revoked(&key.kid);
        let next = changed.next.take_if(|next| is_revoked(&next.encrypted_key));
        let (revoked, retained): (Vec<_>, _) =
            changed.retired.drain(..).partition(|key: &RetiredKey| is_revoked(&key.encrypted_key));
        changed.retired = retained;
        let count = revoked.len() + usize::from(next.is_some());
        if count == 0 {
            return None;
        }
        let destroyed = now.ceil_to_second();
        // It never signed.
        let unused = next.map(|PublishedKey { encrypted_key, published }| RetiredKey {
            encrypted_key,
            published,
            activated: destroyed,
            retired: destroyed,
        });
        let keys = unused.into_iter().chain(revoked);
        changed.destroyed.extend(keys.map(|key| DestroyedKey::new(key, destroyed)));
        changed.forget_destroyed();
        changed.pass_revoked(count, now);
        Some(changed)
    }

    /// Makes the published key the active one, and destroys the active one, which is revoked.
    ///
    /// # Errors
    /// [`ScheduleError::NothingPublished`].
    pub(in crate::issue) fn replace_revoked(mut self, now: Timestamp) -> Result<KeySchedule, ScheduleError> {
        let Some(PublishedKey { encrypted_key, published }) = self.next.take() else {
            return Err(ScheduleError::NothingPublished);
        };
        let at = now.ceil_to_second();
        let old = std::mem::replace(&mut self.active, ActiveKey { encrypted_key, published, activated: at });
        let ActiveKey { encrypted_key, published, activated } = old;
        self.destroyed
            .push(DestroyedKey::new(RetiredKey { encrypted_key, published, activated, retired: at }, at));
        self.forget_destroyed();
        self.pass_revoked(1, now);
        Ok(self)
    }

    /// Continues the sequence numbers after those of the documents that lacked `count` keys of this schedule.
    fn pass_revoked(&mut self, count: usize, now: Timestamp) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.sequence = self.sequence.saturating_add(count);
        self.increase_sequence(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn key(kid: &str) -> EncryptedKey {
        EncryptedKey::for_test(kid, NOW.as_secs())
    }

    fn destroyed(schedule: &KeySchedule) -> Vec<&str> {
        schedule.destroyed().iter().map(|key| key.kid.as_str()).collect()
    }

    /// `a` and `b` are retired, `c` is active, `d` is published.
    fn schedule() -> KeySchedule {
        let mut schedule = KeySchedule::with_first_key(key("a"), NOW);
        for kid in ["b", "c"] {
            schedule = schedule.publish(key(kid), NOW).unwrap().activate(NOW).unwrap();
        }
        schedule.publish(key("d"), NOW).unwrap()
    }

    #[test]
    fn revoked_keys_that_do_not_sign_are_destroyed_without_a_grace() {
        let before = schedule();
        assert_eq!(before.without_revoked(|_| false, NOW), None);
        assert_eq!(before.without_revoked(|kid| kid == "c", NOW), None, "the active key needs a successor");
        let after = before.without_revoked(|kid| kid == "a" || kid == "d", NOW).unwrap();
        assert_eq!(destroyed(&after), ["d", "a"]);
        assert!(after.next().is_none());
        let kids: Vec<&str> = after.encrypted_keys().map(|key| key.kid.as_str()).collect();
        assert_eq!(kids, ["c", "b"]);
        assert!(after.sequence() > before.sequence() + 2, "greater than that of the documents without both");
    }

    #[test]
    fn a_revoked_active_key_is_destroyed_and_not_retired() {
        let before = schedule();
        let later = NOW.after(Duration::from_millis(500));
        let after = before.clone().replace_revoked(later).unwrap();
        assert_eq!((after.active().encrypted_key.kid.as_str(), destroyed(&after)), ("d", vec!["c"]));
        assert_eq!(after.retired().len(), 2);
        assert!(after.sequence() > before.sequence() + 1);
        assert_eq!(after.active().activated, NOW.after(Duration::from_secs(1)));
        assert_eq!(after.replace_revoked(NOW), Err(ScheduleError::NothingPublished));
    }

    /// Also while no further key could be retired.
    #[test]
    fn a_revoked_key_needs_no_room_among_the_retired_ones() {
        let mut full = KeySchedule::with_first_key(key("first"), NOW);
        while full.check_capacity().is_ok() {
            let kid = full.retired().len().to_string();
            full = full.publish(key(&kid), NOW).unwrap().activate(NOW).unwrap();
        }
        let retired = full.retired().len();
        let after = full.publish(key("next"), NOW).unwrap().replace_revoked(NOW).unwrap();
        assert_eq!((after.retired().len(), after.destroyed().len()), (retired, 1));
    }
}

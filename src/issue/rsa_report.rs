//! The RSA keys as administrators see them.

use super::report::{KeyKind, KeyReport, KeyState, NextStep};
use super::rotation::RotationPolicy;
use super::rsa_schedule::RsaSchedule;
use crate::clock::Timestamp;

/// All RSA keys, in the order of the key set; the generated one follows those that are published, and destroyed ones are
/// last, the latest first. `policy` is that of RSA keys.
pub(super) fn rsa_key_reports<K>(schedule: &RsaSchedule<K>, policy: &RotationPolicy) -> Vec<KeyReport> {
    let report = |kid: &str, state, created, since| KeyReport {
        created: Some(created),
        since: Some(since),
        rotate_every: Some(policy.interval),
        ..KeyReport::new(KeyKind::Rsa, kid.to_owned(), state, policy.risk)
    };
    let step = |step, at: Timestamp| Some(NextStep { step, at });
    let mut keys = Vec::new();
    keys.extend(schedule.active().map(|key| {
        let next = match (schedule.next(), schedule.publish_at(policy)) {
            (Some(next), _) => step("retired", policy.activate_at(next.published)),
            (None, Some(at)) => step("successor published", at),
            (None, None) => None,
        };
        let endorsement = Some(key.endorsement.clone());
        KeyReport { next, endorsement, ..report(&key.kid, KeyState::Active, key.created, key.activated) }
    }));
    keys.extend(schedule.next().map(|key| {
        let next = step("active", policy.activate_at(key.published));
        let endorsement = Some(key.endorsement.clone());
        KeyReport { next, endorsement, ..report(&key.kid, KeyState::Published, key.created, key.published) }
    }));
    keys.extend(schedule.retired().iter().rev().map(|key| {
        let next = step("destroyed", RotationPolicy::destroy_at(key.retired));
        let endorsement = Some(key.endorsement.clone());
        KeyReport { next, endorsement, ..report(&key.kid, KeyState::Retired, key.created, key.retired) }
    }));
    keys.extend(schedule.generated().map(|key| {
        let next = schedule.publish_at(policy).and_then(|at| step("published", at));
        KeyReport { next, ..report(&key.kid, KeyState::Generated, key.created, key.created) }
    }));
    let destroyed = schedule.destroyed().iter().rev();
    keys.extend(destroyed.map(|key| report(&key.kid, KeyState::Destroyed, key.created, key.destroyed)));
    keys
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::super::rsa_schedule::GeneratedRsaKey;
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn each_state_has_its_time_and_its_next_step() {
        let policy = RotationPolicy::new(HOUR * 24, HOUR).for_rsa();
        let mut schedule = RsaSchedule::default();
        for (at, kid) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let at = NOW.after(HOUR * u32::try_from(at).unwrap());
            let key = GeneratedRsaKey { kid: kid.to_owned(), created: at, key: () };
            schedule = schedule.with_generated(key).unwrap();
            if kid == "d" {
                break;
            }
            schedule = schedule.publish(format!("endorsement of {kid}"), at).unwrap();
            schedule = schedule.activate(at.after(HOUR)).unwrap();
        }
        schedule = schedule.destroy_kids(&HashSet::from(["a".to_owned()]), NOW.after(HOUR * 5));
        let described = |schedule: &RsaSchedule<()>| -> Vec<String> {
            let reports = rsa_key_reports(schedule, &policy);
            let describe = |key: &KeyReport| {
                let after = |at: Option<Timestamp>| at.unwrap().since(NOW).as_secs() / 3600;
                let step = key.next.as_ref().map_or("-", |next| next.step);
                let endorsed = key.endorsement.is_some();
                let (created, since) = (after(key.created), after(key.since));
                format!("{} {:?} {created} {since} {step} {endorsed}", key.kid, key.state)
            };
            reports.iter().map(describe).collect()
        };
        let before = [
            "c Active 2 3 successor published true",
            "b Retired 1 3 destroyed true",
            "d Generated 3 3 published false",
            "a Destroyed 0 5 - false",
        ];
        assert_eq!(described(&schedule), before);
        schedule = schedule.publish("endorsement of d".to_owned(), NOW.after(HOUR * 4)).unwrap();
        let after = [
            "c Active 2 3 retired true",
            "d Published 3 4 active true",
            "b Retired 1 3 destroyed true",
            "a Destroyed 0 5 - false",
        ];
        assert_eq!(described(&schedule), after);
    }
}

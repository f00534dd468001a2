use super::*;
use crate::risk::RiskClass;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

type Schedule = RsaSchedule<String>;

fn policy() -> RotationPolicy {
    RotationPolicy::new(DAY * 30, DAY).for_rsa()
}

fn key(kid: &str, created: Timestamp) -> GeneratedRsaKey<String> {
    GeneratedRsaKey { kid: kid.to_owned(), created, key: format!("private {kid}") }
}

fn states(schedule: &Schedule) -> Vec<String> {
    let state = |state: &str, kid: &str| format!("{kid} {state}");
    let mut states = Vec::new();
    states.extend(schedule.active().map(|key| state("active", &key.kid)));
    states.extend(schedule.next().map(|key| state("published", &key.kid)));
    states.extend(schedule.generated().map(|key| state("generated", &key.kid)));
    states.extend(schedule.retired().iter().map(|key| state("retired", &key.kid)));
    states.extend(schedule.destroyed().iter().map(|key| state("destroyed", &key.kid)));
    states
}

fn with_key(schedule: Schedule, kid: &str, now: Timestamp) -> Schedule {
    let schedule = schedule.with_generated(key(kid, now)).unwrap();
    schedule.publish(format!("endorsement of {kid}"), now).unwrap().activate(now).unwrap()
}

#[test]
fn a_key_goes_through_all_states_once_in_a_year() {
    let policy = policy();
    assert_eq!((policy.interval, policy.risk), (RiskClass::Low.max_interval(), RiskClass::Low));
    let mut schedule = Schedule::default();
    assert_eq!(schedule.next_step(&policy), None, "the first key is made for a grant");
    schedule = schedule.with_generated(key("a", NOW)).unwrap();
    assert_eq!(schedule.due_step(&policy, NOW), Some(RsaStep::Publish), "without an active key at once");
    schedule = schedule.publish("endorsement of a".into(), NOW).unwrap();
    assert_eq!(schedule.due_step(&policy, NOW), Some(RsaStep::Activate));
    schedule = schedule.activate(NOW).unwrap();
    assert_eq!(states(&schedule), ["a active"]);

    let (step, generate_at) = schedule.next_step(&policy).unwrap();
    let age = generate_at.since(NOW);
    assert_eq!(step, RsaStep::Generate);
    assert!(age >= YEAR * 9 / 10 - DAY - HOUR && age <= YEAR + DAY - HOUR, "{age:?}");
    assert_eq!(schedule.due_step(&policy, generate_at.before(Duration::from_secs(1))), None);
    assert_eq!(schedule.next_wakeup(&policy, NOW), Some(generate_at));
    assert_eq!(schedule.due_step(&policy, generate_at), Some(RsaStep::Generate));

    schedule = schedule.with_generated(key("b", generate_at.ceil_to_second())).unwrap();
    let (step, publish_at) = schedule.next_step(&policy).unwrap();
    assert_eq!((step, publish_at), (RsaStep::Publish, generate_at.after(GENERATE_AHEAD)));
    assert_eq!(Some(publish_at), schedule.publish_at(&policy));
    assert_eq!(states(&schedule), ["a active", "b generated"]);
    let publish_at = publish_at.ceil_to_second();
    schedule = schedule.publish("endorsement of b".into(), publish_at).unwrap();
    let (step, activate_at) = schedule.next_step(&policy).unwrap();
    assert_eq!((step, activate_at), (RsaStep::Activate, publish_at.after(DAY)));
    assert_eq!(states(&schedule), ["a active", "b published"]);
    schedule = schedule.activate(activate_at).unwrap();
    assert_eq!(states(&schedule), ["b active", "a retired"]);
    let text = serde_json::to_string(&schedule).unwrap();
    assert!(!text.contains("private a") && text.contains("endorsement of a"), "the private half is gone");
    assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule);

    let destroy_at = schedule.next_wakeup(&policy, activate_at).unwrap();
    assert_eq!(destroy_at, RotationPolicy::destroy_at(activate_at));
    schedule = schedule.destroy_kids(&HashSet::from(["a".to_owned()]), destroy_at);
    assert_eq!(states(&schedule), ["b active", "a destroyed"]);
    assert_eq!(schedule.destroyed()[0].destroyed, destroy_at);
}

#[test]
fn steps_out_of_order_are_errors() {
    let schedule = with_key(Schedule::default(), "a", NOW);
    assert_eq!(schedule.clone().activate(NOW), Err(ScheduleError::NothingPublished));
    assert_eq!(schedule.clone().publish(String::new(), NOW), Err(ScheduleError::NothingGenerated));
    let generated = schedule.with_generated(key("b", NOW)).unwrap();
    let again = generated.clone().with_generated(key("c", NOW));
    assert_eq!(again, Err(ScheduleError::AlreadyPublished));
    let published = generated.publish(String::new(), NOW).unwrap();
    assert_eq!(published.clone().publish(String::new(), NOW), Err(ScheduleError::AlreadyPublished));
    assert_eq!(published.with_generated(key("c", NOW)), Err(ScheduleError::AlreadyPublished));
}

#[test]
fn revoked_keys_are_destroyed_in_every_state() {
    let mut schedule = with_key(with_key(Schedule::default(), "a", NOW), "b", NOW);
    schedule = schedule.with_generated(key("c", NOW)).unwrap();
    assert_eq!(schedule.clone().without_revoked(|_| false, NOW), schedule);
    let after = schedule.clone().without_revoked(|kid| kid != "b", NOW);
    assert_eq!(states(&after), ["b active", "c destroyed", "a destroyed"]);
    // The active one needs no successor and no room.
    let published = schedule.publish(String::new(), NOW).unwrap();
    let after = published.clone().without_revoked(|kid| kid == "b", NOW);
    assert_eq!(states(&after), ["c published", "a retired", "b destroyed"]);
    assert_eq!(after.due_step(&policy(), NOW), Some(RsaStep::Activate), "at once");
    assert_eq!(states(&after.activate(NOW).unwrap()), ["c active", "a retired", "b destroyed"]);
    let none = published.without_revoked(|_| true, NOW);
    assert_eq!(states(&none), ["c destroyed", "b destroyed", "a destroyed"]);
    assert_eq!(none.next_step(&policy()), None);
}

#[test]
fn retired_and_destroyed_keys_are_bounded() {
    let mut schedule = with_key(Schedule::default(), "first", NOW);
    while schedule.check_capacity().is_ok() {
        let count = schedule.retired().len() as u64;
        schedule = with_key(schedule, &count.to_string(), NOW.after(Duration::from_secs(count)));
    }
    assert_eq!(schedule.retired().len(), MAX_RETIRED_KEYS);
    let full = schedule.with_generated(key("next", NOW)).unwrap().publish(String::new(), NOW).unwrap();
    assert_eq!(full.next_step(&policy()), None, "the active key signs until there is room");
    assert!(matches!(full.clone().activate(NOW), Err(ScheduleError::TooManyRetired { .. })));
    let (room, early) = full.clone().make_room(NOW);
    assert_eq!(early.unwrap().0, "first");
    assert!(room.activate(NOW).is_ok());
    // Those that are due are destroyed first, and count as no early ones.
    let (room, early) = full.make_room(NOW.after(HOUR * 2));
    assert_eq!((early, room.retired().len(), room.destroyed().len()), (None, 0, MAX_RETIRED_KEYS));
    let more = with_key(room.without_revoked(|kid| kid == "next", NOW), "more", NOW);
    assert_eq!(more.destroyed().len(), MAX_DESTROYED_KEYS, "the oldest are forgotten");
}

#[test]
fn a_clock_that_was_ahead_delays_no_rotation() {
    let (policy, ahead) = (policy(), NOW.after(YEAR * 5));
    let active = with_key(Schedule::default(), "a", ahead);
    assert_eq!(active.due_step(&policy, NOW), Some(RsaStep::Generate));
    let generated = active.with_generated(key("b", NOW)).unwrap();
    assert_eq!(generated.due_step(&policy, NOW), Some(RsaStep::Publish));
    let published = generated.publish(String::new(), ahead).unwrap();
    assert_eq!(published.due_step(&policy, NOW), None);
    let corrected = published.with_publication_corrected(NOW).unwrap();
    assert_eq!(corrected.next_step(&policy), Some((RsaStep::Activate, NOW.after(DAY))));
    assert_eq!(corrected.with_publication_corrected(NOW), None);
}

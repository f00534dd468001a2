use super::bounds::MAX_DESTROYED_KEYS;
use super::*;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTHLY: RotationPolicy = RotationPolicy::new(Duration::from_secs(30 * 24 * 3600), DAY);
const START: Timestamp = Timestamp::from_secs(1_700_000_000);

fn first_schedule() -> KeySchedule {
    KeySchedule::with_first_key(EncryptedKey::for_test("first", START.as_secs()), START)
}

fn kids(schedule: &KeySchedule) -> Vec<&str> {
    schedule.encrypted_keys().map(|key| key.kid.as_str()).collect()
}

#[test]
fn key_lifecycle() {
    let schedule = first_schedule();
    let publish = schedule.next_wakeup(&MONTHLY, START).unwrap();
    assert!(publish >= START.after(DAY * 26) && publish <= START.after(DAY * 29));
    assert_eq!(schedule.next_due(&MONTHLY, Timestamp::from_secs(publish.as_secs() - 1)), None);
    assert_eq!(schedule.next_due(&MONTHLY, publish), Some(RotationStep::Publish));

    let published = publish.ceil_to_second();
    let schedule = schedule.publish(EncryptedKey::for_test("second", publish.as_secs()), publish).unwrap();
    assert_eq!(kids(&schedule), ["first", "second"], "the active key is the first of the set");
    assert_eq!(schedule.next_wakeup(&MONTHLY, START), Some(published.after(DAY)));
    assert_eq!(schedule.next_due(&MONTHLY, publish), None);

    let now = published.after(DAY);
    assert_eq!(schedule.next_due(&MONTHLY, now), Some(RotationStep::Activate));
    let schedule = schedule.activate(now).unwrap();
    assert_eq!(kids(&schedule), ["second", "first"]);
    let destroyed_at = now.after(HOUR).after(Duration::from_secs(30));
    assert_eq!(schedule.next_wakeup(&MONTHLY, START), Some(destroyed_at));
    assert_eq!(schedule.next_due(&MONTHLY, now.after(HOUR)), None);
    assert_eq!(schedule.next_due(&MONTHLY, destroyed_at), Some(RotationStep::Destroy));

    let schedule = schedule.destroy(destroyed_at);
    assert_eq!(kids(&schedule), ["second"]);
    let [destroyed_key] = schedule.destroyed() else { panic!("{schedule:?}") };
    assert_eq!(
        (destroyed_key.kid.as_str(), destroyed_key.retired, destroyed_key.destroyed),
        ("first", now, destroyed_at)
    );
    assert_eq!(schedule.destroy(destroyed_at.after(DAY)).destroyed().len(), 1, "once");
}

#[test]
fn steps_out_of_order_are_rejected() {
    assert_eq!(first_schedule().activate(START), Err(ScheduleError::NothingPublished));
    let schedule = first_schedule().publish(EncryptedKey::for_test("a", 0), START).unwrap();
    assert_eq!(schedule.publish(EncryptedKey::for_test("b", 0), START), Err(ScheduleError::AlreadyPublished));
}

/// A key that still has to verify is not dropped for another, however often an administrator rotates.
#[test]
fn retired_keys_are_limited() {
    let mut schedule = first_schedule();
    for n in 0..MAX_RETIRED_KEYS {
        schedule = schedule
            .publish(EncryptedKey::for_test(&n.to_string(), 0), START)
            .unwrap()
            .activate(START)
            .unwrap();
    }
    let schedule = schedule.publish(EncryptedKey::for_test("one more", 0), START).unwrap();
    let oldest = RotationPolicy::destroy_at(START);
    let too_many = ScheduleError::TooManyRetired { max: MAX_RETIRED_KEYS, until: oldest };
    assert_eq!(schedule.clone().activate(START), Err(too_many));
    assert_eq!(
        schedule.next_due(&MONTHLY, START.after(DAY)),
        Some(RotationStep::Destroy),
        "a retired key is destroyed first"
    );
    assert_eq!(schedule.next_wakeup(&MONTHLY, START), Some(oldest));
    // An emergency destroys the one that is due first, and says until when its tokens would be valid.
    let (roomy, destroyed_early) = schedule.clone().make_room(START.after(DAY / 48));
    assert_eq!(destroyed_early, Some(("first".to_owned(), oldest)));
    assert_eq!((roomy.retired().len(), roomy.destroyed().len()), (MAX_RETIRED_KEYS - 1, 1));
    assert!(roomy.activate(START.after(DAY / 48)).is_ok());
    // Where a key is due to be destroyed anyway, no other is.
    let (roomy, destroyed_early) = schedule.clone().make_room(oldest);
    assert_eq!((roomy.retired().len(), destroyed_early), (0, None));
    let schedule = schedule.destroy(oldest);
    assert_eq!((schedule.retired().len(), schedule.destroyed().len()), (0, MAX_DESTROYED_KEYS));
    assert!(schedule.activate(oldest).is_ok());
}

/// A clock that went back moves nothing forward but the publication of a successor, which destroys nothing.
#[test]
fn no_step_is_due_early() {
    let schedule = first_schedule()
        .publish(EncryptedKey::for_test("a", 0), START)
        .unwrap()
        .activate(START.after(DAY))
        .unwrap();
    let early = Timestamp::from_secs(0);
    assert_eq!(schedule.next_due(&MONTHLY, early), Some(RotationStep::Publish));
    let schedule = schedule.publish(EncryptedKey::for_test("b", 0), START.after(DAY)).unwrap();
    assert_eq!(schedule.next_due(&MONTHLY, early), None);
}

/// The first key was made while the clock was ten years ahead.
#[test]
fn key_of_a_clock_that_was_ahead_is_replaced_once_the_clock_is_right() {
    let now = Timestamp::from_secs(START.as_secs() - 10 * 365 * 24 * 3600);
    let schedule = first_schedule();
    assert_eq!(schedule.next_due(&MONTHLY, now), Some(RotationStep::Publish));
    let schedule = schedule.publish(EncryptedKey::for_test("second", now.as_secs()), now).unwrap();
    assert_eq!(schedule.next_due(&MONTHLY, now.after(DAY / 2)), None);
    assert_eq!(schedule.next_due(&MONTHLY, now.after(DAY)), Some(RotationStep::Activate));
    let schedule = schedule.activate(now.after(DAY)).unwrap();
    // The first key's tokens of the future are refused once it is destroyed.
    let schedule = schedule.destroy(now.after(DAY + HOUR * 2));
    assert_eq!(kids(&schedule), ["second"]);
    assert!(schedule.next_wakeup(&MONTHLY, now.after(DAY * 2)).unwrap() < now.after(DAY * 31));
}

/// Otherwise the key would be published, and no other could be, until that time.
#[test]
fn key_that_was_published_by_a_clock_that_was_ahead_is_published_again() {
    let ahead = START.after(DAY * 365);
    let schedule = first_schedule().publish(EncryptedKey::for_test("a", 0), ahead).unwrap();
    assert_eq!(schedule.with_publication_corrected(ahead), None);
    let corrected = schedule.with_publication_corrected(START.after(DAY)).unwrap();
    assert_eq!(corrected.next_due(&MONTHLY, START.after(DAY)), None);
    assert_eq!(corrected.next_due(&MONTHLY, START.after(DAY * 2)), Some(RotationStep::Activate));
    assert_eq!(corrected.with_publication_corrected(START.after(DAY)), None);
}

#[test]
fn sequence_increases_with_each_change_whatever_the_clock_says() {
    let ahead = START.after(DAY * 365);
    let key = |name: &str| EncryptedKey::for_test(name, 0);
    let mut numbers = vec![first_schedule().sequence()];
    assert_eq!(numbers, [START.as_secs()]);
    let mut schedule = first_schedule();
    for (name, now) in [("a", START), ("b", ahead), ("c", START), ("d", Timestamp::from_secs(0))] {
        schedule = schedule.publish(key(name), now).unwrap();
        numbers.push(schedule.sequence());
        schedule = schedule.activate(now).unwrap();
        numbers.push(schedule.sequence());
    }
    schedule = schedule.destroy(START.after(DAY * 400));
    numbers.push(schedule.sequence());
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    // What changes nothing has the same number, and the file keeps it.
    let schedule = schedule.destroy(START.after(DAY * 400));
    let read: KeySchedule = serde_json::from_str(&serde_json::to_string(&schedule).unwrap()).unwrap();
    assert_eq!(read.sequence(), *numbers.last().unwrap());
}

/// Earlier releases had the seconds of the latest change as the number.
#[test]
fn sequence_of_an_earlier_format_continues() {
    let schedule = first_schedule().publish(EncryptedKey::for_test("a", 0), START.after(DAY)).unwrap();
    let mut file = serde_json::to_value(&schedule).unwrap();
    file.as_object_mut().unwrap().remove("sequence");
    let mut read: KeySchedule = serde_json::from_value(file).unwrap();
    for now in [START, START.after(DAY * 9)] {
        read.start_sequence(now);
        assert_eq!(read.sequence(), START.after(DAY).as_secs());
    }
}

#[test]
fn destroyed_keys_keep_only_metadata() {
    let schedule =
        first_schedule().publish(EncryptedKey::for_test("a", 0), START).unwrap().activate(START).unwrap();
    let text = |schedule: &KeySchedule| serde_json::to_string(schedule).unwrap();
    assert_eq!(text(&schedule).matches("secret").count(), 2);
    let text = text(&schedule.destroy(START.after(DAY)));
    assert_eq!(text.matches("secret").count(), 1);
    assert!(text.contains(r#"{"kid":"first","created":1700000000,"published":"#), "{text}");
}

/// Without outages a key is active for at most the interval, and for at least nine tenths of it.
#[test]
fn undisturbed_schedule_rotates_as_configured() {
    let (mut schedule, mut now, mut since) = (first_schedule(), START, START);
    for n in 0..200_000 {
        now = now.after(Duration::from_secs(300));
        while let Some(step) = schedule.next_due(&MONTHLY, now) {
            schedule = match step {
                RotationStep::Publish => {
                    schedule.publish(EncryptedKey::for_test(&n.to_string(), now.as_secs()), now).unwrap()
                }
                RotationStep::Activate => {
                    let signed = now.since(since);
                    assert!(signed >= DAY * 27 && signed <= DAY * 30 + HOUR, "{signed:?}");
                    since = now;
                    schedule.activate(now).unwrap()
                }
                RotationStep::Destroy => schedule.destroy(now),
            };
        }
    }
    assert!(schedule.destroyed().len() > 20);
}

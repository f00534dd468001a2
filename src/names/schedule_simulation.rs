//! Simulates name services that answer, fail and hang, with a clock of its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::oneshot;

use super::lookup_error::LookupError;
use super::schedule::{LOOKUP_TIMEOUT, MAX_LOOKUPS, REFRESH_INTERVAL, RETRY_INTERVAL, Schedule, Waiter};
use super::table::{Name, Numbers, Resolution};

const SECOND: Duration = Duration::from_secs(1);

fn user(name: &str) -> Name {
    Name::User(name.into())
}

struct Simulation {
    schedule: Schedule,
    now: Instant,
    waits: Vec<oneshot::Receiver<()>>,
    ended_waits: usize,
}

impl Simulation {
    fn with(names: &[&str]) -> Simulation {
        let schedule = Schedule::default();
        let mut simulation = Simulation { schedule, now: Instant::now(), waits: Vec::new(), ended_waits: 0 };
        simulation.add(names);
        simulation
    }

    fn add(&mut self, names: &[&str]) {
        let waiter = self.waiter();
        self.schedule.add(names.iter().map(|name| user(name)), waiter, self.now);
    }

    fn demand(&mut self) {
        let waiter = self.waiter();
        self.schedule.demand(waiter, self.now);
    }

    fn waiter(&mut self) -> Waiter {
        let (done, ended) = oneshot::channel();
        self.waits.push(ended);
        Waiter::Request(done)
    }

    fn after(&mut self, delay: Duration) {
        self.now += delay;
        self.schedule.advance(self.now).into_iter().for_each(Waiter::end);
    }

    /// The names whose lookups begin now.
    fn begin(&mut self) -> Vec<Name> {
        let schedule = &mut self.schedule;
        let mut begun: Vec<Name> = std::iter::from_fn(|| schedule.next(self.now)).collect();
        begun.sort();
        begun
    }

    fn finish(&mut self, name: &str, result: Result<Option<u32>, Errno>) {
        self.schedule.finish(&user(name), result.map_err(LookupError::from), self.now);
        self.after(Duration::ZERO);
    }

    /// The names that are looked up now; each gets this result.
    fn answer(&mut self, result: Result<Option<u32>, Errno>) -> Vec<Name> {
        let mut asked = Vec::new();
        while let Some(name) = self.schedule.next(self.now) {
            self.schedule.finish(&name, result.map_err(LookupError::from), self.now);
            asked.push(name);
        }
        self.after(Duration::ZERO);
        asked.sort();
        asked
    }

    fn resolution(&self, name: &str) -> Resolution {
        self.schedule.table().user(name).current
    }

    fn ended_waits(&mut self) -> usize {
        let before = self.waits.len();
        self.waits.retain_mut(|ended| ended.try_recv().is_err());
        self.ended_waits += before - self.waits.len();
        self.ended_waits
    }
}

#[test]
fn failed_lookup_keeps_the_last_number_and_is_repeated() {
    let mut simulation = Simulation::with(&["a"]);
    assert_eq!(simulation.resolution("a"), Resolution::Unknown);
    simulation.answer(Ok(Some(7)));
    assert_eq!(simulation.resolution("a"), Resolution::Number(7));
    simulation.after(REFRESH_INTERVAL);
    simulation.answer(Err(Errno::EIO));
    assert_eq!(simulation.resolution("a"), Resolution::Number(7));
    let problem = simulation.schedule.table().problems()[0].clone();
    assert_eq!(problem, "user \"a\" cannot be looked up (EIO: I/O error); its last number, 7, stays in use");
    simulation.after(RETRY_INTERVAL);
    assert_eq!(simulation.answer(Ok(Some(8))), [user("a")]);
    assert_eq!(simulation.resolution("a"), Resolution::Number(8));
    assert!(simulation.schedule.table().problems().is_empty());
}

#[test]
fn missing_and_unknown_names_differ() {
    let mut simulation = Simulation::with(&["a"]);
    simulation.answer(Err(Errno::EIO));
    assert_eq!(simulation.resolution("a"), Resolution::Unknown);
    simulation.after(RETRY_INTERVAL);
    simulation.answer(Ok(None));
    assert_eq!(simulation.resolution("a"), Resolution::Missing);
    simulation.after(REFRESH_INTERVAL);
    simulation.answer(Err(Errno::EIO));
    assert_eq!(simulation.resolution("a"), Resolution::Unknown);
}

#[test]
fn last_number_of_a_missing_name_is_remembered() {
    let mut simulation = Simulation::with(&["a"]);
    simulation.answer(Ok(Some(7)));
    simulation.after(REFRESH_INTERVAL);
    simulation.answer(Ok(None));
    let numbers = simulation.schedule.table().user("a");
    assert_eq!(numbers, Numbers { current: Resolution::Missing, last: Some(7) });
}

#[test]
fn hanging_lookup_delays_no_other_and_its_late_answer_counts() {
    let mut simulation = Simulation::with(&["quick", "slow"]);
    assert_eq!(simulation.begin(), [user("quick"), user("slow")]);
    simulation.finish("quick", Ok(Some(7)));
    assert_eq!(simulation.resolution("quick"), Resolution::Number(7));
    assert_eq!(simulation.ended_waits(), 0);
    simulation.after(LOOKUP_TIMEOUT);
    assert_eq!(simulation.ended_waits(), 1);
    assert!(simulation.schedule.table().problems()[0].contains("no answer within 5 s"));

    // A reload waits for no lookup that hangs.
    simulation.add(&["quick", "slow"]);
    assert_eq!(simulation.answer(Ok(Some(8))), [user("quick")]);
    assert_eq!(simulation.ended_waits(), 2);
    simulation.finish("slow", Ok(Some(9)));
    assert_eq!(simulation.resolution("slow"), Resolution::Number(9));
}

#[test]
fn lookups_that_hang_leave_room_for_others() {
    let names: Vec<String> = (0..40).map(|n| format!("u{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut simulation = Simulation::with(&names);
    assert_eq!(simulation.begin().len(), MAX_LOOKUPS);
    simulation.after(LOOKUP_TIMEOUT);
    assert_eq!(simulation.begin().len(), MAX_LOOKUPS);
    simulation.after(LOOKUP_TIMEOUT);
    assert_eq!(simulation.begin().len(), 40 - 2 * MAX_LOOKUPS);
    assert_eq!(simulation.ended_waits(), 0);
    simulation.after(LOOKUP_TIMEOUT);
    assert_eq!(simulation.ended_waits(), 1);
}

#[test]
fn callers_cause_one_lookup_in_two_seconds() {
    let mut simulation = Simulation::with(&["missing"]);
    simulation.answer(Ok(None));
    simulation.add(&["known"]);
    simulation.answer(Ok(Some(7)));
    for _ in 0..1000 {
        simulation.demand();
        simulation.after(Duration::from_millis(1));
    }
    assert!(simulation.begin().is_empty());
    assert_eq!(simulation.ended_waits(), 2);
    simulation.after(SECOND);
    assert_eq!(simulation.answer(Ok(None)), [user("missing")]);
    assert_eq!(simulation.ended_waits(), 1002);
}

#[test]
fn callers_that_wait_for_hanging_lookups_share_a_set_and_are_dropped_when_they_end() {
    let mut simulation = Simulation::with(&["a", "missing"]);
    simulation.answer(Ok(None));
    simulation.after(REFRESH_INTERVAL);
    simulation.begin();
    for _ in 0..1000 {
        simulation.demand();
    }
    assert_eq!(simulation.schedule.waiting_counts(), (1, 1000));
    simulation.waits.drain(..1000);
    simulation.after(SECOND);
    assert_eq!(simulation.schedule.waiting_counts(), (1, 1));
    simulation.waits.clear();
    simulation.after(SECOND);
    assert_eq!(simulation.schedule.waiting_counts(), (0, 0));
}

#[test]
fn callers_during_a_lookup_wait_for_the_next_one() {
    let mut simulation = Simulation::with(&["missing"]);
    simulation.answer(Ok(None));
    simulation.after(2 * SECOND);
    simulation.demand();
    assert_eq!(simulation.begin(), [user("missing")]);
    simulation.after(SECOND / 10);
    simulation.demand();
    simulation.finish("missing", Ok(None));
    assert_eq!(simulation.ended_waits(), 2, "the one that came during the lookup is not among them");
    simulation.after(SECOND);
    assert!(simulation.begin().is_empty());
    simulation.after(SECOND);
    assert_eq!(simulation.answer(Ok(Some(7))), [user("missing")]);
    assert_eq!(simulation.ended_waits(), 3);
}

#[test]
fn long_lookups_are_followed_by_longer_pauses() {
    let mut simulation = Simulation::with(&["a"]);
    simulation.begin();
    simulation.after(4 * SECOND);
    simulation.finish("a", Ok(None));
    simulation.demand();
    simulation.schedule.refresh(simulation.now);
    simulation.after(15 * SECOND);
    assert!(simulation.begin().is_empty());
    simulation.after(2 * SECOND);
    assert_eq!(simulation.begin(), [user("a")]);
}

#[test]
fn reload_repeats_a_lookup_that_began_before_it() {
    let mut simulation = Simulation::with(&["a"]);
    simulation.begin();
    simulation.after(SECOND);
    simulation.add(&["a"]);
    simulation.finish("a", Ok(Some(7)));
    assert_eq!(simulation.ended_waits(), 1, "the first one");
    assert_eq!(simulation.answer(Ok(Some(8))), [user("a")]);
    assert_eq!(simulation.ended_waits(), 2);
    assert_eq!(simulation.resolution("a"), Resolution::Number(8));
}

#[test]
fn changed_local_file_causes_a_lookup_of_each_name() {
    let mut simulation = Simulation::with(&["a", "b"]);
    simulation.answer(Ok(Some(7)));
    simulation.after(SECOND);
    simulation.schedule.refresh(simulation.now);
    assert_eq!(simulation.answer(Ok(Some(8))), [user("a"), user("b")]);
}

#[test]
fn names_that_are_no_longer_used_are_forgotten() {
    let mut simulation = Simulation::with(&["a", "b"]);
    simulation.answer(Ok(Some(7)));
    simulation.schedule.retain(&BTreeSet::from([user("b")]));
    assert_eq!(simulation.resolution("a"), Resolution::Unknown);
    simulation.after(REFRESH_INTERVAL);
    assert_eq!(simulation.answer(Ok(Some(7))), [user("b")]);
}

//! Which names are looked up when: a value without threads or a clock.
//!
//! Each name has its own schedule, so that one whose lookup hangs delays no other. A lookup that took long is
//! repeated after four times as long at the earliest, unless an administrator asks: a name occupies a thread,
//! and its directory server, for at most a fifth of the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::lookup_error::LookupError;
use super::table::{Name, NameTable, Numbers, Resolution};

/// A lookup that takes longer counts as failed, until its answer arrives.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// A name is looked up again after this time, or after 10 ms for each name if that is longer.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
const REFRESH_INTERVAL_PER_NAME: Duration = Duration::from_millis(10);
/// A name whose lookup failed is looked up again after this time.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A missing name is looked up at most this often for callers that ask.
const DEMAND_INTERVAL: Duration = Duration::from_secs(2);
/// A lookup is repeated after this many times its length at the earliest.
const PAUSE_FACTOR: u32 = 4;
/// Lookups at once, without those that count as failed.
pub(super) const MAX_LOOKUPS: usize = 16;
/// Lookups at once, with those that hang.
const MAX_THREADS: usize = 64;

/// A request or thread that waits until its lookups have ended and their results are published.
pub(super) enum Waiter {
    /// A request.
    Request(oneshot::Sender<()>),
    /// A thread, which waits for all lookups that it started.
    Thread(mpsc::SyncSender<()>),
}

impl Waiter {
    /// Ends the wait. A waiter that has gone is ignored.
    pub fn end(self) {
        let _ = match self {
            Waiter::Request(done) => done.send(()).is_ok(),
            Waiter::Thread(done) => done.try_send(()).is_ok(),
        };
    }

    /// Whether the request has ended.
    fn is_gone(&self) -> bool {
        matches!(self, Waiter::Request(done) if done.is_closed())
    }
}

/// The names, and the lookups in progress.
#[derive(Default)]
pub(super) struct Schedule {
    names: BTreeMap<Name, State>,
    /// Names that are not being looked up, by the time of their next lookup.
    due: BTreeSet<(Instant, Name)>,
    running: BTreeMap<Name, Lookup>,
    waiting: Vec<Waiting>,
    /// The number of lookups that have begun.
    begun: u64,
    /// Whether the table may have changed since [`Schedule::mark_published`].
    has_changed: bool,
}

#[derive(Default)]
struct State {
    numbers: Numbers,
    /// Why the last lookup failed.
    failure: Option<LookupError>,
    /// The start and the length of the last lookup.
    last_lookup: Option<(Instant, Duration)>,
    /// The entry in `due`; `None` while it is being looked up.
    due: Option<Instant>,
}

struct Lookup {
    started: Instant,
    /// The number of lookups that began before this one.
    number: u64,
    is_overdue: bool,
    /// Whether and when it is to be repeated ahead of time.
    repeat: Option<When>,
}

/// When a name is looked up; the earlier is the smaller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    Now,
    /// This time after the start of the last lookup, and after the pause that its length requires.
    After(Duration),
}

/// Waiters for the same lookups.
struct Waiting {
    /// The lookups that began before these came do not count.
    first_lookup: u64,
    names: BTreeSet<Name>,
    /// Whether these are callers that ask for missing names.
    is_demand: bool,
    waiters: Vec<Waiter>,
}

impl Schedule {
    /// Adds names, and looks all of these up now. `waiter` waits for lookups that begin from now on, except
    /// those of names whose lookup hangs.
    pub fn add(&mut self, names: impl IntoIterator<Item = Name>, waiter: Waiter, now: Instant) {
        let mut awaited = BTreeSet::new();
        for name in names {
            self.names.entry(name.clone()).or_default();
            self.look_up(&name, When::Now, now);
            if self.running.get(&name).is_none_or(|lookup| !lookup.is_overdue) {
                awaited.insert(name);
            }
        }
        let first_lookup = self.begun;
        self.waiting.push(Waiting { first_lookup, names: awaited, is_demand: false, waiters: vec![waiter] });
    }

    /// Forgets all other names.
    pub fn retain(&mut self, names: &BTreeSet<Name>) {
        self.has_changed = true;
        self.names.retain(|name, _| names.contains(name));
        self.due.retain(|(_, name)| names.contains(name));
        self.waiting.iter_mut().for_each(|waiting| waiting.names.retain(|name| names.contains(name)));
    }

    /// Looks missing names up for a caller, as soon as that is allowed again.
    pub fn demand(&mut self, waiter: Waiter, now: Instant) {
        let is_missing = |state: &State| state.numbers.current == Resolution::Missing;
        let missing = self.names.iter().filter(|(_, state)| is_missing(state)).map(|(name, _)| name);
        // Callers that come before another lookup begins share an entry, and their lookups are due already.
        if let Some(last) = self.waiting.last_mut()
            && last.first_lookup == self.begun
            && last.is_demand
            && last.names.iter().eq(missing.clone())
        {
            last.waiters.push(waiter);
            return;
        }
        let names: BTreeSet<Name> = missing.cloned().collect();
        for name in &names {
            self.look_up(name, When::After(DEMAND_INTERVAL), now);
        }
        let first_lookup = self.begun;
        self.waiting.push(Waiting { first_lookup, names, is_demand: true, waiters: vec![waiter] });
    }

    /// Looks all names up: a local file has changed.
    pub fn refresh(&mut self, now: Instant) {
        let names: Vec<Name> = self.names.keys().cloned().collect();
        for name in &names {
            self.look_up(name, When::After(Duration::ZERO), now);
        }
    }

    /// Takes note of lookups that hang, and of requests that have ended. Returns the waiters whose lookups
    /// have all ended.
    pub fn advance(&mut self, now: Instant) -> Vec<Waiter> {
        for (name, lookup) in &mut self.running {
            if lookup.is_overdue || now < lookup.started + LOOKUP_TIMEOUT {
                continue;
            }
            (lookup.is_overdue, self.has_changed) = (true, true);
            for waiting in &mut self.waiting {
                waiting.names.remove(name);
            }
            if let Some(state) = self.names.get_mut(name) {
                state.fail(LookupError::Timeout(LOOKUP_TIMEOUT));
            }
        }
        self.waiting.iter_mut().for_each(|waiting| waiting.waiters.retain(|waiter| !waiter.is_gone()));
        self.waiting.retain(|waiting| !waiting.waiters.is_empty());
        let ended = self.waiting.extract_if(.., |waiting| waiting.names.is_empty());
        ended.flat_map(|waiting| waiting.waiters).collect()
    }

    /// The next name to look up now.
    pub fn next(&mut self, now: Instant) -> Option<Name> {
        let is_due = self.due.first().is_some_and(|(due, _)| *due <= now);
        let lookups = self.running.values().filter(|lookup| !lookup.is_overdue).count();
        if !is_due || lookups >= MAX_LOOKUPS || self.running.len() >= MAX_THREADS {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        if let Some(state) = self.names.get_mut(&name) {
            state.due = None;
        }
        let lookup = Lookup { started: now, number: self.begun, is_overdue: false, repeat: None };
        self.running.insert(name.clone(), lookup);
        self.begun += 1;
        Some(name)
    }

    /// Takes the result of a lookup.
    pub fn finish(&mut self, name: &Name, result: Result<Option<u32>, LookupError>, now: Instant) {
        let Some(lookup) = self.running.remove(name) else { return };
        for waiting in self.waiting.iter_mut().filter(|one| one.first_lookup <= lookup.number) {
            waiting.names.remove(name);
        }
        let refresh_interval = REFRESH_INTERVAL.max(REFRESH_INTERVAL_PER_NAME * self.names.len() as u32);
        self.has_changed = true;
        let Some(state) = self.names.get_mut(name) else { return };
        state.last_lookup = Some((lookup.started, now.duration_since(lookup.started)));
        let interval = if result.is_ok() { refresh_interval } else { RETRY_INTERVAL };
        match result {
            Ok(number) => {
                state.failure = None;
                state.numbers.current = number.map_or(Resolution::Missing, Resolution::Number);
                state.numbers.last = number.or(state.numbers.last);
            }
            Err(error) => state.fail(error),
        }
        let next = When::After(interval);
        self.look_up(name, lookup.repeat.map_or(next, |repeat| repeat.min(next)), now);
    }

    /// Has a name looked up then, or earlier if it is due earlier.
    fn look_up(&mut self, name: &Name, when: When, now: Instant) {
        if let Some(lookup) = self.running.get_mut(name) {
            lookup.repeat = Some(lookup.repeat.map_or(when, |repeat| repeat.min(when)));
            return;
        }
        let Some(state) = self.names.get_mut(name) else { return };
        let due = match (when, state.last_lookup) {
            (When::Now, _) | (_, None) => now,
            (When::After(interval), Some((started, length))) => {
                now.max(started + interval).max(started + length + length * PAUSE_FACTOR)
            }
        };
        let due = state.due.map_or(due, |current| current.min(due));
        if let Some(previous) = state.due.replace(due) {
            self.due.remove(&(previous, name.clone()));
        }
        self.due.insert((due, name.clone()));
    }

    /// When the next name is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Whether there are names.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The number of sets of names, and of their waiters.
    #[cfg(test)]
    pub fn waiting_counts(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting.iter().map(|waiting| waiting.waiters.len()).sum())
    }

    /// Whether the table may have changed since it was published.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// To be called when the present table is published.
    pub fn mark_published(&mut self) {
        self.has_changed = false;
    }

    /// What is known now.
    pub fn table(&self) -> NameTable {
        let mut table = NameTable::default();
        for (name, state) in &self.names {
            table.insert(name, state.numbers);
            if let Some(error) = &state.failure {
                table.add_problem(name, error, state.numbers);
            }
        }
        table
    }
}

impl State {
    fn fail(&mut self, error: LookupError) {
        self.failure = Some(error);
        // Whether the name exists by now is not known.
        if self.numbers.current == Resolution::Missing {
            self.numbers.current = Resolution::Unknown;
        }
    }
}

//! What the audit log says of each agent, in memory: when it was seen last, what was issued to it, and which of its
//! tokens live; and the units whose processes are no agent.
//!
//! Each record is noted when it is written. What earlier processes of the daemon recorded is read from the log once,
//! in the background ([`ActivityReader`](super::activity_reader::ActivityReader)).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::event::Event;
use super::live_tokens::{LiveTokens, Now};
use super::record::Noted;
use crate::agents::{AgentEntry, AgentName, is_multi_user_unit};
use crate::clock::{Clock, Timestamp};
use crate::mutex::lock;
use crate::policy::{ErrorCode, Refusal};
use crate::revocation::Revocations;

/// Agents that are remembered; those that were seen longest ago are forgotten first. More than a host can register.
const MAX_AGENTS: usize = 16_384;
/// Units of unknown callers that are remembered; those that asked longest ago are forgotten first.
const MAX_UNITS: usize = 256;
/// Longest unit name that is remembered, in bytes (systemd allows 255).
const MAX_UNIT_LEN: usize = 255;
/// Audiences of one agent that are remembered, beyond those of any agent's grants.
const MAX_AUDIENCES: usize = 1024;

/// The activity of all agents. Clones share it.
#[derive(Clone)]
pub struct Activity(Arc<Shared>);

struct Shared {
    clock: Clock,
    /// Audiences are remembered by their hashes.
    hasher: RandomState,
    revocations: OnceLock<Revocations>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) agents: HashMap<AgentName, AgentState>,
    pub(super) units: HashMap<Box<str>, UnknownUnit>,
    known_since: Option<Timestamp>,
}

/// What is remembered of one agent.
#[derive(Debug)]
pub(super) struct AgentState {
    last_seen: Timestamp,
    /// Since the start of this process: what was issued to it or released, and what was refused.
    granted: u64,
    refused: u64,
    /// Hashes of audiences for which something was issued.
    audiences: Vec<u64>,
    tokens: LiveTokens,
}

/// What an agent has and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentActivity {
    /// The time of its last record; `None` if the log has none, as far as it was read.
    pub last_seen: Option<Timestamp>,
    /// Tokens that have not expired and are not revoked: access tokens, JWT-SVIDs and WIT-SVIDs.
    pub live_tokens: u32,
    /// Its grants for whose audience something was issued.
    pub grants_used: usize,
}

/// What an agent got from this process of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCounts {
    /// Its name.
    pub name: AgentName,
    /// The time of its last record.
    pub last_seen: Timestamp,
    /// Tokens and certificates that were issued to it, and credentials that were released.
    pub granted: u64,
    /// Requests of it that were refused.
    pub refused: u64,
}

/// A unit in which processes asked that are no agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownUnit {
    /// Its name.
    pub unit: String,
    /// The user of the process that asked last.
    pub uid: u32,
    /// When one asked first, as far as it is known.
    pub first_seen: Timestamp,
    /// When one asked last.
    pub last_seen: Timestamp,
}

impl Activity {
    pub(super) fn new(clock: Clock) -> Activity {
        let (hasher, revocations, state) = (RandomState::new(), OnceLock::new(), Mutex::default());
        Activity(Arc::new(Shared { clock, hasher, revocations, state }))
    }

    /// Live tokens are counted from now on, without those that these revocations revoke.
    pub fn count_tokens(&self, revocations: Revocations) {
        // There is one state of revocations in a process.
        let _ = self.0.revocations.set(revocations);
    }

    /// Forgets what is remembered of an agent. The records of the log stay, and an agent that is registered at the
    /// next start is read from them again.
    pub fn forget(&self, agent: &str) {
        lock(&self.0.state).agents.retain(|name, _| name.as_str() != agent);
    }

    /// Takes note of a record.
    pub(super) fn note(&self, noted: &Noted<'_>) {
        match noted.agent {
            Some(agent) => self.note_agent(agent, noted),
            None if noted.event == Event::RequestRefused => {
                self.note_unknown(noted.reason, noted.peer.unit.as_deref(), noted.peer.uid, noted.time)
            }
            None => {}
        }
    }

    /// Takes note of a refusal that has no record of its own.
    pub(super) fn note_counted(&self, refusal: &Refusal) {
        match (&refusal.agent, &refusal.peer) {
            (Some(name), _) => {
                if let Some(agent) = lock(&self.0.state).agents.get_mut(name.root()) {
                    agent.refused += 1;
                }
            }
            (None, Some(peer)) => {
                self.note_unknown(Some(refusal.code), peer.unit.as_deref(), peer.uid, self.0.clock.now());
            }
            (None, None) => {}
        }
    }

    fn note_agent(&self, name: &str, noted: &Noted<'_>) {
        let mut state = lock(&self.0.state);
        let Some(agent) = state.agent(name) else { return };
        agent.last_seen = agent.last_seen.max(noted.time);
        let is_refused = matches!(noted.event, Event::ApprovalRequested | Event::RequestRefused);
        agent.refused += u64::from(is_refused);
        agent.granted += u64::from(noted.subject.is_some());
        let Some(subject) = noted.subject.filter(|_| is_issue(noted.event)) else { return };
        self.note_audiences(agent, noted.audience.unwrap_or_default());
        let (Some(expires), Some(revocations)) = (noted.expires, self.0.revocations.get()) else { return };
        let set = revocations.current();
        let now = Now { revocations: &set, time: self.0.clock.boot_time() };
        let invocation = noted.peer.invocation.as_deref();
        agent.tokens.add(subject.entry(), invocation, expires.since(noted.time), now);
    }

    /// A JWT-SVID has several audiences, an access token one.
    pub(super) fn note_audiences(&self, agent: &mut AgentState, audiences: &str) {
        for audience in audiences.split(' ').filter(|audience| !audience.is_empty()) {
            let hash = self.hash(audience);
            if !agent.audiences.contains(&hash) && agent.audiences.len() < MAX_AUDIENCES {
                agent.audiences.push(hash);
            }
        }
    }

    fn note_unknown(&self, reason: Option<ErrorCode>, unit: Option<&str>, uid: u32, time: Timestamp) {
        let (Some(ErrorCode::InvalidClient), Some(unit)) = (reason, unit) else { return };
        if is_remembered(unit) {
            lock(&self.0.state).unknown_unit(unit, uid, time);
        }
    }

    fn hash(&self, audience: &str) -> u64 {
        self.0.hasher.hash_one(audience)
    }

    /// A token of an agent was revoked by itself.
    pub fn note_revoked_token(&self, agent: &str, invocation: Option<&str>, expires: Timestamp) {
        let lifetime = expires.since(self.0.clock.now());
        if let Some(agent) = lock(&self.0.state).agents.get_mut(agent) {
            agent.tokens.take_back(invocation, lifetime, self.0.clock.boot_time());
        }
    }

    /// What an agent has and did.
    pub fn of(&self, entry: &AgentEntry) -> AgentActivity {
        let mut state = lock(&self.0.state);
        let Some(agent) = state.agents.get_mut(entry.name.as_str()) else { return AgentActivity::default() };
        let live_tokens = self.0.revocations.get().map_or(0, |revocations| {
            let set = revocations.current();
            agent.tokens.count(entry, Now { revocations: &set, time: self.0.clock.boot_time() })
        });
        let is_used = |audience: &str| agent.audiences.contains(&self.hash(audience));
        let grants_used = entry.grants().filter(|grant| is_used(&grant.audience)).count();
        AgentActivity { last_seen: Some(agent.last_seen), live_tokens, grants_used }
    }

    /// What the `number` agents got that were seen last, of those that `is_registered`; the last one first.
    pub fn latest(&self, number: usize, is_registered: impl Fn(&AgentName) -> bool) -> Vec<AgentCounts> {
        if number == 0 {
            return Vec::new();
        }
        let counts = |(name, agent): (&AgentName, &AgentState)| AgentCounts {
            name: name.clone(),
            last_seen: agent.last_seen,
            granted: agent.granted,
            refused: agent.refused,
        };
        let mut latest: Vec<AgentCounts> = lock(&self.0.state).agents.iter().map(counts).collect();
        latest.retain(|agent| is_registered(&agent.name));
        latest.sort_by(|one, other| (other.last_seen, &one.name).cmp(&(one.last_seen, &other.name)));
        latest.truncate(number);
        latest
    }

    /// Units in which processes asked that are no agent, in alphabetical order; without those in which users start
    /// processes.
    pub fn unknown_units(&self) -> Vec<UnknownUnit> {
        let mut units: Vec<UnknownUnit> = lock(&self.0.state).units.values().cloned().collect();
        units.sort_by(|one, other| one.unit.cmp(&other.unit));
        units
    }

    /// The time from which the records of the log are known; `None` until it has been read.
    pub fn known_since(&self) -> Option<Timestamp> {
        lock(&self.0.state).known_since
    }

    /// Adds what was read from the log, whose records are known from `since` on.
    pub(super) fn add(&self, read: State, since: Timestamp, entry: impl Fn(&str) -> Option<Arc<AgentEntry>>) {
        let revocations = self.0.revocations.get().map(Revocations::current).unwrap_or_default();
        for (name, earlier) in read.agents {
            let mut state = lock(&self.0.state);
            let Some(agent) = state.agent(name.as_str()) else { continue };
            agent.last_seen = agent.last_seen.max(earlier.last_seen);
            for hash in earlier.audiences {
                if !agent.audiences.contains(&hash) && agent.audiences.len() < MAX_AUDIENCES {
                    agent.audiences.push(hash);
                }
            }
            if let Some(entry) = entry(name.as_str()) {
                let now = Now { revocations: &revocations, time: self.0.clock.boot_time() };
                agent.tokens.add_all(&entry, earlier.tokens, now);
            }
        }
        let mut state = lock(&self.0.state);
        for (_, earlier) in read.units {
            state.unknown_unit(&earlier.unit, earlier.uid, earlier.last_seen);
            if let Some(unit) = state.units.get_mut(&*earlier.unit) {
                unit.first_seen = unit.first_seen.min(earlier.first_seen);
            }
        }
        state.known_since = Some(since);
    }
}

impl State {
    /// What is remembered of the agent of this name, from now on; `None` for a text that is no name.
    pub(super) fn agent(&mut self, name: &str) -> Option<&mut AgentState> {
        if !self.agents.contains_key(name) {
            let name = AgentName::parse(name).ok()?;
            if self.agents.len() >= MAX_AGENTS {
                self.forget_agents();
            }
            let agent = AgentState {
                last_seen: Timestamp::from_secs(0),
                granted: 0,
                refused: 0,
                audiences: Vec::new(),
                tokens: LiveTokens::default(),
            };
            self.agents.insert(name, agent);
        }
        self.agents.get_mut(name)
    }

    /// Forgets the half of the agents that was seen longest ago.
    fn forget_agents(&mut self) {
        let mut times: Vec<Timestamp> = self.agents.values().map(|agent| agent.last_seen).collect();
        times.sort_unstable();
        if let Some(middle) = times.get(times.len() / 2).copied() {
            self.agents.retain(|_, agent| agent.last_seen > middle);
        }
    }

    pub(super) fn unknown_unit(&mut self, unit: &str, uid: u32, time: Timestamp) {
        if let Some(known) = self.units.get_mut(unit) {
            if time >= known.last_seen {
                (known.last_seen, known.uid) = (time, uid);
            }
            known.first_seen = known.first_seen.min(time);
            return;
        }
        if self.units.len() >= MAX_UNITS {
            let oldest = self.units.values().min_by_key(|known| known.last_seen);
            let Some(oldest) = oldest.filter(|oldest| oldest.last_seen <= time) else { return };
            let oldest = oldest.unit.clone();
            self.units.remove(&*oldest);
        }
        let known = UnknownUnit { unit: unit.to_owned(), uid, first_seen: time, last_seen: time };
        self.units.insert(unit.into(), known);
    }
}

impl AgentState {
    pub(super) fn seen_at(&mut self, time: Timestamp) {
        self.last_seen = self.last_seen.max(time);
    }

    pub(super) fn add_token(
        &mut self,
        entry: &AgentEntry,
        invocation: Option<&str>,
        left: Duration,
        now: Now<'_>,
    ) {
        self.tokens.add(entry, invocation, left, now);
    }
}

/// Events of a token that was issued to an agent.
pub(super) fn is_issue(event: Event) -> bool {
    matches!(event, Event::TokenIssued | Event::SvidIssued | Event::WitSvidIssued)
}

/// Whether a unit can be given to an agent. In some units, users start processes of their own.
pub(super) fn is_remembered(unit: &str) -> bool {
    unit.len() <= MAX_UNIT_LEN && !is_multi_user_unit(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_that_asked_last_are_remembered() {
        let mut state = State::default();
        let at = Timestamp::from_secs;
        for n in 0..1000 {
            state.unknown_unit(&format!("u{n}.service"), 7, at(n));
        }
        assert_eq!(state.units.len(), MAX_UNITS);
        assert!(state.units.contains_key("u999.service") && !state.units.contains_key("u0.service"));
        state.unknown_unit("old.service", 7, at(5));
        assert!(!state.units.contains_key("old.service"), "older than all that are remembered");
        state.unknown_unit("u999.service", 8, at(2000));
        state.unknown_unit("u999.service", 9, at(3));
        let expected =
            UnknownUnit { unit: "u999.service".to_owned(), uid: 8, first_seen: at(3), last_seen: at(2000) };
        assert_eq!(state.units["u999.service"], expected);
        assert!(is_remembered("agent.service"));
        for unit in ["session-7.scope", "user@1000.service", "cron.service", &"x".repeat(256)] {
            assert!(!is_remembered(unit), "{unit}");
        }
    }

    #[test]
    fn the_agents_that_were_seen_last_are_remembered() {
        let mut state = State::default();
        for n in 0..MAX_AGENTS as u64 + 10 {
            state.agent(&format!("a{n}")).unwrap().seen_at(Timestamp::from_secs(n));
        }
        assert!(state.agents.len() <= MAX_AGENTS);
        assert!(state.agents.contains_key("a16390") && !state.agents.contains_key("a0"));
        assert!(state.agent("no name").is_none());
    }
}

//! The profiles of all agents, and the alerts about them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;

use super::alert::{Alert, StoredAlert};
use super::file::{self, AnomalyFile};
use super::observation::{Act, Observation, name_digest};
use super::profile::{Context, Finding, Profile};
use super::report::ProfileReport;
use super::shared_key::KnownKeys;
use super::{CLOCK_REST, CLOCK_STEP, MAX_AGENTS, MAX_ALERTS, MAX_WAITING};
use crate::clock::{BootTime, Clock, Timestamp, Zone};
use crate::config::AnomalyRule;
use crate::mutex::lock;

/// Profiles that are copied in one go to be stored, while no observation is possible.
const COPIED_AT_ONCE: usize = 16;

/// Whether the credential that an agent of a tenant asks for by a name is a canary. The arguments are the tenant,
/// empty where there is none, the agent and the name.
pub type CanaryLookup = Box<dyn Fn(&str, &str, &str) -> bool + Send + Sync>;

/// The profiles and alerts of this host. Clones share them.
#[derive(Clone)]
pub struct Anomalies(Arc<Shared>);

struct Shared {
    clock: Clock,
    zone: Zone,
    learn: Duration,
    is_canary: OnceLock<CanaryLookup>,
    state: Mutex<State>,
    sender: mpsc::Sender<Alert>,
    receiver: Mutex<Option<mpsc::Receiver<Alert>>>,
    /// The latest alerts, the latest last.
    alerts: Mutex<VecDeque<StoredAlert>>,
    /// Alerts since the daemon started, for each rule.
    counts: [AtomicU64; AnomalyRule::ALL.len()],
    /// Alerts that were not recorded, because too many were waiting.
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    profiles: HashMap<Arc<str>, Profile>,
    keys: KnownKeys,
    /// The latest observation of any agent.
    last: Option<(Timestamp, BootTime)>,
    /// When the clock was set.
    clock_set: Option<BootTime>,
    /// Since when profiles are learnt; `None` until the file was read.
    since: Option<Timestamp>,
}

impl Anomalies {
    /// No profiles yet. Hours are those of `zone`; agents are compared with themselves after the time `learn`.
    pub fn new(clock: Clock, zone: Zone, learn: Duration) -> Anomalies {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        Anomalies(Arc::new(Shared {
            clock,
            zone,
            learn,
            is_canary: OnceLock::new(),
            state: Mutex::default(),
            sender,
            receiver: Mutex::new(Some(receiver)),
            alerts: Mutex::default(),
            counts: Default::default(),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Says which credentials are canaries.
    pub fn set_canaries(&self, is_canary: CanaryLookup) {
        // There is one store of credentials in a process.
        let _ = self.0.is_canary.set(is_canary);
    }

    /// The source of observations' times.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Compares what an agent did with what it did before, and learns from it. Waits for nothing.
    pub fn observe(&self, seen: &Observation<'_>) {
        let is_canary = self.is_canary(seen);
        let mut state = lock(&self.0.state);
        let is_clock_resting = state.follow_clock(seen.time, seen.boot);
        let shared_key = state.find_shared_key(seen);
        let context = Context { zone: &self.0.zone, learn: self.0.learn, is_clock_resting, is_canary };
        let profile = state.profile(seen.agent, seen.time);
        for finding in profile.observe(seen, context).into_iter().chain(shared_key) {
            self.send(profile, finding, (seen.agent, seen.tenant), (seen.time, seen.boot));
        }
    }

    /// A relying party introspected a token of an agent, which is active.
    pub fn note_token_use(&self, agent: &str, audience: &str, jti: &str) {
        if let Some(profile) = lock(&self.0.state).profiles.get_mut(agent) {
            profile.tokens.used(name_digest("aud", audience), name_digest("jti", jti));
        }
    }

    /// Compares the digest over a unit's file and drop-ins.
    pub fn observe_unit(&self, agent: &str, tenant: Option<&str>, unit: &str, digest: [u8; 8]) {
        let (time, boot) = (self.0.clock.now(), self.0.clock.boot_time());
        let mut state = lock(&self.0.state);
        let Some(profile) = state.profiles.get_mut(agent) else { return };
        if let Some(finding) = profile.observe_unit(unit, digest, self.0.learn) {
            self.send(profile, finding, (agent, tenant), (time, boot));
        }
    }

    /// The alerts, for the one component that records them; `None` at a second call.
    pub fn take_receiver(&self) -> Option<mpsc::Receiver<Alert>> {
        lock(&self.0.receiver).take()
    }

    /// Keeps an alert for administrators.
    pub fn keep(&self, rule: AnomalyRule, alert: StoredAlert) {
        self.0.counts[rule as usize].fetch_add(1, Ordering::Relaxed);
        let mut alerts = lock(&self.0.alerts);
        if alerts.len() >= MAX_ALERTS {
            alerts.pop_front();
        }
        alerts.push_back(alert);
    }

    /// The latest alerts, the latest first.
    pub fn alerts(&self) -> Vec<StoredAlert> {
        lock(&self.0.alerts).iter().rev().cloned().collect()
    }

    /// Alerts of a rule since the daemon started.
    pub fn count(&self, rule: AnomalyRule) -> u64 {
        self.0.counts[rule as usize].load(Ordering::Relaxed)
    }

    /// Alerts that were not recorded, because too many were waiting.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// An alert was not recorded, because too many were waiting.
    pub fn note_dropped(&self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// More follows from what the rule finds than before: its next finding about the agent has an alert.
    pub fn rearm(&self, agent: &str, rule: AnomalyRule) {
        if let Some(profile) = lock(&self.0.state).profiles.get_mut(agent) {
            profile.withdraw_alert(rule);
        }
    }

    /// An administrator resumed the agent: each rule has an alert at its next finding.
    pub fn resume(&self, agent: &str) {
        if let Some(profile) = lock(&self.0.state).profiles.get_mut(agent) {
            profile.reset_alerts();
        }
    }

    /// Forgets what an agent did, and the alerts about it.
    pub fn forget(&self, agent: &str) {
        lock(&self.0.state).profiles.remove(agent);
        lock(&self.0.alerts).retain(|alert| alert.agent != agent);
    }

    /// What is known of an agent.
    pub fn report(&self, agent: &str) -> Option<ProfileReport> {
        lock(&self.0.state).profiles.get(agent).map(|profile| ProfileReport::new(profile, self.0.learn))
    }

    /// Since when profiles are learnt; `None` until the file was read.
    pub fn since(&self) -> Option<Timestamp> {
        lock(&self.0.state).since
    }

    /// Adds what earlier processes of the daemon learnt. Agents that were seen already keep what is learnt now.
    pub fn restore(&self, file: Option<AnomalyFile>) {
        let Some(AnomalyFile { since, agents, alerts }) = file else {
            lock(&self.0.state).since = Some(self.0.clock.now());
            return;
        };
        {
            let mut kept = lock(&self.0.alerts);
            for alert in alerts.into_iter().rev() {
                if kept.len() < MAX_ALERTS {
                    kept.push_front(alert);
                }
            }
        }
        let mut state = lock(&self.0.state);
        for (agent, profile) in agents.into_iter().take(MAX_AGENTS) {
            if profile.is_valid() {
                state.profiles.entry(agent.into()).or_insert(profile);
            }
        }
        state.since = Some(since);
    }

    /// What is to be stored; `None` until the file was read. Observations of requests wait for the copy of a few
    /// profiles at most.
    pub fn to_file(&self) -> Option<AnomalyFile> {
        let alerts = lock(&self.0.alerts).iter().cloned().collect();
        let (since, agents) = {
            let state = lock(&self.0.state);
            let agents: Vec<Arc<str>> = state.profiles.keys().cloned().collect();
            (state.since?, agents)
        };
        let mut profiles = Vec::with_capacity(agents.len());
        for some in agents.chunks(COPIED_AT_ONCE) {
            let state = lock(&self.0.state);
            let copy = |agent: &Arc<str>| Some((agent.to_string(), state.profiles.get(agent)?.clone()));
            profiles.extend(some.iter().filter_map(copy));
            drop(state);
            // Without it, this thread mostly has the lock again before one that waits for it.
            std::thread::yield_now();
        }
        Some(AnomalyFile { since, agents: file::within_size(profiles), alerts })
    }

    fn is_canary(&self, seen: &Observation<'_>) -> bool {
        let (Act::Credential(name) | Act::Refused { credential: Some(name), .. }) = seen.act else {
            return false;
        };
        let tenant = seen.tenant.unwrap_or_default();
        self.0.is_canary.get().is_some_and(|is_canary| is_canary(tenant, seen.agent, name))
    }

    /// Sends an alert, unless one of this rule was sent a short time ago.
    fn send(
        &self,
        profile: &mut Profile,
        (rule, detail): Finding,
        (agent, tenant): (&str, Option<&str>),
        (time, boot): (Timestamp, BootTime),
    ) {
        let Some(repeats) = profile.begin_alert(rule, boot) else { return };
        let (agent, tenant) = (agent.to_owned(), tenant.map(str::to_owned));
        if self.0.sender.try_send(Alert { time, rule, agent, tenant, detail, repeats }).is_err() {
            self.note_dropped();
            profile.withdraw_alert(rule);
        }
    }
}

impl State {
    /// The profile of an agent, from now on.
    fn profile(&mut self, agent: &str, now: Timestamp) -> &mut Profile {
        if !self.profiles.contains_key(agent) && self.profiles.len() >= MAX_AGENTS {
            self.forget_agents();
        }
        self.profiles.entry(agent.into()).or_insert_with(|| Profile::new(now))
    }

    /// Whether the agent used a key that another invocation has used.
    fn find_shared_key(&mut self, seen: &Observation<'_>) -> Option<Finding> {
        let Act::Identity(Some(used)) = seen.act else { return None };
        let first = self.keys.observe(seen.agent, used)?;
        let by = if *first == *seen.agent { "it".to_owned() } else { format!("agent \"{first}\"") };
        let text = format!("its certificate request has a key that {by} used in another invocation before");
        Some((AnomalyRule::SharedKey, text))
    }

    /// Forgets the half of the agents that was seen longest ago.
    fn forget_agents(&mut self) {
        let mut times: Vec<Timestamp> = self.profiles.values().map(|profile| profile.last_seen).collect();
        times.sort_unstable();
        if let Some(middle) = times.get(times.len() / 2).copied() {
            self.profiles.retain(|_, profile| profile.last_seen > middle);
        }
    }

    /// Compares the time of day with the time since the host started. Returns whether the clock was set a short time
    /// ago.
    fn follow_clock(&mut self, time: Timestamp, boot: BootTime) -> bool {
        if let Some((last_time, last_boot)) = self.last {
            let passed = boot.since(last_boot);
            let expected = last_time.after(passed);
            if time.since(expected).max(expected.since(time)) > CLOCK_STEP {
                self.clock_set = Some(boot);
            }
        }
        self.last = Some((time, boot));
        self.clock_set.is_some_and(|set| boot.since(set) < CLOCK_REST)
    }
}

#[cfg(test)]
mod tests;

//! The life cycle of agents, for administrators: what each did and has, and what may have to be ended.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::admin::Admin;
use super::error::AdminError;
use super::identity_service::IdentityService;
use crate::agents::{AgentEntry, AgentSet, ExpiryHolder, ExpiryOf, PendingChange};
use crate::clock::Timestamp;
use crate::peer::UnitNames;
use crate::revocation::RevocationSet;
use crate::wire::admin::Agent;
use crate::wire::lifecycle::{
    ActivitySummary, AgentActivity, AgentState, LifecycleFinding, LifecycleKind, LifecycleResponse,
    MAX_LISTED_FINDINGS, UnitPresence,
};

/// Bytes of agents in one page, about. A page has at least one agent.
const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// An agent that was never seen counts as unused once it has been known for this time.
const MIN_UNSEEN: Duration = Duration::from_secs(86_400);
/// How long a status waits for the directories of units.
const UNITS_TIMEOUT: Duration = Duration::from_secs(1);

/// The part of the list of agents that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentsQuery {
    /// Only agents whose names are greater.
    pub after: Option<String>,
    /// As many agents at most; all if absent.
    pub limit: Option<usize>,
}

/// What the state of an agent depends on.
struct AgentsNow {
    units: Option<UnitNames>,
    revocations: Arc<RevocationSet>,
    pending: Option<PendingChange>,
}

impl IdentityService {
    /// The registered agents with what each did, in alphabetical order: all of them, or one page.
    ///
    /// # Errors
    /// [`AdminError::Task`].
    pub async fn agents(&self, _: &Admin, query: AgentsQuery) -> Result<Vec<Agent>, AdminError> {
        let now = self.agents_now(Some(tokio::task::spawn_blocking(UnitNames::read).await?));
        let agents = self.deps.agents.current();
        let is_page = query.limit.is_some() || query.after.is_some();
        let (limit, max_bytes) =
            (query.limit.unwrap_or(usize::MAX), if is_page { MAX_PAGE_BYTES } else { usize::MAX });
        let (mut listed, mut bytes) = (Vec::new(), 0);
        for entry in agents.after(query.after.as_deref()).take(limit) {
            let agent =
                Agent { activity: Some(self.activity_of(entry, &now)), ..Agent::with_own_grants(entry) };
            if is_page {
                bytes += serde_json::to_vec(&agent).map_or(0, |text| text.len());
            }
            if bytes > max_bytes && !listed.is_empty() {
                break;
            }
            listed.push(agent);
        }
        Ok(listed)
    }

    /// One registered agent.
    ///
    /// # Errors
    /// [`AdminError::UnknownAgent`], [`AdminError::Task`].
    pub async fn agent(&self, _: &Admin, name: &str) -> Result<Agent, AdminError> {
        let agents = self.deps.agents.current();
        let entry = agents.get(name).ok_or(AdminError::UnknownAgent)?;
        let now = self.agents_now(Some(tokio::task::spawn_blocking(UnitNames::read).await?));
        Ok(Agent { activity: Some(self.activity_of(entry, &now)), ..Agent::with_all_grants(entry) })
    }

    /// What may have to be ended or completed: agents, units and grants. With `unseen_for`, an agent is unused that was
    /// not seen for this time; without, one that was never seen, and is known for a day.
    ///
    /// # Errors
    /// [`AdminError::Task`].
    pub async fn lifecycle(
        &self,
        _: &Admin,
        unseen_for: Option<Duration>,
    ) -> Result<LifecycleResponse, AdminError> {
        let agents = self.deps.agents.current();
        let files: Vec<(String, PathBuf)> =
            agents.with_files().map(|(entry, file, _)| (entry.name.to_string(), file.to_owned())).collect();
        let read = tokio::task::spawn_blocking(move || (UnitNames::read(), file_times(files))).await?;
        let (units, changed) = read;
        let now = self.agents_now(Some(units));
        let mut found = Findings { response: self.empty_response(&agents), all: Vec::new() };
        for entry in agents.iter() {
            let registered = changed.get(entry.name.as_str()).copied();
            self.find_in_agent(entry, &now, &mut found);
            self.find_unused(entry, registered, unseen_for, &mut found);
        }
        self.find_units(&agents, &mut found);
        self.find_expired(&agents, &mut found);
        Ok(found.into_response())
    }

    /// The activity of all agents, for the status. The directories of units may be on a disk that does not respond.
    pub(super) async fn activity_summary(&self) -> ActivitySummary {
        let listing = tokio::task::spawn_blocking(UnitNames::read);
        let units = tokio::time::timeout(UNITS_TIMEOUT, listing).await.ok().and_then(Result::ok);
        let activity = self.audit.activity();
        let agents = self.deps.agents.current();
        let (mut live_tokens, mut never_seen, mut absent) = (0, 0, 0);
        for entry in agents.iter() {
            let of = activity.of(entry);
            live_tokens += u64::from(of.live_tokens);
            never_seen += usize::from(of.last_seen.is_none());
            let presence = units.as_ref().and_then(|units| presence(entry, units));
            absent += usize::from(presence == Some(UnitPresence::Absent));
        }
        ActivitySummary {
            known_since: activity.known_since(),
            live_tokens,
            never_seen,
            absent_units: units.map(|_| absent),
            unregistered_units: self.unregistered_units(&agents).count(),
        }
    }

    fn agents_now(&self, units: Option<UnitNames>) -> AgentsNow {
        let (revocations, pending) = (self.deps.revocations.current(), self.deps.agents.pending_change());
        AgentsNow { units, revocations, pending }
    }

    fn activity_of(&self, entry: &AgentEntry, now: &AgentsNow) -> AgentActivity {
        let of = self.audit.activity().of(entry);
        let is_pending = || now.pending.as_ref().is_some_and(|pending| pending.changes_agent(&entry.name));
        let state = match entry {
            entry if now.revocations.blocking_entry(entry).is_some() => AgentState::Revoked,
            AgentEntry { is_draining: true, .. } => AgentState::Drained,
            _ if is_pending() => AgentState::Pending,
            _ => AgentState::Active,
        };
        AgentActivity {
            state,
            unit: now.units.as_ref().and_then(|units| presence(entry, units)),
            last_seen: of.last_seen,
            live_tokens: of.live_tokens,
            grants: entry.grants().count(),
            grants_used: of.grants_used,
        }
    }

    fn empty_response(&self, agents: &AgentSet) -> LifecycleResponse {
        LifecycleResponse {
            known_since: self.audit.activity().known_since(),
            agents: agents.len(),
            findings: Vec::new(),
            count: 0,
            left_out: 0,
        }
    }

    fn find_in_agent(&self, entry: &AgentEntry, now: &AgentsNow, found: &mut Findings) {
        let units = now.units.as_ref();
        if units.and_then(|units| presence(entry, units)) == Some(UnitPresence::Absent) {
            let unit = entry.selectors.unit.clone().unwrap_or_default();
            let what = format!(
                "this host has no file of a unit {unit}, so no process is this agent, unless a program starts the \
                 unit without a file; end the agent, or correct its file"
            );
            found.add(LifecycleFinding {
                unit: Some(unit),
                ..of_agent(LifecycleKind::UnknownUnit, entry, what)
            });
        }
        if entry.owner.is_none() {
            let what = "nobody answers for this agent; add owner to its file".to_owned();
            found.add(of_agent(LifecycleKind::NoOwner, entry, what));
        }
        if entry.is_draining {
            let live = self.audit.activity().of(entry).live_tokens;
            let what = match live {
                0 => "it is drained and has no live tokens; remove its file".to_owned(),
                live => format!(
                    "it is drained and has {live} live tokens; remove its file once they have expired"
                ),
            };
            found.add(of_agent(LifecycleKind::Drained, entry, what));
        }
        if let Some(revocation) = now.revocations.blocking_entry(entry) {
            let what = format!(
                "{} by {}; remove its file, or lift the revocation",
                revocation.description(),
                revocation.revoked_by
            );
            let since = Some(revocation.revoked_at);
            found.add(LifecycleFinding { since, ..of_agent(LifecycleKind::Revoked, entry, what) });
        }
    }

    /// `registered` is when the agent's file was changed, if that is known.
    fn find_unused(
        &self,
        entry: &AgentEntry,
        registered: Option<Timestamp>,
        unseen_for: Option<Duration>,
        found: &mut Findings,
    ) {
        // What has not been read is not known.
        let Some(known_since) = found.response.known_since else { return };
        let last_seen = self.audit.activity().of(entry).last_seen;
        let least = unseen_for.unwrap_or(MIN_UNSEEN);
        if unseen_for.is_none() && last_seen.is_some() {
            return;
        }
        let since = last_seen.unwrap_or_else(|| registered.map_or(known_since, |at| at.max(known_since)));
        if self.deps.clock.now().since(since) < least {
            found.response.left_out += usize::from(last_seen.is_none());
            return;
        }
        let what = match last_seen {
            Some(_) => "it asked for nothing since then; end it if it is not needed any more".to_owned(),
            None => {
                "it never asked for anything, as far as the audit log goes back; end it if it is not needed"
                    .to_owned()
            }
        };
        let since = Some(since);
        found.add(LifecycleFinding { since, ..of_agent(LifecycleKind::UnusedAgent, entry, what) });
    }

    fn find_units(&self, agents: &AgentSet, found: &mut Findings) {
        for unknown in self.unregistered_units(agents) {
            let what = format!(
                "its processes asked as uid {} and are no agent; register it (hostbadge agent new --unit), or stop \
                 what asks",
                unknown.uid
            );
            found.add(LifecycleFinding {
                kind: LifecycleKind::UnregisteredUnit,
                agent: None,
                role: None,
                unit: Some(unknown.unit),
                since: Some(unknown.last_seen),
                what,
            });
        }
    }

    /// Units of unknown callers that no agent names.
    fn unregistered_units(&self, agents: &AgentSet) -> impl Iterator<Item = crate::audit::UnknownUnit> {
        let units = self.audit.activity().unknown_units();
        let is_registered = |unit: &str| {
            let mut named = agents.iter().filter_map(|entry| entry.selectors.unit.as_deref());
            named.any(|named| named == unit)
        };
        let unknown: Vec<_> = units.into_iter().filter(|one| !is_registered(&one.unit)).collect();
        unknown.into_iter()
    }

    fn find_expired(&self, agents: &AgentSet, found: &mut Findings) {
        let now = self.deps.clock_state.at_decision().not_before();
        for expiry in agents.expiries().iter().take_while(|expiry| expiry.at <= now) {
            let (agent, role) = match &expiry.holder {
                ExpiryHolder::Agent(name) => (Some(name.clone()), None),
                ExpiryHolder::Role(name) => (None, Some(name.clone())),
            };
            let of = match &expiry.of {
                ExpiryOf::Grant(audience) => format!("its grant for {audience}"),
                ExpiryOf::Credential(name) => format!("its permission for the credential {name}"),
            };
            let what = format!("{of} has expired; remove it, or give it another end");
            let (kind, since) = (LifecycleKind::ExpiredGrant, Some(expiry.at));
            found.add(LifecycleFinding { kind, agent, role, unit: None, since, what });
        }
    }
}

/// What was found so far.
struct Findings {
    response: LifecycleResponse,
    all: Vec<LifecycleFinding>,
}

impl Findings {
    fn add(&mut self, finding: LifecycleFinding) {
        self.all.push(finding);
    }

    fn into_response(mut self) -> LifecycleResponse {
        // Stable, so that agents stay in alphabetical order.
        self.all.sort_by_key(|finding| finding.kind);
        let count = self.all.len();
        self.all.truncate(MAX_LISTED_FINDINGS);
        LifecycleResponse { findings: self.all, count, ..self.response }
    }
}

fn of_agent(kind: LifecycleKind, entry: &AgentEntry, what: String) -> LifecycleFinding {
    LifecycleFinding { kind, agent: Some(entry.name.to_string()), role: None, unit: None, since: None, what }
}

fn presence(entry: &AgentEntry, units: &UnitNames) -> Option<UnitPresence> {
    let there = units.has(entry.selectors.unit.as_deref()?)?;
    Some(if there { UnitPresence::There } else { UnitPresence::Absent })
}

/// When each agent's file was changed; 1970 where that is not known.
fn file_times(files: Vec<(String, PathBuf)>) -> HashMap<String, Timestamp> {
    let changed = |path: &PathBuf| {
        let changed = fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let since = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        Timestamp::from_secs(since.as_secs())
    };
    files.iter().map(|(name, path)| (name.clone(), changed(path))).collect()
}

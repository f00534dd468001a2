//! The invocations in which something was issued.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::MAX_AGENTS;
use super::file::InvocationsFile;
use super::host_files::{HostFiles, Presence};
use crate::agents::AgentName;
use crate::clock::Timestamp;
use crate::mutex::lock;
use crate::peer::{Invocation, InvocationEnd, Peer, is_invocation_of_unit};

/// The invocations in which something was issued and that have not ended. Clones share them.
#[derive(Clone)]
pub struct Invocations(Arc<Shared>);

struct Shared {
    files: HostFiles,
    table: Mutex<Table>,
    /// Wakes the watcher.
    added: Notify,
    /// Wakes who stores them.
    changed: Notify,
    fault: Mutex<Option<String>>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<Arc<str>, Entry>,
    /// Those that the watcher has not seen.
    added: Vec<Arc<str>>,
    /// Greater in each entry.
    sequence: u64,
    /// Whether the file was read.
    is_restored: bool,
}

/// An invocation.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// What ends it.
    pub end: InvocationEnd,
    /// The agents to which something was issued in it, at most [`MAX_AGENTS`].
    pub agents: Vec<AgentName>,
    /// When all that was issued has expired.
    pub until: Timestamp,
    sequence: u64,
    is_watched: bool,
}

/// What a token says about the invocation in which it was issued.
#[derive(Clone, Copy, Debug)]
pub struct TokenInvocation<'a> {
    /// The invocation.
    pub id: &'a str,
    /// The system unit.
    pub unit: Option<&'a str>,
    /// The agent.
    pub agent: &'a AgentName,
    /// When the token expires.
    pub expires: Timestamp,
}

impl Invocations {
    /// No invocations, which will be looked up in `files`.
    pub fn new(files: HostFiles) -> Invocations {
        Invocations(Arc::new(Shared {
            files,
            table: Mutex::default(),
            added: Notify::new(),
            changed: Notify::new(),
            fault: Mutex::default(),
        }))
    }

    /// Something was issued to `agent` in the invocation of `peer` that expires at `until`.
    pub fn issued(&self, peer: &Peer, agent: &AgentName, until: Timestamp) {
        if let Some(invocation) = &peer.invocation {
            self.watch(invocation, agent, until);
        }
    }

    /// Has the end of an invocation noticed on which something of `agent` depends until `until`.
    pub fn watch(&self, invocation: &Invocation, agent: &AgentName, until: Timestamp) {
        self.add(invocation, invocation.end(), std::slice::from_ref(agent), until);
    }

    /// Whether the invocation of a token has ended without the watcher having noticed it: it was not watched,
    /// because the daemon ended without storing it, or there were too many.
    pub fn has_ended(&self, token: &TokenInvocation<'_>) -> bool {
        let TokenInvocation { id, unit, agent, expires } = *token;
        let end = match self.table().by_id.get(id) {
            Some(entry) if entry.is_watched => return false,
            Some(entry) => Some(entry.end.clone()),
            None => None,
        };
        if let Some(end) = end {
            return self.0.files.presence(id, &end) == Presence::Ended;
        }
        let Some(unit) = unit.filter(|_| is_invocation_of_unit(id)) else { return false };
        let end = InvocationEnd::Unit(unit.to_owned());
        let has_ended = self.0.files.presence(id, &end) == Presence::Ended;
        // The watcher finds it ended too, and ends what else was issued in it.
        self.add(id, &end, std::slice::from_ref(agent), expires);
        has_ended
    }

    /// Adds what the file has; `None` if there was none. What was issued has expired at `until`.
    pub fn restore(&self, file: Option<InvocationsFile>, until: Timestamp) {
        for (id, end, agents) in file.into_iter().flat_map(InvocationsFile::into_invocations) {
            self.add(&id, &end, &agents, until);
        }
        self.table().is_restored = true;
        self.0.changed.notify_one();
    }

    /// Waits for an invocation or agent that is new, or an invocation that is gone.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// The content of the file; `None` before it was read.
    pub fn to_file(&self) -> Option<InvocationsFile> {
        let table = self.table();
        let entries = table.by_id.iter().map(|(id, entry)| (&**id, &entry.end, entry.agents.as_slice()));
        table.is_restored.then(|| entries.collect())
    }

    /// Why the end of some invocations is not noticed at once; `None` if it is.
    pub fn fault(&self) -> Option<String> {
        lock(&self.0.fault).clone()
    }

    /// The number of invocations.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table().by_id.len()
    }

    pub(super) fn add(&self, id: &str, end: &InvocationEnd, agents: &[AgentName], until: Timestamp) {
        let mut table = self.table();
        let table = &mut *table;
        if let Some(entry) = table.by_id.get_mut(id) {
            entry.until = entry.until.max(until);
            let before = entry.agents.len();
            entry.extend(agents);
            if entry.agents.len() > before {
                self.0.changed.notify_one();
            }
            return;
        }
        table.sequence += 1;
        let id: Arc<str> = id.into();
        let mut entry = Entry {
            end: end.clone(),
            agents: Vec::new(),
            until,
            sequence: table.sequence,
            is_watched: false,
        };
        entry.extend(agents);
        table.by_id.insert(id.clone(), entry);
        table.added.push(id);
        self.0.added.notify_one();
        self.0.changed.notify_one();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0.table)
    }
}

/// What the watcher does with them.
impl Invocations {
    pub(super) fn files(&self) -> &HostFiles {
        &self.0.files
    }

    pub(super) async fn added(&self) {
        self.0.added.notified().await;
    }

    pub(super) fn take_added(&self) -> Vec<(Arc<str>, InvocationEnd)> {
        let mut table = self.table();
        let added = std::mem::take(&mut table.added);
        let with_end = |id: Arc<str>| table.by_id.get(&id).map(|entry| (id.clone(), entry.end.clone()));
        added.into_iter().filter_map(with_end).collect()
    }

    pub(super) fn end_of(&self, id: &str) -> Option<InvocationEnd> {
        self.table().by_id.get(id).map(|entry| entry.end.clone())
    }

    pub(super) fn ids(&self) -> Vec<Arc<str>> {
        self.table().by_id.keys().cloned().collect()
    }

    pub(super) fn set_watched(&self, id: &str, is_watched: bool) {
        if let Some(entry) = self.table().by_id.get_mut(id) {
            entry.is_watched = is_watched;
        }
    }

    pub(super) fn set_fault(&self, fault: Option<String>) {
        let mut current = lock(&self.0.fault);
        if *current != fault {
            if let Some(fault) = &fault {
                tracing::warn!("{fault}");
            }
            *current = fault;
        }
    }

    pub(super) fn remove(&self, id: &str) -> Option<Entry> {
        let mut table = self.table();
        let entry = table.by_id.remove(id)?;
        if table.by_id.len() < table.by_id.capacity() / 4 {
            table.by_id.shrink_to_fit();
        }
        self.0.changed.notify_one();
        Some(entry)
    }

    /// Of the invocations for which `counts` holds, if there are more than `limit`: the oldest of the agent with the
    /// most.
    pub(super) fn in_excess(
        &self,
        limit: usize,
        counts: impl Fn(&InvocationEnd) -> bool,
    ) -> Option<Arc<str>> {
        let table = self.table();
        if table.by_id.len() <= limit {
            return None;
        }
        let mut by_agent: HashMap<Option<&AgentName>, (usize, u64, &Arc<str>)> = HashMap::new();
        let mut total = 0;
        for (id, entry) in table.by_id.iter().filter(|(_, entry)| counts(&entry.end)) {
            total += 1;
            let of_agent = by_agent.entry(entry.agents.first()).or_insert((0, u64::MAX, id));
            of_agent.0 += 1;
            if entry.sequence < of_agent.1 {
                (of_agent.1, of_agent.2) = (entry.sequence, id);
            }
        }
        if total <= limit {
            return None;
        }
        by_agent.into_values().max_by_key(|(count, ..)| *count).map(|(_, _, id)| id.clone())
    }
}

impl Entry {
    fn extend(&mut self, agents: &[AgentName]) {
        for agent in agents {
            if self.agents.len() < MAX_AGENTS && !self.agents.contains(agent) {
                self.agents.push(agent.clone());
            }
        }
    }
}

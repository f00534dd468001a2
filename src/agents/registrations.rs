//! The active agents at one moment, with the numbers of their users and groups.

use std::sync::{Arc, Weak};

use crate::names::NameTable;

use super::agent_set::AgentSet;
use super::entry::AgentEntry;
use super::index::AgentIndex;
use super::match_tag::MatchTag;
use super::selectors::TagCheck;

/// The active agents and the numbers of their users and groups, at one moment. What is derived from both is
/// made once for each moment.
#[derive(Debug, Default)]
pub struct Registrations {
    /// The active set.
    pub agents: Arc<AgentSet>,
    names: Arc<NameTable>,
    index: AgentIndex,
}

impl Registrations {
    pub(super) fn new(agents: Arc<AgentSet>, names: Arc<NameTable>) -> Registrations {
        let index = AgentIndex::new(&agents, &names);
        Registrations { agents, names, index }
    }

    /// Whether what was issued to `entry` under `tag` was issued to processes that match it now.
    pub fn check_tag(&self, entry: &AgentEntry, tag: MatchTag) -> TagCheck {
        entry.selectors.check_tag(tag, &self.names)
    }

    /// Whether nothing has changed between the two moments.
    pub fn is_same(self: &Arc<Self>, other: &Arc<Registrations>) -> bool {
        Arc::ptr_eq(self, other)
    }

    pub(super) fn names(&self) -> &NameTable {
        &self.names
    }

    pub(super) fn index(&self) -> &AgentIndex {
        &self.index
    }

    /// Whether these are of another moment than the present ones.
    pub(super) fn is_outdated(&self, agents: &Arc<AgentSet>, names: &Arc<NameTable>) -> bool {
        !Arc::ptr_eq(&self.agents, agents) || !Arc::ptr_eq(&self.names, names)
    }

    /// A reference that keeps neither the agents nor the names in memory.
    pub(super) fn downgrade(self: &Arc<Self>) -> WeakRegistrations {
        WeakRegistrations(Arc::downgrade(self))
    }
}

/// Tells whether something was derived from the present registrations.
#[derive(Debug)]
pub(super) struct WeakRegistrations(Weak<Registrations>);

impl WeakRegistrations {
    /// Whether nothing has changed since.
    pub(super) fn is_same(&self, current: &Arc<Registrations>) -> bool {
        // The memory of what a `Weak` points to is not used again while it exists.
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(current))
    }
}

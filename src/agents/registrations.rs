//! The active agents at one moment, with their sub-agents and the numbers of their users and groups.

use std::sync::{Arc, Weak};

use crate::names::NameTable;

use super::agent_set::AgentSet;
use super::delegation::Delegation;
use super::delegation_set::{DelegationSet, SubAgents};
use super::entry::AgentEntry;
use super::index::AgentIndex;
use super::match_tag::MatchTag;
use super::run_grant::RunGrant;
use super::selectors::{Selectors, TagCheck};

/// The active agents and the numbers of their users and groups, at one moment. What is derived from both is
/// made once for each moment.
#[derive(Debug, Default)]
pub struct Registrations {
    /// The active set.
    pub agents: Arc<AgentSet>,
    /// The delegations.
    pub delegations: Arc<DelegationSet>,
    sub_agents: SubAgents,
    names: Arc<NameTable>,
    index: Arc<AgentIndex>,
}

impl Registrations {
    /// These agents, delegations and numbers, with what of `previous` is the same.
    pub(super) fn new(
        agents: Arc<AgentSet>,
        delegations: Arc<DelegationSet>,
        names: Arc<NameTable>,
        previous: &Registrations,
    ) -> Registrations {
        let has_same_index = Arc::ptr_eq(&agents, &previous.agents) && Arc::ptr_eq(&names, &previous.names);
        let index = match has_same_index {
            true => previous.index.clone(),
            false => Arc::new(AgentIndex::new(&agents, &names)),
        };
        let sub_agents = SubAgents::new(&delegations, |name| agents.get(name), &names, &previous.sub_agents);
        Registrations { agents, delegations, sub_agents, names, index }
    }

    /// These agents and numbers, without delegations.
    #[cfg(test)]
    pub(super) fn of_test(agents: Arc<AgentSet>, names: Arc<NameTable>) -> Registrations {
        Registrations::new(agents, Arc::default(), names, &Registrations::default())
    }

    /// The registered agent or the sub-agent of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<AgentEntry>> {
        self.agents.get(name).or_else(|| self.sub_agents.get(name))
    }

    /// The registered agents, and then the sub-agents.
    pub fn all(&self) -> impl Iterator<Item = &Arc<AgentEntry>> {
        self.agents.iter().chain(self.sub_agents.entries())
    }

    /// Whether what was issued to `entry` under `tag` was issued to processes that match it now.
    pub fn check_tag(&self, entry: &AgentEntry, tag: MatchTag) -> TagCheck {
        entry.selectors.check_tag(tag, &self.names)
    }

    /// Whether `[run]` of the registered agent still has the users and groups by which the command was started. Without
    /// agents it is not known, and they get nothing.
    pub fn permits_run(&self, delegation: &Delegation) -> bool {
        let root = self.agents.get(delegation.agent.root());
        let is_same = |run: &RunGrant| run.tag() == delegation.root_tag;
        !self.agents.is_loaded() || root.and_then(|root| root.run.as_ref()).is_some_and(is_same)
    }

    /// The tag of what is issued to sub-agents, which have no conditions.
    pub(super) fn tag_of_sub_agents(&self) -> MatchTag {
        Selectors::default().tag(None, None)
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
    pub(super) fn is_outdated(
        &self,
        agents: &Arc<AgentSet>,
        delegations: &Arc<DelegationSet>,
        names: &Arc<NameTable>,
    ) -> bool {
        !Arc::ptr_eq(&self.agents, agents)
            || !Arc::ptr_eq(&self.delegations, delegations)
            || !Arc::ptr_eq(&self.names, names)
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

//! The delegations at one moment, by their cgroups and by the names of their sub-agents.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::delegation::Delegation;
use super::entry::AgentEntry;
use super::name::AgentName;
use super::selectors::TagCheck;
use crate::names::NameTable;
use crate::peer::PeerInfo;

/// A delegation, and whether it goes on. One that has ended stays as long as its cgroup: the processes in it do not
/// become the parent.
#[derive(Clone, Debug)]
pub struct HeldDelegation {
    /// The delegation.
    pub delegation: Arc<Delegation>,
    /// Why it has ended.
    pub ended: Option<Arc<str>>,
}

/// The delegations at one moment.
#[derive(Debug, Default)]
pub struct DelegationSet {
    by_cgroup: HashMap<Box<str>, HeldDelegation>,
    by_agent: BTreeMap<AgentName, Arc<Delegation>>,
    /// Why it is not known which cgroups are delegated; `None` if it is known.
    unknown: Option<Box<str>>,
}

/// The entries of the sub-agents of one set, with what each was made from, so that those which stay the same can be used
/// again.
#[derive(Debug, Default)]
pub(super) struct SubAgents {
    by_name: BTreeMap<AgentName, SubAgent>,
}

#[derive(Debug)]
struct SubAgent {
    delegation: Arc<Delegation>,
    entry: Arc<AgentEntry>,
}

impl DelegationSet {
    /// These delegations.
    pub fn new(held: impl IntoIterator<Item = HeldDelegation>) -> DelegationSet {
        let mut set = DelegationSet::default();
        for one in held {
            if one.ended.is_none() {
                set.by_agent.insert(one.delegation.agent.clone(), one.delegation.clone());
            }
            set.by_cgroup.insert(one.delegation.cgroup.path().into(), one);
        }
        set
    }

    /// The delegations are not known, for this reason. Agents with `[delegate]` are not identified, since a process
    /// could be one of their sub-agents, and no agents if a file has `[run]`: a command of a user could be any of that user's.
    pub fn unknown(reason: &str) -> DelegationSet {
        DelegationSet { unknown: Some(reason.into()), ..DelegationSet::default() }
    }

    /// Why it is not known which cgroups are delegated.
    pub fn unknown_reason(&self) -> Option<&str> {
        self.unknown.as_deref()
    }

    /// The delegation of a sub-agent that has not ended.
    pub fn get(&self, agent: &str) -> Option<&Arc<Delegation>> {
        self.by_agent.get(agent)
    }

    /// The innermost delegated cgroup that the process is in.
    pub(super) fn of_peer(&self, peer: &PeerInfo) -> Option<&HeldDelegation> {
        if self.by_cgroup.is_empty() {
            return None;
        }
        let mut path = peer.cgroup.as_ref()?.path();
        while !path.is_empty() {
            // A cgroup that was made again under the same name is not the one that was delegated.
            if let Some(held) = self.by_cgroup.get(path).filter(|held| held.delegation.cgroup.is_present()) {
                return Some(held);
            }
            path = &path[..path.rfind('/')?];
        }
        None
    }
}

impl SubAgents {
    /// The entries of the sub-agents of `set`. Those whose parent is not registered, may not have them, or is another one than
    /// the one that delegated, have none.
    pub(super) fn new<'a>(
        set: &DelegationSet,
        registered: impl Fn(&str) -> Option<&'a Arc<AgentEntry>>,
        names: &NameTable,
        previous: &SubAgents,
    ) -> SubAgents {
        let mut sub_agents = SubAgents::default();
        // A parent's name comes before those of its sub-agents.
        for (name, delegation) in &set.by_agent {
            let Some(parent_name) = name.lineage().nth(1) else { continue };
            let Some(root) = registered(name.root()) else { continue };
            let is_permitted = match delegation.run_by {
                Some(_) => root.run.as_ref().is_some_and(|run| run.tag() == delegation.root_tag),
                None => root.selectors.check_tag(delegation.root_tag, names) != TagCheck::Changed,
            };
            if !is_permitted {
                continue;
            }
            let parent = match name.depth() {
                1 => Some(root),
                _ => sub_agents.parent_of(delegation, parent_name),
            };
            let is_command = delegation.run_by.is_some() && name.depth() == 1;
            let may_have = |parent: &&Arc<AgentEntry>| is_command || parent.may_delegate_to(name);
            let Some(parent) = parent.filter(may_have) else { continue };
            let entry = previous.same(name, delegation, parent);
            let entry = entry.unwrap_or_else(|| Arc::new(AgentEntry::of_sub_agent(parent, delegation)));
            sub_agents.by_name.insert(name.clone(), SubAgent { delegation: delegation.clone(), entry });
        }
        sub_agents
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<AgentEntry>> {
        self.by_name.get(name).map(|sub_agent| &sub_agent.entry)
    }

    /// The parent of a sub-agent that is itself one, if it is the one that delegated.
    fn parent_of(&self, delegation: &Delegation, parent_name: &str) -> Option<&Arc<AgentEntry>> {
        let parent = self.by_name.get(parent_name)?;
        delegation.is_below(&parent.delegation).then_some(&parent.entry)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<AgentEntry>> {
        self.by_name.values().map(|sub_agent| &sub_agent.entry)
    }

    /// The entry of a sub-agent, if neither its delegation nor its parent has changed.
    fn same(
        &self,
        name: &AgentName,
        delegation: &Arc<Delegation>,
        parent: &Arc<AgentEntry>,
    ) -> Option<Arc<AgentEntry>> {
        let known = self.by_name.get(name)?;
        let has_same_parent = known.entry.parent.as_ref().is_some_and(|known| Arc::ptr_eq(known, parent));
        (Arc::ptr_eq(&known.delegation, delegation) && has_same_parent).then(|| known.entry.clone())
    }
}

//! One registered agent, as its file describes it, or one sub-agent, as it was delegated.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Diagnostic;

use super::anomaly::AgentAnomaly;
use super::credential::CredentialGrant;
use super::delegate::DelegateGrant;
use super::grant::Grant;
use super::name::AgentName;
use super::role::{Keyed, OfRole, Role, find};
use super::run_grant::RunGrant;
use super::selectors::Selectors;

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEntry {
    /// The agent's name, unique on the host.
    pub name: AgentName,
    /// Contact for the agent, such as a mail address.
    pub owner: Option<String>,
    /// Tenant that the agent belongs to; part of its SPIFFE ID.
    pub tenant: Option<String>,
    /// Which processes are this agent. A sub-agent has no conditions: the processes of its cgroup are it.
    pub selectors: Selectors,
    /// The roles that the agent's file refers to, in its order.
    pub roles: Vec<Arc<Role>>,
    /// Whether the agent gets nothing new: what it has lives out.
    pub is_draining: bool,
    /// The grants of the agent's own file, at most one for each audience. [`AgentEntry::grants`] has those of
    /// its roles too.
    pub own_grants: Vec<Grant>,
    /// The credentials of the agent's own file, each name at most once. [`AgentEntry::credentials`] has those
    /// of its roles too.
    pub own_credentials: Vec<CredentialGrant>,
    /// What happens when the agent does what it did not before.
    pub anomaly: AgentAnomaly,
    /// Whether the agent may have sub-agents, and which.
    pub delegate: Option<DelegateGrant>,
    /// Which users may start commands as sub-agents of it; `None` for a sub-agent.
    pub run: Option<RunGrant>,
    /// Of a sub-agent: the agent that delegated to it.
    pub parent: Option<Arc<AgentEntry>>,
}

/// A grant or credential of an agent, with the role that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted<'a, T> {
    /// The grant or credential.
    pub item: &'a T,
    /// The role whose file has it; `None` if it is in the agent's own file.
    pub role: Option<&'a str>,
}

/// Where an agent was read.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub file: PathBuf,
    /// The line of `[match]`.
    pub match_line: Option<usize>,
}

impl Origin {
    /// A diagnostic about the agent's conditions.
    pub fn diagnostic(&self, message: String) -> Diagnostic {
        Diagnostic { file: self.file.clone(), line: self.match_line, message }
    }
}

impl AgentEntry {
    /// Whether the agent may have a sub-agent of this name.
    pub fn may_delegate_to(&self, sub_agent: &AgentName) -> bool {
        self.delegate.as_ref().is_some_and(|delegate| sub_agent.depth() <= delegate.depth)
    }

    /// The agent, and those above it, the nearest first. The last is registered.
    pub fn lineage(&self) -> impl Iterator<Item = &AgentEntry> {
        std::iter::successors(Some(self), |entry| entry.parent.as_deref())
    }

    /// The registered agent above a sub-agent; of others itself.
    pub fn root(&self) -> &AgentEntry {
        self.lineage().last().unwrap_or(self)
    }

    /// Returns the path of the agent's SPIFFE ID on a host: `/host/<host-id>[/tenant/<tenant>]/agent/<name>`.
    pub fn spiffe_path(&self, host_id: &str) -> String {
        match &self.tenant {
            Some(tenant) => format!("/host/{host_id}/tenant/{tenant}/agent/{}", self.name),
            None => format!("/host/{host_id}/agent/{}", self.name),
        }
    }

    /// The grant for this audience: the agent's own, else that of its roles.
    pub fn grant(&self, audience: &str) -> Option<Granted<'_, Grant>> {
        self.granted(&self.own_grants, |role| role.grants(), audience)
    }

    /// Which tokens the agent may request, one grant for each audience: its own, then those of its roles that
    /// they do not replace.
    pub fn grants(&self) -> impl Iterator<Item = Granted<'_, Grant>> {
        self.all_granted(&self.own_grants, |role| role.grants())
    }

    /// What the agent may do with the credential of this name, by its own file, else by its roles.
    pub fn credential(&self, name: &str) -> Option<Granted<'_, CredentialGrant>> {
        self.granted(&self.own_credentials, |role| role.credentials(), name)
    }

    /// Which sealed credentials the agent may use, each name once: its own, then those of its roles.
    pub fn credentials(&self) -> impl Iterator<Item = Granted<'_, CredentialGrant>> {
        self.all_granted(&self.own_credentials, |role| role.credentials())
    }

    fn granted<'a, T: Keyed>(
        &'a self,
        own: &'a [T],
        of_role: impl Fn(&'a Role) -> &'a [OfRole<T>],
        key: &str,
    ) -> Option<Granted<'a, T>> {
        if let Some(item) = own.iter().find(|item| item.key() == key) {
            return Some(Granted { item, role: None });
        }
        self.roles.iter().find_map(|role| find(of_role(role), key)).map(OfRole::granted)
    }

    fn all_granted<'a, T: Keyed>(
        &'a self,
        own: &'a [T],
        of_role: impl Fn(&'a Role) -> &'a [OfRole<T>] + Copy + 'a,
    ) -> impl Iterator<Item = Granted<'a, T>> {
        let of_roles = self.roles.iter().enumerate().flat_map(move |(at, role)| {
            of_role(role).iter().filter(move |item| {
                let key = item.item.key();
                let is_in_earlier = |role: &'a Arc<Role>| find(of_role(role), key).is_some();
                !own.iter().any(|item| item.key() == key) && !self.roles[..at].iter().any(is_in_earlier)
            })
        });
        own.iter().map(|item| Granted { item, role: None }).chain(of_roles.map(OfRole::granted))
    }
}

impl<T> OfRole<T> {
    fn granted(&self) -> Granted<'_, T> {
        Granted { item: &self.item, role: Some(&self.role) }
    }
}

impl<T> std::ops::Deref for Granted<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.item
    }
}

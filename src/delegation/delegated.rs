//! What a request for a sub-agent is decided to be, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use crate::agents::{AgentName, DelegatedRight, DelegatedRights, Delegation, MatchTag};
use crate::clock::Timestamp;
use crate::peer::{Boundary, Cgroup, Invocation};
use crate::policy::DelegationPermit;

/// A delegation that has been decided and is not in force yet.
#[derive(Clone, Debug)]
pub struct NewDelegation {
    /// The sub-agent.
    pub(super) agent: AgentName,
    pub(super) cgroup: Cgroup,
    /// The invocations of the agents above it, the nearest first.
    pub(super) parent_invocations: Vec<Invocation>,
    /// The tag of the conditions that the process of the registered agent met.
    pub(super) root_tag: MatchTag,
    /// The user who starts the command, by `[run]`.
    pub(super) run_by: Option<u32>,
    /// The user whose processes are the sub-agent; `None` for all users.
    pub(super) uid: Option<u32>,
    /// What of its parent's rights it has.
    pub(super) rights: DelegatedRights,
    /// How long it exists.
    pub(super) ttl: Duration,
    /// Who keeps its processes in the cgroup.
    pub(super) boundary: Boundary,
    /// Sub-agents that the registered agent may have at once, at every depth.
    pub(super) max: u32,
}

/// A cgroup that was delegated, for the answer and the record.
#[derive(Clone, Debug)]
pub struct DelegatedCgroup {
    permit: DelegationPermit,
    delegation: Arc<Delegation>,
    spiffe_id: String,
}

impl NewDelegation {
    /// The delegation of a cgroup that is permitted.
    pub fn new(permit: &DelegationPermit, cgroup: Cgroup) -> NewDelegation {
        NewDelegation {
            agent: permit.name().clone(),
            cgroup,
            parent_invocations: permit.agent().invocations().cloned().collect(),
            root_tag: permit.agent().root_tag(),
            run_by: permit.run_by(),
            uid: Some(permit.agent().peer().uid).filter(|uid| *uid != 0),
            rights: permit.rights().clone(),
            ttl: permit.ttl(),
            boundary: permit.boundary(),
            max: permit.max(),
        }
    }

    /// The invocation of the sub-agent's processes.
    pub(super) fn invocation(&self) -> Invocation {
        Invocation::of_delegated(&self.cgroup, self.agent.as_str())
    }

    pub(super) fn delegation(&self, now: Timestamp) -> Delegation {
        let NewDelegation { agent, cgroup, parent_invocations, root_tag, run_by, uid, rights, .. } =
            self.clone();
        let (invocation, expires, boundary) = (self.invocation(), now.after(self.ttl), self.boundary);
        Delegation {
            agent,
            cgroup,
            invocation,
            parent_invocations,
            root_tag,
            run_by,
            uid,
            rights,
            expires,
            boundary,
        }
    }
}

impl DelegatedCgroup {
    /// What came of a permit.
    pub fn new(permit: DelegationPermit, delegation: Arc<Delegation>, spiffe_id: String) -> DelegatedCgroup {
        DelegatedCgroup { permit, delegation, spiffe_id }
    }

    /// Returns the decision.
    pub fn permit(&self) -> &DelegationPermit {
        &self.permit
    }

    /// Returns the delegation in force.
    pub fn delegation(&self) -> &Delegation {
        &self.delegation
    }

    /// What the record says: the sub-agent, its cgroup and its rights.
    pub fn description(&self) -> String {
        let Delegation { agent, cgroup, boundary, rights, run_by, .. } = &*self.delegation;
        let rights = match rights {
            DelegatedRights::All => "all rights of its parent".to_owned(),
            DelegatedRights::Some(rights) => {
                let text = |right: &DelegatedRight| match right {
                    DelegatedRight::Grant(grant) => {
                        let scopes = grant.scopes.as_ref().map(|scopes| format!(" ({})", scopes.join(" ")));
                        format!("{}{}", grant.audience, scopes.unwrap_or_default())
                    }
                    DelegatedRight::Credential(name) => format!("credential {name}"),
                };
                let rights: Vec<String> = rights.iter().map(text).collect();
                if rights.is_empty() { "no rights".to_owned() } else { rights.join(", ") }
            }
        };
        // Before what can be long, since a record has the beginning of its text.
        let started = run_by.map(|uid| format!(" started by uid {uid} by [run],")).unwrap_or_default();
        format!("{agent}{started} in {}, boundary {}, with {rights}", cgroup.path(), boundary.as_str())
    }

    /// Returns the SPIFFE ID of the sub-agent.
    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }
}

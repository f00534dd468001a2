//! Whom a policy concerns.

use std::fmt;

use cedar_policy::{EntityUid, Policy, PrincipalConstraint};
use serde::Serialize;

use crate::agents::AgentEntry;

use super::question::Principal;

/// Whom a policy concerns, by its scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All agents: it is evaluated for each decision.
    All,
    /// The agent of this name.
    Agent(String),
    /// The agents of this tenant.
    Tenant(String),
    /// The agents with this role.
    Role(String),
}

impl Scope {
    /// The scope of a policy's principal.
    pub(super) fn of(policy: &Policy) -> Scope {
        match policy.principal_constraint() {
            PrincipalConstraint::Eq(uid) if is_type(&uid, "Agent") => Scope::Agent(id_of(&uid)),
            PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
                match uid.type_name().basename() {
                    "Agent" => Scope::Agent(id_of(&uid)),
                    "Tenant" => Scope::Tenant(id_of(&uid)),
                    "Role" => Scope::Role(id_of(&uid)),
                    _ => Scope::All,
                }
            }
            // A principal that equals a tenant or role never exists; the check warns of it.
            PrincipalConstraint::Eq(_) | PrincipalConstraint::Any | PrincipalConstraint::Is(_) => Scope::All,
        }
    }
}

impl Scope {
    /// Whether a policy with this scope concerns the agent.
    pub fn concerns(&self, entry: &AgentEntry) -> bool {
        match self {
            Scope::All => true,
            Scope::Agent(name) => entry.name.as_str() == name,
            Scope::Tenant(tenant) => entry.tenant.as_ref() == Some(tenant),
            Scope::Role(role) => Principal::of(entry).roles.contains(&role.as_str()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::All => f.write_str("all agents"),
            Scope::Agent(name) => write!(f, "agent {name}"),
            Scope::Tenant(name) => write!(f, "tenant {name}"),
            Scope::Role(name) => write!(f, "role {name}"),
        }
    }
}

fn is_type(uid: &EntityUid, name: &str) -> bool {
    uid.type_name().basename() == name
}

fn id_of(uid: &EntityUid) -> String {
    uid.id().unescaped().to_owned()
}

//! Who may use a credential.

use std::fmt;

use crate::store::CredentialRow;

/// Who may use a credential: the agents of a tenant, the agents of no tenant, or one agent, whose own it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The tenant; empty for none. Of an agent's own credential, the agent's tenant.
    pub tenant: String,
    /// The agent whose own the credential is; empty for a shared one.
    pub agent: String,
}

impl Holder {
    /// All agents of a tenant, or of none.
    pub fn shared(tenant: &str) -> Holder {
        Holder { tenant: tenant.to_owned(), agent: String::new() }
    }

    /// One agent of a tenant, or of none.
    pub fn own(tenant: &str, agent: &str) -> Holder {
        Holder { tenant: tenant.to_owned(), agent: agent.to_owned() }
    }

    pub(super) fn of_row(row: &CredentialRow) -> Holder {
        Holder::own(&row.tenant, &row.agent)
    }
}

/// What follows the name of a credential in messages; empty for agents of no tenant.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.agent.as_str(), self.tenant.as_str()) {
            ("", "") => Ok(()),
            ("", tenant) => write!(f, " of tenant {tenant}"),
            (agent, _) => write!(f, " of agent {agent} alone"),
        }
    }
}

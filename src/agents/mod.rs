//! Which agent that is: the registry that operators write in `agents.d`.
//!
//! An agent exists because somebody registered it; nothing that a process does makes one. A set of files is taken as
//! a whole or not at all, and the last good set stays in force.

mod agent_set;
mod file;
mod grant;
mod identify;
mod nss;
mod registry;
mod selectors;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub use agent_set::{AgentChanges, AgentSet};
pub(crate) use grant::is_scope;
pub use grant::{Algorithm, Assurance, Grant, MAX_TOKEN_TTL};
pub use identify::{AuthenticatedAgent, IdentifyError};
pub use nss::NssCache;
pub use registry::{AgentRegistry, LoadStatus};
pub use selectors::{IdOrName, Selectors};

/// An agent's name: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AgentName(Arc<str>);

impl AgentName {
    pub fn parse(text: &str) -> Result<AgentName, String> {
        if is_valid_name(text) {
            return Ok(AgentName(text.into()));
        }
        Err(format!(
            "\"{}\" is no name; use a-z 0-9 . _ -, beginning with a letter or digit, at most 63 characters",
            text.escape_debug()
        ))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shape of the names of agents and tenants.
fn is_valid_name(text: &str) -> bool {
    let is_name_char =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let is_first_char = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63 && text.bytes().next().is_some_and(is_first_char) && text.bytes().all(is_name_char)
}

/// One registered agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentEntry {
    pub name: AgentName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(rename = "match")]
    pub selectors: Selectors,
    #[serde(rename = "grants")]
    pub grants: Vec<Grant>,
}

impl AgentEntry {
    /// The path of the agent's SPIFFE ID on a host: `/host/<host-id>[/tenant/<tenant>]/agent/<name>`.
    pub fn spiffe_path(&self, host_id: &str) -> String {
        match &self.tenant {
            Some(tenant) => format!("/host/{host_id}/tenant/{tenant}/agent/{}", self.name),
            None => format!("/host/{host_id}/agent/{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_syntax() {
        for valid in ["a", "0", "a.b_c-d", &"a".repeat(63)] {
            assert!(AgentName::parse(valid).is_ok(), "{valid}");
        }
        for invalid in ["", ".a", "-a", "_a", "A", "a b", "a/b", "ä", "a\0", &"a".repeat(64)] {
            assert!(AgentName::parse(invalid).is_err(), "{invalid}");
        }
    }
}

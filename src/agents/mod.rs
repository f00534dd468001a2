//! Which agent that is: the registry that operators write in `agents.d`.
//!
//! An agent exists because somebody registered it; nothing that a process does makes one. A set of files is taken as
//! a whole or not at all, and the last good set stays in force.

mod file;
mod grant;
mod identify;
mod matching;
mod names;
mod registry;
mod watch;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub(crate) use grant::is_scope;
pub use grant::{Algorithm, Assurance, Grant, LONGEST_TTL};
pub use identify::{Agent, Unidentified};
pub use matching::Match;
pub use names::Names;
pub use registry::{Changes, Registry};
pub use watch::{Agents, Loaded};

/// An agent's name: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Name(Arc<str>);

impl Name {
    pub fn parse(text: &str) -> Result<Name, String> {
        if is_name(text) {
            return Ok(Name(text.into()));
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

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shape of the names of agents and tenants.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63 && text.bytes().next().is_some_and(first) && text.bytes().all(inner)
}

/// One registered agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    pub name: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(rename = "match")]
    pub matching: Match,
    #[serde(rename = "grants")]
    pub grants: Vec<Grant>,
}

impl Entry {
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
    fn names() {
        for good in ["a", "0", "a.b_c-d", &"a".repeat(63)] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "_a", "A", "a b", "a/b", "ä", "a\0", &"a".repeat(64)] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }
}

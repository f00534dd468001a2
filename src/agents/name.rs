//! Names of agents, sub-agents and tenants.
//!
//! The name of a sub-agent is that of its parent, `/sub/` and a name of its own: `researcher/sub/fetch`. It is the end
//! of its SPIFFE ID, and no registered agent can have it.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Length of the longest name, in bytes.
const MAX_NAME_LEN: usize = 63;
/// Length of the longest SPIFFE ID, in bytes: Google's workload identity federation accepts no longer subject. The name
/// of a sub-agent is a part of it.
pub const MAX_SPIFFE_ID_LEN: usize = 127;
/// The text before the own name of a sub-agent.
const SUB: &str = "/sub/";

/// An agent's name: `[a-z0-9][a-z0-9._-]{0,62}`, for a sub-agent after that of its parent and `/sub/`. Clones share the
/// text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AgentName(Arc<str>);

impl AgentName {
    /// Parses the name of a registered agent.
    ///
    /// # Errors
    /// [`InvalidAgentName`] if the text does not have the form of a name.
    pub fn parse(text: &str) -> Result<AgentName, InvalidAgentName> {
        if is_valid_name(text) {
            return Ok(AgentName(text.into()));
        }
        Err(InvalidAgentName { text: text.to_owned() })
    }

    /// Parses the name of a registered agent or a sub-agent.
    ///
    /// # Errors
    /// [`InvalidAgentName`] if the text does not have the form of either.
    pub fn parse_any(text: &str) -> Result<AgentName, InvalidAgentName> {
        if text.len() <= MAX_SPIFFE_ID_LEN && text.split(SUB).all(is_valid_name) {
            return Ok(AgentName(text.into()));
        }
        Err(InvalidAgentName { text: text.to_owned() })
    }

    /// The name of a sub-agent of this agent. `name` is its own.
    ///
    /// # Errors
    /// [`InvalidAgentName`] if `name` does not have the form of a name, or both together are too long.
    pub fn of_sub_agent(&self, name: &str) -> Result<AgentName, InvalidAgentName> {
        if !is_valid_name(name) {
            return Err(InvalidAgentName { text: name.to_owned() });
        }
        AgentName::parse_any(&format!("{self}{SUB}{name}"))
    }

    /// Whether it is the name of a sub-agent.
    pub fn is_of_sub_agent(&self) -> bool {
        self.0.contains(SUB)
    }

    /// 0 for a registered agent, 1 for its sub-agents, and so on.
    pub fn depth(&self) -> u32 {
        depth_of(self.as_str())
    }

    /// The name, and those of the agents above it, the nearest first.
    pub fn lineage(&self) -> impl Iterator<Item = &str> {
        lineage_of(self.as_str())
    }

    /// The name of the registered agent at its beginning.
    pub fn root(&self) -> &str {
        root_agent(self.as_str())
    }

    /// Returns the name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Equal names have equal texts, so that a map of names is searched by a text.
impl std::borrow::Borrow<str> for AgentName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the registered agent at the beginning of the name of a sub-agent; of others the name itself.
pub fn root_agent(name: &str) -> &str {
    name.split_once(SUB).map_or(name, |(root, _)| root)
}

/// The name of the parent of a sub-agent, and the sub-agent's own name; `None` for the name of a registered agent.
pub fn split_sub_agent(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(SUB)
}

/// A name, and those of the agents above it, the nearest first.
pub fn lineage_of(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| split_sub_agent(name).map(|(parent, _)| parent))
}

/// How many agents are above the one of this name.
pub fn depth_of(name: &str) -> u32 {
    u32::try_from(name.matches(SUB).count()).unwrap_or(u32::MAX)
}

/// The text is not an agent name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{}\" is not a valid agent name; use a-z 0-9 . _ -, beginning with a letter or digit, \
     at most 63 characters",
    .text.escape_debug()
)]
pub struct InvalidAgentName {
    text: String,
}

/// Checks the form that names of agents and tenants share.
pub(crate) fn is_valid_name(text: &str) -> bool {
    let is_first_char = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_name_char = |b: u8| is_first_char(b) || matches!(b, b'.' | b'_' | b'-');
    text.len() <= MAX_NAME_LEN
        && text.bytes().next().is_some_and(is_first_char)
        && text.bytes().all(is_name_char)
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

    #[test]
    fn a_sub_agent_has_the_names_of_the_agents_above_it() {
        let root = AgentName::parse("a").unwrap();
        let sub = root.of_sub_agent("b").unwrap().of_sub_agent("sub").unwrap();
        assert_eq!(sub.as_str(), "a/sub/b/sub/sub");
        assert_eq!(sub.lineage().collect::<Vec<_>>(), ["a/sub/b/sub/sub", "a/sub/b", "a"]);
        assert_eq!((sub.depth(), sub.root(), sub.is_of_sub_agent()), (2, "a", true));
        assert_eq!((root.depth(), root.root(), root.is_of_sub_agent()), (0, "a", false));
        assert_eq!(AgentName::parse_any(sub.as_str()), Ok(sub.clone()));
        assert_eq!(AgentName::parse_any("a"), Ok(root.clone()));
        assert!(AgentName::parse(sub.as_str()).is_err());
        for invalid in
            ["a/b", "a/sub/", "/sub/a", "a/sub/B", "a/sub/b/c", "a/sub//sub/b", "a/sub", "a/sub/b/"]
        {
            assert!(AgentName::parse_any(invalid).is_err(), "{invalid}");
        }
        for invalid in ["", "B", "b/sub/c", "a/b", &"b".repeat(64)] {
            assert!(root.of_sub_agent(invalid).is_err(), "{invalid}");
        }
        let long = AgentName::parse(&"a".repeat(63)).unwrap();
        assert!(long.of_sub_agent(&"b".repeat(59)).is_ok() && long.of_sub_agent(&"b".repeat(60)).is_err());
    }
}

//! Names of agents and tenants.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Length of the longest name, in bytes.
const MAX_NAME_LEN: usize = 63;

/// An agent's name: `[a-z0-9][a-z0-9._-]{0,62}`. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AgentName(Arc<str>);

impl AgentName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`InvalidAgentName`] if the text does not have the form of a name.
    pub fn parse(text: &str) -> Result<AgentName, InvalidAgentName> {
        if is_valid_name(text) {
            return Ok(AgentName(text.into()));
        }
        Err(InvalidAgentName { text: text.to_owned() })
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
}

//! The figures of a review.

use serde::{Deserialize, Serialize};

/// How many rights of one kind there are. Those that are neither used nor unused are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// All.
    pub granted: u64,
    /// Those that a record shows.
    pub used: u64,
    /// Those that no record shows.
    pub unused: u64,
}

/// The rights of an agent, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Audiences.
    pub audiences: Count,
    /// Scopes, of each audience.
    pub scopes: Count,
    /// Credentials.
    pub credentials: Count,
    /// Grants whose lifetime can be shorter.
    pub shorter_lifetimes: u64,
}

/// The sums over all agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Agents.
    pub agents: u64,
    /// Agents that neither got nor were refused anything in the period, and whose use is known.
    pub not_seen: u64,
    /// Agents in the state `unused`.
    pub unused: u64,
    /// Agents in the state `narrow` whose file is not left as it is for a reason in `not_narrowed`.
    pub narrow: u64,
    /// Agents in the state `unknown`.
    pub unknown: u64,
    /// Their rights.
    pub rights: Counts,
}

impl Count {
    fn sum(self, other: Count) -> Count {
        Count {
            granted: self.granted + other.granted,
            used: self.used + other.used,
            unused: self.unused + other.unused,
        }
    }
}

impl Counts {
    /// Audiences, scopes and credentials that no record shows.
    pub fn unused(&self) -> u64 {
        self.audiences.unused + self.scopes.unused + self.credentials.unused
    }

    pub(super) fn sum(self, other: Counts) -> Counts {
        Counts {
            audiences: self.audiences.sum(other.audiences),
            scopes: self.scopes.sum(other.scopes),
            credentials: self.credentials.sum(other.credentials),
            shorter_lifetimes: self.shorter_lifetimes + other.shorter_lifetimes,
        }
    }
}

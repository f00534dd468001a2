//! The table `[delegate]`: which sub-agents an agent may have.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::config::{Diagnostic, Key, Kind, RawDuration, SourceFile};
use crate::peer::slice_path;

use super::sub_agent_limits::{self, MAX_MAX};

/// How deep sub-agents may be below an agent, if the table does not say it, and at most.
const DEFAULT_DEPTH: u32 = 1;
const MAX_DEPTH: u32 = 4;

/// Permission to have sub-agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DelegateGrant {
    /// How deep they may be: 1 for sub-agents that have none of their own, at most 4.
    pub depth: u32,
    /// How many there may be at once, at every depth: at most 256, by default 16.
    pub max: u32,
    /// The longest time until one has to be delegated again: at most 24 hours, by default 1 hour. Serialized in seconds.
    #[serde(serialize_with = "seconds")]
    pub ttl: Duration,
    /// A slice whose units may be sub-agents too, besides the cgroups below that of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDelegate {
    depth: Option<Spanned<u32>>,
    max: Option<Spanned<u32>>,
    ttl: Option<Spanned<RawDuration>>,
    slice: Option<Spanned<String>>,
}

impl RawDelegate {
    /// The keys of the table.
    pub(super) const KEYS: &[Key] = &[
        Key::optional("depth", Kind::Integer(MAX_DEPTH)),
        Key::optional("max", Kind::Integer(MAX_MAX)),
        Key::optional("ttl", Kind::Duration("\"1h\"")),
        Key::optional("slice", Kind::Text("\"agents-researcher.slice\"")),
    ];

    /// Checks the table and appends its faults.
    pub(super) fn validate(self, source: &SourceFile, faults: &mut Vec<Diagnostic>) -> DelegateGrant {
        let depth = sub_agent_limits::number(self.depth, "depth", DEFAULT_DEPTH, MAX_DEPTH, source, faults);
        let max = sub_agent_limits::max(self.max, source, faults);
        let ttl = sub_agent_limits::ttl(self.ttl, source, faults);
        let slice = self.slice.map(|slice| {
            if slice_path(slice.get_ref()).is_none() {
                let message = "slice must be the name of a slice, such as \"agents-researcher.slice\"";
                faults.push(source.diagnostic(slice.span(), message));
            }
            slice.into_inner()
        });
        DelegateGrant { depth, max, ttl, slice }
    }
}

impl DelegateGrant {
    /// Whether everything that this permits is permitted by `other`.
    pub(super) fn is_within(&self, other: &DelegateGrant) -> bool {
        let is_same_place = self.slice.is_none() || self.slice == other.slice;
        self.depth <= other.depth && self.max <= other.max && self.ttl <= other.ttl && is_same_place
    }
}

fn seconds<S: serde::Serializer>(ttl: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(ttl.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::agent_set::tests::read;
    use super::*;

    fn delegate(table: &str) -> Result<DelegateGrant, String> {
        let text = format!("name = \"a\"\n[match]\nuser = 0\n[delegate]\n{table}");
        read(&[("a.toml", &text)]).map(|agents| agents.get("a").unwrap().delegate.clone().unwrap())
    }

    #[test]
    fn an_empty_table_permits_sixteen_sub_agents_for_an_hour() {
        let expected = DelegateGrant { depth: 1, max: 16, ttl: Duration::from_secs(3600), slice: None };
        assert_eq!(delegate(""), Ok(expected.clone()));
        let wider = delegate("depth = 2\nmax = 20\nttl = \"2h\"\nslice = \"agents-a.slice\"\n").unwrap();
        assert!(expected.is_within(&wider) && !wider.is_within(&expected) && wider.is_within(&wider));
        let agents = read(&[("a.toml", "name = \"a\"\n[match]\nuser = 0\n")]).unwrap();
        assert_eq!(agents.get("a").unwrap().delegate, None);
    }

    #[test]
    fn values_beyond_the_limits_are_faults() {
        for (table, expected) in [
            ("depth = 0\n", "depth must be 1 to 4"),
            ("depth = 5\n", "depth must be"),
            ("max = 0\n", "max must be 1 to 256"),
            ("max = 257\n", "max must be"),
            ("ttl = \"25h\"\n", "ttl must be a duration of at least 1s and at most 24h"),
            ("ttl = 0\n", "ttl must be"),
            ("slice = \"a.service\"\n", "slice must be the name of a slice"),
        ] {
            let fault = delegate(table).unwrap_err();
            assert!(fault.contains(expected), "{table}: {fault}");
        }
    }
}

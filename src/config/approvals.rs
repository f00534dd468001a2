//! The table `[approvals]`: how long requests wait for an administrator, and how long an approval counts.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::durations::{DAY, HOUR, bounded_duration};
use super::schema::{Key, Kind};

/// The shortest of each time: one in which a person can read what is asked.
const SHORTEST: Duration = Duration::from_secs(10);

/// The table `[approvals]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalsSection {
    /// How long a request waits for an administrator, and how long a refusal is remembered: 10 s to 24 h. Default: 10
    /// min.
    #[serde(deserialize_with = "up_to_a_day")]
    pub wait: Duration,
    /// How soon the agent has to use an approval of one request: 10 s to 1 h. Default: 5 min.
    #[serde(deserialize_with = "up_to_an_hour")]
    pub use_within: Duration,
    /// How long an approval of a task counts, unless the invocation of the agent ends before: 10 s to 7 d. Default: 8
    /// h.
    #[serde(deserialize_with = "up_to_a_week")]
    pub task: Duration,
}

impl ApprovalsSection {
    /// The keys of the table.
    pub(super) const KEYS: &'static [Key] = &[
        Key::optional("wait", Kind::Duration("\"10m\"")),
        Key::optional("use_within", Kind::Duration("\"5m\"")),
        Key::optional("task", Kind::Duration("\"8h\"")),
    ];
}

impl Default for ApprovalsSection {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        ApprovalsSection { wait: minutes(10), use_within: minutes(5), task: HOUR * 8 }
    }
}

fn up_to_a_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, SHORTEST, DAY, "from \"10s\" to \"24h\", such as \"10m\"")
}

fn up_to_an_hour<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, SHORTEST, HOUR, "from \"10s\" to \"1h\", such as \"5m\"")
}

fn up_to_a_week<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, SHORTEST, DAY * 7, "from \"10s\" to \"7d\", such as \"8h\"")
}

#[cfg(test)]
mod tests {
    use super::super::tests::read_config;
    use super::*;

    #[test]
    fn times_have_defaults_and_bounds() {
        let table = read_config("[approvals]\nwait = \"1m\"\ntask = \"2d\"\n").unwrap().approvals;
        let default = ApprovalsSection::default();
        assert_eq!(table, ApprovalsSection { wait: Duration::from_secs(60), task: DAY * 2, ..default });
        for (text, expected) in [
            ("wait = \"9s\"", "from \"10s\" to \"24h\""),
            ("use_within = \"2h\"", "from \"10s\" to \"1h\""),
            ("task = \"8d\"", "from \"10s\" to \"7d\""),
            ("tasks = \"1d\"", "did you mean `task`?"),
        ] {
            let error = read_config(&format!("[approvals]\n{text}\n")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

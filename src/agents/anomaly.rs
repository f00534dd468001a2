//! The table `[anomaly]` of an agent's file.

use std::sync::Arc;

use crate::config::{AnomalyActions, Diagnostic, RawAgentAnomaly, SourceFile};

use super::hours::Hours;

/// What happens when an agent does what it did not before, where the agent's file says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentAnomaly {
    /// What the rules do.
    pub actions: AnomalyActions,
    /// The hours at which the agent is expected to be used. It may be used at others.
    pub stated_hours: Option<Arc<Hours>>,
}

impl AgentAnomaly {
    pub(super) fn validate(
        raw: RawAgentAnomaly,
        source: &SourceFile,
        faults: &mut Vec<Diagnostic>,
    ) -> AgentAnomaly {
        let actions = raw.actions();
        let stated_hours = raw.stated_hours.and_then(|hours| match Hours::parse(hours.get_ref()) {
            Ok(parsed) => Some(Arc::new(parsed)),
            Err(e) => {
                faults.push(source.diagnostic(hours.span(), e.to_string()));
                None
            }
        });
        AgentAnomaly { actions, stated_hours }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::AgentSet;
    use crate::config::{AnomalyAction, AnomalyRule};

    #[test]
    fn the_table_of_an_agent_is_read_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let read = |table: &str| {
            let text = format!("name = \"a\"\n[match]\nuser = 0\n[anomaly]\n{table}\n");
            fs::write(dir.path().join("a.toml"), text).unwrap();
            AgentSet::read(dir.path(), 35)
        };
        let agents = read("canary = \"alert\"\nstated_hours = \"Mon-Fri 08:00-18:00 UTC\"").unwrap();
        let anomaly = &agents.get("a").unwrap().anomaly;
        assert_eq!(anomaly.actions.get(AnomalyRule::Canary), Some(AnomalyAction::Alert));
        assert_eq!(anomaly.actions.get(AnomalyRule::Hours), None);
        assert!(anomaly.stated_hours.is_some());
        for table in ["stated_hours = \"always\"", "learn = \"7d\"", "canary = \"no\""] {
            assert!(read(table).is_err(), "{table}");
        }
    }
}

//! The table `[anomaly]` of an agent's file.

use std::sync::Arc;

use crate::config::{AnomalyAction, AnomalyActions, AnomalyRule, Diagnostic, RawAgentAnomaly, SourceFile};

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

    /// The keys of the table that differ from `old`, each with whether less may be found, or less may follow from it,
    /// than before.
    pub(super) fn changes_since(&self, old: &AgentAnomaly) -> Vec<(&'static str, bool)> {
        let actions = AnomalyRule::ALL.iter().filter_map(|rule| {
            let (before, now) = (old.actions.get(*rule), self.actions.get(*rule));
            (before != now).then(|| (rule.name(), may_be_weaker(before, now)))
        });
        let hours = (self.stated_hours != old.stated_hours).then(|| {
            let is_within = match (&old.stated_hours, &self.stated_hours) {
                (Some(before), Some(now)) => now.are_within(before),
                // Stated hours stand in place of learnt ones, which may be more or fewer.
                _ => false,
            };
            ("stated_hours", !is_within)
        });
        actions.chain(hours).collect()
    }
}

/// Without an action in the agent's file, the configuration decides, which may say any.
fn may_be_weaker(before: Option<AnomalyAction>, now: Option<AnomalyAction>) -> bool {
    let strongest_before = before.unwrap_or(AnomalyAction::Suspend);
    let weakest_now = now.unwrap_or(AnomalyAction::Off);
    weakest_now < strongest_before
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

    /// The keys that change from one table to another, and how many of them may do less.
    fn changed(old: &str, new: &str) -> (Vec<&'static str>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let read = |table: &str| {
            let text = format!("name = \"a\"\n[match]\nuser = 0\n[anomaly]\n{table}\n");
            fs::write(dir.path().join("a.toml"), text).unwrap();
            AgentSet::read(dir.path(), 35).unwrap().get("a").unwrap().anomaly.clone()
        };
        let changes = read(new).changes_since(&read(old));
        let weaker = changes.iter().filter(|change| change.1).count();
        (changes.into_iter().map(|change| change.0).collect(), weaker)
    }

    #[test]
    fn a_rule_that_may_do_less_than_before_is_weaker() {
        let [off, alert, suspend] =
            ["off", "alert", "suspend"].map(|action| format!("canary = \"{action}\""));
        // Without the key, the configuration decides, which may say any.
        for (weak, strong) in [(&off, &alert), (&off, &suspend), (&alert, &suspend)] {
            assert_eq!(changed(strong, weak), (vec!["canary"], 1), "{strong} to {weak}");
            assert_eq!(changed(weak, strong), (vec!["canary"], 0), "{weak} to {strong}");
        }
        assert_eq!([&off, &alert, &suspend].map(|action| changed("", action).1), [1, 1, 0]);
        assert_eq!([&off, &alert, &suspend].map(|action| changed(action, "").1), [0, 1, 1]);
        let hours = |end: u32| format!("stated_hours = \"Mon 08:00-{end}:00 UTC\"");
        assert_eq!(changed(&hours(10), &hours(11)), (vec!["stated_hours"], 1));
        assert_eq!(changed(&hours(11), &hours(10)), (vec!["stated_hours"], 0));
        assert_eq!((changed("", &hours(10)).1, changed(&hours(10), "").1), (1, 1));
        let both = changed("refusals = \"suspend\"\ncanary = \"alert\"", "canary = \"off\"");
        assert_eq!(both, (vec!["refusals", "canary"], 2));
        assert_eq!(changed(&hours(10), &hours(10)), (vec![], 0));
    }
}

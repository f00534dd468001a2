//! What a reload changes.

use super::agent_set::AgentSet;
use super::beside::EvaluatedAttributes;
use super::rights_changes::RightsDiff;

/// Names of the agents that a reload added, changed or removed, each sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AgentChanges {
    /// Agents that only the new set has.
    pub added: Vec<String>,
    /// Agents that both sets have with different content.
    pub changed: Vec<String>,
    /// Agents that only the previous set had.
    pub removed: Vec<String>,
    /// What changes in the rights of agents.
    pub rights: RightsDiff,
}

/// Names of one kind that a record, a response and a log entry list. Their number is always given.
pub const MAX_LISTED_NAMES: usize = 10;

impl AgentChanges {
    /// Whether one of the lists has more names than are listed.
    pub fn is_long(&self) -> bool {
        [&self.added, &self.changed, &self.removed].iter().any(|names| names.len() > MAX_LISTED_NAMES)
    }
}

impl AgentSet {
    /// Compares this set with the previous one. `evaluates` says what the policies evaluate of an agent.
    pub fn changes_since(&self, previous: &AgentSet, evaluates: EvaluatedAttributes) -> AgentChanges {
        let rights = RightsDiff::between(previous, self, evaluates);
        let mut changes = AgentChanges { rights, ..AgentChanges::default() };
        for entry in self.iter() {
            let name = entry.name.as_str();
            match previous.get(name) {
                None => changes.added.push(name.to_owned()),
                Some(old) if old != entry => changes.changed.push(name.to_owned()),
                Some(_) => {}
            }
        }
        let removed = previous.iter().filter(|entry| self.get(entry.name.as_str()).is_none());
        changes.removed = removed.map(|entry| entry.name.to_string()).collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set of agents with these names and users.
    fn read(agents: &[(&str, u32)]) -> AgentSet {
        let dir = tempfile::tempdir().unwrap();
        for (name, user) in agents {
            let text = format!("name = \"{name}\"\n[match]\nuser = {user}\n");
            std::fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
        }
        AgentSet::read(dir.path(), 35).unwrap()
    }

    #[test]
    fn lists_added_changed_and_removed() {
        let before = read(&[("a", 0), ("b", 0)]);
        let after = read(&[("a", 1), ("c", 0)]);
        let changes = after.changes_since(&before, EvaluatedAttributes::default());
        assert_eq!(
            (changes.added, changes.changed, changes.removed),
            (vec!["c".into()], vec!["a".into()], vec!["b".into()])
        );
    }
}

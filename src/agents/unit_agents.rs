//! The agents of a unit, for the service manager that loads credentials before the unit's program runs.
//!
//! At that moment nothing is known of the program, so agents with conditions on it are not among them.

use crate::names::Resolution;

use super::agent_set::AgentSet;
use super::entry::AgentEntry;
use super::registrations::Registrations;
use super::selectors::Selectors;

impl Selectors {
    /// Whether a condition is on what the process executes, or of another kind than user, group and unit.
    pub fn has_conditions_on_program(&self) -> bool {
        let others = Selectors { user: None, group: None, unit: None, ..self.clone() };
        others != Selectors::default()
    }
}

impl AgentEntry {
    /// Whether a service manager may load credentials of this agent for `unit`, if the unit's user and group
    /// are the agent's.
    pub fn is_loadable_for(&self, unit: &str) -> bool {
        self.selectors.unit.as_deref() == Some(unit) && !self.selectors.has_conditions_on_program()
    }
}

impl AgentSet {
    /// Whether an agent of `unit` has a condition on user or group.
    pub fn has_user_conditions_on(&self, unit: &str) -> bool {
        let has_user = |selectors: &Selectors| selectors.user.is_some() || selectors.group.is_some();
        self.iter().any(|entry| entry.is_loadable_for(unit) && has_user(&entry.selectors))
    }

    /// The first agent of `unit` by name that has conditions on the program.
    pub fn with_conditions_on_program(&self, unit: &str) -> Option<&AgentEntry> {
        let of_unit = |entry: &&AgentEntry| entry.selectors.unit.as_deref() == Some(unit);
        self.iter()
            .map(|entry| &**entry)
            .filter(of_unit)
            .find(|entry| entry.selectors.has_conditions_on_program())
    }
}

impl Registrations {
    /// The numbers of groups that a unit file names. Of groups by name, only those of agents' conditions are
    /// known; others decide nothing.
    pub fn group_numbers(&self, groups: &[String]) -> Vec<u32> {
        let number = |group: &String| match group.parse() {
            Ok(number) => Some(number),
            Err(_) => match self.names().group(group).current {
                Resolution::Number(number) => Some(number),
                Resolution::Missing | Resolution::Unknown => None,
            },
        };
        groups.iter().filter_map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::IdOrName;

    #[test]
    fn conditions_on_the_program_are_told_from_those_on_user_group_and_unit() {
        let unit = Selectors {
            user: Some(IdOrName::Id(1)),
            group: Some(IdOrName::Id(1)),
            unit: Some("a.service".into()),
            ..Selectors::default()
        };
        assert!(!unit.has_conditions_on_program());
        assert!(Selectors { exe: Some("/bin/a".into()), ..unit.clone() }.has_conditions_on_program());
        assert!(Selectors { measured: true, ..unit }.has_conditions_on_program());
    }
}

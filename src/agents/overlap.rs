//! What is valid in a set of agents and probably not meant: users that do not exist, and agents that match
//! the same processes.

use std::collections::HashMap;

use crate::config::Diagnostic;
use crate::names::{Name, NameTable, Resolution};

use super::entry::{AgentEntry, Origin};
use super::selectors::{IdOrName, Selectors};

/// The conditions of an agent as texts, with numbers for the names that are known.
type Conditions = Vec<String>;

/// Warnings about the users and groups of the agents, and about agents whose processes are also other agents.
pub(super) fn warnings<'a>(
    agents: impl Iterator<Item = (&'a AgentEntry, &'a Origin)> + Clone,
    names: &NameTable,
) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    let mut agents_by_conditions: HashMap<Conditions, Vec<&AgentEntry>> = HashMap::new();
    for (entry, _) in agents.clone() {
        agents_by_conditions.entry(conditions(&entry.selectors, names)).or_default().push(entry);
    }
    for (entry, origin) in agents {
        let mut warn = |message: String| warnings.push(origin.diagnostic(message));
        for name in entry.selectors.names() {
            if names.get(&name).current == Resolution::Missing {
                warn(missing_name(&name));
            }
        }
        let own = conditions(&entry.selectors, names);
        let same = agents_by_conditions.get(&own).map(Vec::as_slice).unwrap_or_default();
        // Each pair once.
        for other in same.iter().filter(|other| other.name > entry.name) {
            warn(format!(
                "agents \"{}\" and \"{}\" have the same conditions: each of their processes has to name one \
                 of them in every request; give them different users or units",
                entry.name, other.name
            ));
        }
        for wider in subsets(&own).iter().filter_map(|subset| agents_by_conditions.get(subset)).flatten() {
            warn(format!(
                "every process that is agent \"{}\" is agent \"{}\" too, whose conditions are a part of \
                 these: it has to name one of them in every request; give them different users or units",
                entry.name, wider.name
            ));
        }
    }
    warnings
}

fn missing_name(name: &Name) -> String {
    let exception = match name {
        Name::User(_) => "; the user of a unit with DynamicUser= exists while the unit runs",
        Name::Group(_) => "",
    };
    format!("there is no {name}, so no process is this agent until there is{exception}")
}

fn conditions(selectors: &Selectors, names: &NameTable) -> Conditions {
    let number = |condition: &IdOrName, look_up: &dyn Fn(&str) -> Resolution| match condition {
        IdOrName::Id(number) => number.to_string(),
        IdOrName::Name(name) => match look_up(name) {
            Resolution::Number(number) => number.to_string(),
            Resolution::Missing | Resolution::Unknown => format!("{name:?}"),
        },
    };
    let user = selectors.user.as_ref().map(|user| number(user, &|name| names.user(name).current));
    let group = selectors.group.as_ref().map(|group| number(group, &|name| names.group(name).current));
    let given = [
        ("user", user),
        ("group", group),
        ("unit", selectors.unit.clone()),
        ("exe", selectors.exe.as_ref().map(|exe| format!("{exe:?}"))),
        ("exe_sha256", selectors.exe_sha256.map(|digest| digest.to_string())),
        ("measured", selectors.measured.then(|| "true".to_owned())),
    ];
    given.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect()
}

/// All selections of some of the conditions, but not of all of them: at most 62.
fn subsets(conditions: &Conditions) -> Vec<Conditions> {
    let is_chosen = |mask: usize, at: usize| mask & (1 << at) != 0;
    let choose = |mask: usize| {
        conditions
            .iter()
            .enumerate()
            .filter(|(at, _)| is_chosen(mask, *at))
            .map(|(_, text)| text.clone())
            .collect()
    };
    (1..(1_usize << conditions.len()) - 1).map(choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::AgentSet;
    use crate::names::Names;
    use std::time::Duration;

    /// Warnings about agents with these conditions, named a0, a1 and so on.
    fn warnings_about(tables: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (index, table) in tables.iter().enumerate() {
            let text = format!("name = \"a{index}\"\n[match]\n{table}\n");
            std::fs::write(dir.path().join(format!("{index}.toml")), text).unwrap();
        }
        let agents = AgentSet::read(dir.path(), 35).unwrap();
        let names = Names::start([]).unwrap();
        names.resolve(&agents.user_and_group_names(), Duration::from_secs(30));
        let all = warnings(agents.with_origins(), &names.table());
        all.iter().map(|one| one.to_string().replace(dir.path().to_str().unwrap(), "")).collect()
    }

    #[test]
    fn agents_that_match_the_same_processes_are_named() {
        assert_eq!(warnings_about(&["user = 1", "user = 2", "user = 3\nunit = 'a.service'"]), [""; 0]);
        let same = warnings_about(&["user = 0", "user = 'root'", "user = 1"]);
        assert_eq!(same.len(), 1, "{same:?}");
        assert!(
            same[0].starts_with("/0.toml:2: agents \"a0\" and \"a1\" have the same conditions"),
            "{same:?}"
        );
        let wider = warnings_about(&["user = 0", "user = 0\nexe = '/bin/x'", "user = 1\nexe = '/bin/x'"]);
        assert_eq!(wider.len(), 1, "{wider:?}");
        assert!(
            wider[0].starts_with("/1.toml:2: every process that is agent \"a1\" is agent \"a0\" too"),
            "{wider:?}"
        );
        let two = warnings_about(&["user = 0\nunit = 'a.service'", "user = 0", "unit = 'a.service'"]);
        assert_eq!(two.len(), 2, "{two:?}");
    }

    #[test]
    fn users_and_groups_that_do_not_exist_are_named() {
        let missing = warnings_about(&["user = 'no-such-user'\ngroup = 'no-such-group'"]);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(
            missing[0].starts_with("/0.toml:2: there is no user \"no-such-user\", so no process"),
            "{missing:?}"
        );
        assert!(missing[1].starts_with("/0.toml:2: there is no group \"no-such-group\""), "{missing:?}");
        assert_eq!(warnings_about(&["user = 'root'\ngroup = 'root'"]), [""; 0]);
    }
}

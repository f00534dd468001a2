//! What is valid in a set of agents and probably not meant: users that do not exist, and agents that match
//! the same processes.

use std::collections::{BTreeSet, HashMap};

use crate::config::Diagnostic;
use crate::names::{Name, NameTable, Resolution};

use super::entry::{AgentEntry, Origin};
use super::lint_name::Lint;
use super::run_grant::RunGrant;
use super::selectors::{IdOrName, Selectors};

/// Agents that one warning names.
const MAX_NAMED: usize = 5;

/// The conditions of an agent: for each key a number that stands for the value, 0 where there is none. Names
/// whose numbers are known are compared by these.
type Conditions = Vec<u32>;

/// Warnings about the users and groups of the agents, and about agents whose processes are also other agents:
/// at most `max`. The time is proportional to the number of agents.
pub(super) fn warnings<'a>(
    agents: impl Iterator<Item = (&'a AgentEntry, &'a Origin)>,
    names: &NameTable,
    max: usize,
) -> Vec<Diagnostic> {
    let agents: Vec<_> = agents.collect();
    let mut values = HashMap::new();
    let conditions: Vec<Conditions> =
        agents.iter().map(|(entry, _)| conditions(&entry.selectors, names, &mut values)).collect();
    let mut agents_by_conditions: HashMap<&[u32], Vec<&AgentEntry>> = HashMap::new();
    for ((entry, _), conditions) in agents.iter().zip(&conditions) {
        agents_by_conditions.entry(conditions).or_default().push(entry);
    }
    // Agents have few different sets of keys, and each other set has as many subsets as it likes.
    let shapes: BTreeSet<Vec<bool>> = conditions.iter().map(|one| shape(one)).collect();
    let mut warnings = Vec::new();
    for ((entry, origin), own) in agents.iter().zip(&conditions) {
        let mut warn = |message: String| warnings.push(origin.diagnostic(message));
        for name in entry.selectors.names().chain(entry.run.iter().flat_map(RunGrant::names)) {
            if names.get(&name).current == Resolution::Missing {
                warn(missing_name(&name));
            }
        }
        let same = agents_by_conditions.get(own.as_slice()).map(Vec::as_slice).unwrap_or_default();
        // Once for all of them.
        if same.len() > 1 && same.first().is_some_and(|first| first.name == entry.name) {
            warn(Lint::SameProcesses.about(format_args!(
                "agents {} have the same conditions: each of their processes has to name one of them in \
                 every request; give them different users or units",
                list(same)
            )));
        }
        let parts = shapes.iter().filter_map(|shape| part(own, shape));
        let mut wider: Vec<&AgentEntry> =
            parts.filter_map(|part| agents_by_conditions.get(part.as_slice())).flatten().copied().collect();
        wider.sort_by(|one, other| one.name.cmp(&other.name));
        if !wider.is_empty() {
            let agent = if wider.len() == 1 { "agent" } else { "agents" };
            warn(Lint::IncludedProcesses.about(format_args!(
                "every process that is agent \"{}\" is {agent} {} too, whose conditions are a part of these: it \
                 has to name one of them in every request; give them different users or units",
                entry.name,
                list(&wider)
            )));
        }
        if warnings.len() >= max {
            break;
        }
    }
    warnings.truncate(max);
    warnings
}

/// The first names, and the number of the others.
pub(super) fn list(agents: &[&AgentEntry]) -> String {
    let mut names: Vec<String> =
        agents.iter().take(MAX_NAMED).map(|one| format!("\"{}\"", one.name)).collect();
    let last = match agents.len().saturating_sub(MAX_NAMED) {
        0 => names.pop().unwrap_or_default(),
        more => format!("{more} more"),
    };
    if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) }
}

fn missing_name(name: &Name) -> String {
    let exception = match name {
        Name::User(_) => "; the user of a unit with DynamicUser= exists while the unit runs",
        Name::Group(_) => "",
    };
    Lint::UnknownUser
        .about(format_args!("there is no {name}, so no process is this agent until there is{exception}"))
}

/// `values` has a number for each value so far.
fn conditions(
    selectors: &Selectors,
    names: &NameTable,
    values: &mut HashMap<(&'static str, String), u32>,
) -> Conditions {
    let number = |condition: &IdOrName, resolution: Option<Resolution>| match (condition, resolution) {
        (_, Some(Resolution::Number(number))) => number.to_string(),
        (IdOrName::Id(number), _) => number.to_string(),
        (IdOrName::Name(name), _) => format!("{name:?}"),
    };
    let given = [
        ("user", selectors.user.as_ref().map(|user| number(user, selectors.uid(names)))),
        ("group", selectors.group.as_ref().map(|group| number(group, selectors.gid(names)))),
        ("unit", selectors.unit.clone()),
        ("exe", selectors.exe.as_ref().map(|exe| format!("{exe:?}"))),
        ("exe_sha256", selectors.exe_sha256.map(|digest| digest.to_string())),
        ("measured", selectors.measured.then(|| "true".to_owned())),
        ("user_unit", selectors.user_unit.clone()),
        ("session", selectors.session.then(|| "true".to_owned())),
        ("container", selectors.container.clone()),
        ("files", selectors.files_sha256().map(|digest| digest.to_string())),
        ("unit_sha256", selectors.unit_sha256.map(|digest| digest.to_string())),
    ];
    let value_number = |(key, value): (&'static str, Option<String>)| {
        let Some(value) = value else { return 0 };
        let next = u32::try_from(values.len() + 1).unwrap_or(u32::MAX);
        *values.entry((key, value)).or_insert(next)
    };
    given.into_iter().map(value_number).collect()
}

/// Which keys an agent has.
fn shape(conditions: &[u32]) -> Vec<bool> {
    conditions.iter().map(|value| *value != 0).collect()
}

/// Those of the conditions whose keys are in `shape`, if these are some of them and not all.
fn part(conditions: &[u32], shape: &[bool]) -> Option<Conditions> {
    let own = |(value, wanted): (&u32, &bool)| if *wanted { *value } else { 0 };
    let part: Conditions = conditions.iter().zip(shape).map(own).collect();
    let has_all_wanted = part.iter().zip(shape).all(|(value, wanted)| (*value != 0) == *wanted);
    (has_all_wanted && part != conditions).then_some(part)
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
        let all = warnings(agents.with_origins(), &names.table(), 1000);
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
        assert_eq!(two.len(), 1, "{two:?}");
        assert!(two[0].contains("is agents \"a1\" and \"a2\" too"), "{two:?}");
    }

    #[test]
    fn many_agents_of_the_same_conditions_are_one_warning_with_the_first_names() {
        let tables = vec!["user = 0"; 200];
        let same = warnings_about(&tables);
        assert_eq!(same.len(), 1, "{same:?}");
        assert!(
            same[0].contains("agents \"a0\", \"a1\", \"a10\", \"a100\", \"a101\" and 195 more have"),
            "{same:?}"
        );
        let narrower = warnings_about(&[&tables[..], &["user = 0\nunit = 'a.service'"]].concat());
        assert_eq!(narrower.len(), 2, "{narrower:?}");
        assert!(
            narrower[1].contains("is agents \"a0\", \"a1\", \"a10\", \"a100\", \"a101\" and 195 more too"),
            "{narrower:?}"
        );
        assert!(narrower.iter().all(|one| one.len() < 400));
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

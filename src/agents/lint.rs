//! What is valid in a file of `agents.d` and probably not meant.

use super::entry::AgentEntry;
use super::grant::Grant;
use super::lint_name::Lint;
use super::selectors::Selectors;
use super::unit_name;

/// What is valid in an agent's file and probably not meant, with what to do about it.
pub(super) fn warnings(entry: &AgentEntry) -> Vec<String> {
    let selectors = &entry.selectors;
    let mut warnings: Vec<String> = several_users(selectors).into_iter().collect();
    let units = [&selectors.unit, &selectors.user_unit].into_iter().flatten();
    let escapes = units.filter_map(|unit| unit_name::warning(unit));
    warnings.extend(escapes.map(|text| Lint::UnitEscape.about(text)));
    warnings.extend(users_own(selectors));
    if !selectors.files.is_empty() && selectors.unit.is_none() {
        warnings.push(Lint::FilesAlone.about(
            "files says that these files of the host are unchanged, and not that the process runs them: the user \
             can start any other script; add the unit that starts this one",
        ));
    }
    let exe = selectors.exe.as_ref().map(|exe| exe.to_string_lossy()).unwrap_or_default();
    if exe.contains(['*', '?', '[']) {
        let text = format!("exe = {exe:?} is compared as it is: *, ? and [] stand for themselves");
        warnings.push(Lint::LiteralPattern.about(text));
    }
    warnings.extend(patterns(&entry.own_grants));
    warnings
}

/// Conditions that the user itself can meet with any program.
fn users_own(selectors: &Selectors) -> Vec<String> {
    let mut warnings = Vec::new();
    if selectors.user_unit.is_some() {
        warnings.push(Lint::UserUnit.about(
            "user_unit is no stronger than user: the user can run any program in a unit of this name; only a system \
             unit (unit) keeps the user's other programs out",
        ));
    }
    if selectors.session {
        warnings.push(Lint::Session.about(
            "session is no stronger than user: all programs of a login are in it, and the user can log in at any \
             time",
        ));
    }
    match (&selectors.container, &selectors.user) {
        (Some(_), Some(_)) => warnings.push(Lint::UserContainer.about(
            "container is no stronger than user if the user runs the container: the user can run any program in \
             a cgroup with this id; a container that root runs keeps other programs out",
        )),
        (Some(_), None) if selectors.group.is_none() && selectors.unit.is_none() => warnings.push(Lint::ContainerAlone.about(
            "container alone admits the processes of every user in the container, also what they start; add \
             user, or give the container one program",
        )),
        _ => {}
    }
    if selectors.session && selectors.user_unit.is_some() {
        let text = "no process is in a login session and in a unit of the user's service manager";
        warnings.push(Lint::NeverMatches.about(text));
    }
    warnings
}

/// Audiences and scopes that look like patterns.
pub(super) fn patterns<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> impl Iterator<Item = String> {
    let literal = |lint: Lint, text: &String| {
        let effect = "is compared as it is: * stands for itself; write each audience and scope";
        text.contains('*').then(|| lint.about(format_args!("{text:?} {effect}")))
    };
    grants.into_iter().flat_map(move |grant| {
        let scopes = grant.scopes.iter().filter_map(move |scope| literal(Lint::LiteralPattern, scope));
        literal(Lint::WildcardAudience, &grant.audience).into_iter().chain(scopes)
    })
}

/// Why processes of several users may be this agent.
fn several_users(selectors: &Selectors) -> Option<String> {
    let (None, None, Some(unit)) = (&selectors.user, &selectors.group, &selectors.unit) else { return None };
    if is_multi_user_unit(unit) {
        return Some(Lint::SharedUnit.about(format_args!(
            "users start processes in {unit} (jobs, logins), and each of these is this agent; add user, or \
             give the agent a unit of its own"
        )));
    }
    Some(Lint::UnitAlone.about(format_args!(
        "unit alone admits the processes of every user in {unit}, also what they start; add user"
    )))
}

/// Whether a unit runs processes for several users by design: jobs of cron and at, logins.
pub(crate) fn is_multi_user_unit(unit: &str) -> bool {
    const NAMES: [&str; 9] = [
        "anacron.service",
        "atd.service",
        "cron.service",
        "crond.service",
        "cronie.service",
        "ssh.service",
        "sshd.service",
        "systemd-logind.service",
        "display-manager.service",
    ];
    const TEMPLATES: [(&str, &str); 7] = [
        ("user@", ".service"),
        ("session-", ".scope"),
        ("ssh@", ".service"),
        ("sshd@", ".service"),
        ("getty@", ".service"),
        ("serial-getty@", ".service"),
        ("console-getty", ".service"),
    ];
    NAMES.contains(&unit)
        || TEMPLATES.iter().any(|(start, end)| unit.starts_with(start) && unit.ends_with(end))
}

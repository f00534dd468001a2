//! What is valid in a file of `agents.d` and probably not meant.

use super::entry::AgentEntry;
use super::grant::Grant;
use super::selectors::Selectors;
use super::unit_name;

/// What is valid in an agent's file and probably not meant, with what to do about it.
pub(super) fn warnings(entry: &AgentEntry) -> Vec<String> {
    let selectors = &entry.selectors;
    let mut warnings: Vec<String> = several_users(selectors).into_iter().collect();
    warnings.extend(selectors.unit.as_deref().and_then(unit_name::warning));
    warnings.extend(selectors.user_unit.as_deref().and_then(unit_name::warning));
    warnings.extend(users_own(selectors));
    let exe = selectors.exe.as_ref().map(|exe| exe.to_string_lossy()).unwrap_or_default();
    if exe.contains(['*', '?', '[']) {
        warnings.push(format!("exe = {exe:?} is compared as it is: *, ? and [] stand for themselves"));
    }
    warnings.extend(patterns(&entry.own_grants));
    warnings
}

/// That no one answers for the agent.
pub(super) fn missing_owner(entry: &AgentEntry) -> Option<String> {
    let message = "the agent has no owner, so it is not known who answers for it; add owner";
    entry.owner.is_none().then(|| message.to_owned())
}

/// Conditions that the user itself can meet with any program.
fn users_own(selectors: &Selectors) -> Vec<String> {
    let mut warnings = Vec::new();
    if selectors.user_unit.is_some() {
        warnings.push(
            "user_unit is no stronger than user: the user can run any program in a unit of this name; only a system \
             unit (unit) keeps the user's other programs out"
                .into(),
        );
    }
    if selectors.session {
        warnings.push(
            "session is no stronger than user: all programs of a login are in it, and the user can log in at any \
             time"
                .into(),
        );
    }
    match (&selectors.container, &selectors.user) {
        (Some(_), Some(_)) => warnings.push(
            "container is no stronger than user if the user runs the container: the user can run any program in \
             a cgroup with this id; a container that root runs keeps other programs out"
                .into(),
        ),
        (Some(_), None) if selectors.group.is_none() && selectors.unit.is_none() => warnings.push(
            "container alone admits the processes of every user in the container, also what they start; add \
             user, or give the container one program"
                .into(),
        ),
        _ => {}
    }
    if selectors.session && selectors.user_unit.is_some() {
        warnings.push("no process is in a login session and in a unit of the user's service manager".into());
    }
    warnings
}

/// Audiences and scopes that look like patterns.
pub(super) fn patterns<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> impl Iterator<Item = String> {
    let texts = grants.into_iter().flat_map(|grant| [&grant.audience].into_iter().chain(&grant.scopes));
    texts.filter(|text| text.contains('*')).map(|text| {
        format!("{text:?} is compared as it is: * stands for itself; write each audience and scope")
    })
}

/// Why processes of several users may be this agent.
fn several_users(selectors: &Selectors) -> Option<String> {
    let (None, None, Some(unit)) = (&selectors.user, &selectors.group, &selectors.unit) else { return None };
    if is_multi_user_unit(unit) {
        return Some(format!(
            "users start processes in {unit} (jobs, logins), and each of these is this agent; add user, or \
             give the agent a unit of its own"
        ));
    }
    Some(format!("unit alone admits the processes of every user in {unit}, also what they start; add user"))
}

/// Whether a unit runs processes for several users by design: jobs of cron and at, logins.
pub(super) fn is_multi_user_unit(unit: &str) -> bool {
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

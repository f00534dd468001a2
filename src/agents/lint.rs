//! What is valid in a file of `agents.d` and probably not meant.

use super::selectors::Selectors;
use super::unit_name;

/// What is valid in the conditions of an agent and probably not meant, with what to do about it.
pub(super) fn warnings(selectors: &Selectors) -> Vec<String> {
    let mut warnings: Vec<String> = several_users(selectors).into_iter().collect();
    warnings.extend(selectors.unit.as_deref().and_then(unit_name::warning));
    warnings
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
fn is_multi_user_unit(unit: &str) -> bool {
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

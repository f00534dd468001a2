//! Grants whose tokens have no status in a status list.
//!
//! A relying party that cannot ask the host accepts a revoked token without a status until it expires. Tokens that
//! live no longer than a relying party may keep a list gain nothing from one.

use std::path::Path;
use std::time::Duration;

use crate::config::Diagnostic;
use crate::plural::counted;

use super::agent_set::{AgentSet, MAX_REPORTED};
use super::entry::AgentEntry;
use super::grant::Grant;
use super::lint_name::Lint;

/// Audiences that one lint names.
const MAX_NAMED: usize = 3;

/// Which tokens have a status where their grant does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusListDefault {
    /// Whether they have one: `[tokens] status_list`.
    pub is_on: bool,
    /// How long a relying party may keep a list: `[tokens] status_list_ttl`.
    pub ttl: Duration,
}

impl AgentSet {
    /// The grants whose tokens have no status and live longer than a list is kept: one lint about the host if its
    /// configuration gives tokens none, otherwise one of each agent. `dir` is that of the agents.
    pub fn status_list_lints(&self, dir: &Path, default: StatusListDefault) -> Vec<Diagnostic> {
        let concerned = self.with_origins().map(|(entry, origin)| (without_status(entry, default), origin));
        let concerned = concerned.filter(|(grants, _)| !grants.is_empty());
        let ttl = humantime::format_duration(default.ttl).to_string();
        let effect = "a relying party that cannot ask this host accepts a revoked one until it expires";
        if default.is_on {
            let lint = |grants: &[&Grant]| {
                let audiences = list(grants);
                Lint::NoStatusList.about(format_args!(
                    "tokens for {audiences} live longer than {ttl} and have no status: {effect}; remove status_list \
                     = false, or lower ttl"
                ))
            };
            return concerned
                .take(MAX_REPORTED)
                .map(|(grants, origin)| origin.diagnostic(lint(&grants)))
                .collect();
        }
        let (mut agents, mut all) = (0_usize, 0_usize);
        for (grants, _) in concerned {
            agents += 1;
            all += grants.len();
        }
        if agents == 0 {
            return Vec::new();
        }
        let message = Lint::NoStatusList.about(format_args!(
            "tokens of {} of {} live longer than {ttl} and have no status: {effect}; set tokens.status_list \
             or status_list = true in the grants, and publish the lists, or lower ttl",
            counted(all, "grant"),
            counted(agents, "agent")
        ));
        vec![Diagnostic { file: dir.to_owned(), line: None, message }]
    }
}

fn without_status(entry: &AgentEntry, default: StatusListDefault) -> Vec<&Grant> {
    let has_none = |grant: &&Grant| grant.ttl > default.ttl && !grant.status_list.unwrap_or(default.is_on);
    entry.grants().map(|granted| granted.item).filter(has_none).collect()
}

/// The first audiences, and the number of the others.
fn list(grants: &[&Grant]) -> String {
    let named: Vec<String> =
        grants.iter().take(MAX_NAMED).map(|grant| format!("{:?}", grant.audience)).collect();
    match grants.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent_set::tests::read;
    use super::*;

    #[test]
    fn tokens_that_outlive_a_list_and_have_no_status_are_found() {
        let grants = |lines: &str| {
            let grant =
                |n: usize| format!("[[grant]]\naudience = \"https://{n}\"\nscopes = [\"r\"]\n{lines}\n");
            format!("[match]\nuser = 0\n{}", (0..4).map(grant).collect::<String>())
        };
        let lints = |lines: &str, is_on: bool| {
            let agents = read(&[
                ("a.toml", &format!("name = \"a\"\n{}", grants(lines))),
                ("b.toml", &format!("name = \"b\"\n{}", grants(lines))),
            ]);
            let default = StatusListDefault { is_on, ttl: Duration::from_secs(300) };
            let lints = agents.unwrap().status_list_lints(Path::new("/agents.d"), default);
            lints
                .iter()
                .map(|one| format!("{}: {}", one.file.file_name().unwrap().display(), one.message))
                .collect()
        };
        let none: Vec<String> = Vec::new();
        for (lines, is_on) in [
            ("", false),
            ("ttl = \"5m\"", false),
            ("status_list = false", true),
            ("ttl = \"6m\"", true),
            ("ttl = \"6m\"\nstatus_list = true", false),
        ] {
            assert_eq!(lints(lines, is_on), none, "{lines}");
        }
        let of_host: Vec<String> = lints("ttl = \"6m\"", false);
        assert_eq!(of_host.len(), 1);
        assert!(
            of_host[0].starts_with("agents.d: tokens of 8 grants of 2 agents live longer than 5m and"),
            "{of_host:?}"
        );
        assert!(of_host[0].ends_with(" [no-status-list]"));
        let of_agents = lints("ttl = \"6m\"\nstatus_list = false", true);
        assert_eq!(of_agents.len(), 2);
        let start =
            "a.toml: tokens for \"https://0\", \"https://1\", \"https://2\" and 1 more live longer than 5m";
        assert!(of_agents[0].starts_with(start), "{of_agents:?}");
    }
}

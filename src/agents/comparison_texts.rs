//! What a comparison says: what each condition requires, and what was found of the process.

use std::path::PathBuf;

use crate::names::Resolution;
use crate::peer::{Container, Groups, MAX_GROUPS, Sha256Digest};

use super::comparison::{AgentComparison, Condition, Outcome, ProcessComparison};
use super::selectors::IdOrName;

/// Groups of a process that are listed.
const MAX_LISTED_GROUPS: usize = 32;
/// Files of an agent that are listed.
const MAX_LISTED_FILES: usize = 8;

impl ProcessComparison<'_> {
    /// What a condition requires, for administrators.
    pub fn expected(&self, agent: &AgentComparison, condition: Condition) -> String {
        let (selectors, names) = (&agent.entry.selectors, self.registrations.names());
        match condition {
            Condition::User => {
                describe(selectors.user.as_ref(), "uid", "user", |name| names.user(name).current)
            }
            Condition::Group => {
                describe(selectors.group.as_ref(), "gid", "group", |name| names.group(name).current)
            }
            Condition::Unit => selectors.unit.clone().unwrap_or_default(),
            Condition::UserUnit => {
                format!("{} (no stronger than user)", selectors.user_unit.clone().unwrap_or_default())
            }
            Condition::Session => "a login session of the user (no stronger than user)".into(),
            Condition::Container => match &selectors.user {
                Some(_) => format!(
                    "{} (no stronger than user, unless root created it)",
                    selectors.container.clone().unwrap_or_default()
                ),
                None => format!("{}, created by root", selectors.container.clone().unwrap_or_default()),
            },
            Condition::Exe => {
                selectors.exe.as_ref().map(|exe| exe.to_string_lossy().into_owned()).unwrap_or_default()
            }
            Condition::ExeSha256 => selectors.exe_sha256.map(|digest| digest.to_string()).unwrap_or_default(),
            Condition::Measured => "true".into(),
            Condition::Files => {
                let describe =
                    |(path, digest): (&PathBuf, &Sha256Digest)| format!("{} {digest}", path.display());
                let listed = selectors.files.iter().take(MAX_LISTED_FILES).map(describe);
                let listed = listed.collect::<Vec<_>>().join(", ");
                match selectors.files.len().saturating_sub(MAX_LISTED_FILES) {
                    0 => listed,
                    more => format!("{listed} and {more} more"),
                }
            }
            Condition::UnitSha256 => {
                selectors.unit_sha256.map(|digest| digest.to_string()).unwrap_or_default()
            }
        }
    }

    /// What was found of the process.
    pub fn seen(&self, agent: &AgentComparison, condition: Condition, outcome: Outcome) -> String {
        if outcome == Outcome::NotCompared {
            return "read only where all other conditions hold".into();
        }
        match condition {
            Condition::User => format!("uid {}", self.peer.uid),
            Condition::Group => format!("gid {}, {}", self.peer.gid, describe_groups(&self.peer.groups)),
            Condition::Unit => self.peer.unit.clone().unwrap_or_else(|| "no system unit".into()),
            Condition::UserUnit => match &self.peer.user_unit {
                Some(unit) => format!("{} in the service manager of uid {}", unit.name, unit.uid),
                None => "no unit of a user's service manager".into(),
            },
            Condition::Session => match &self.peer.session {
                Some(session) => format!("login session {} of uid {}", session.id, session.uid),
                None => "no login session".into(),
            },
            Condition::Container => match &self.peer.container {
                Some(Container { id, owner: None }) => format!("{id}, created by root"),
                Some(Container { id, owner: Some(uid) }) => {
                    format!("{id} in the service manager of uid {uid}, who can give it any id")
                }
                None => "no container of Podman or Docker".into(),
            },
            Condition::Exe => match self.peer.exe() {
                Some(exe) => exe.to_string_lossy().into_owned(),
                None => "the executable cannot be read; see hostbadge-agents(5), exe".into(),
            },
            Condition::ExeSha256 => match self.digest {
                Some(digest) => digest.to_string(),
                None => self.no_digest(agent),
            },
            Condition::Measured => match self.digest.map(|digest| self.ima_digests.check_measured(&digest.0))
            {
                Some(Ok(())) => "measured, and proven by a quote".into(),
                Some(Err(e)) => e.to_string(),
                None => self.no_digest(agent),
            },
            Condition::Files | Condition::UnitSha256 => {
                self.content(&agent.entry, condition).unwrap_or_else(|reason| reason)
            }
        }
    }

    fn no_digest(&self, agent: &AgentComparison) -> String {
        let reason = self.identification.digest_error(&agent.entry);
        reason.unwrap_or_else(|| "the executable has not been read yet; try again".into())
    }
}

fn describe(
    condition: Option<&IdOrName>,
    number_name: &str,
    kind: &str,
    look_up: impl Fn(&str) -> Resolution,
) -> String {
    match condition {
        None => String::new(),
        Some(IdOrName::Id(number)) => format!("{number_name} {number}"),
        Some(IdOrName::Name(name)) => match look_up(name) {
            Resolution::Number(number) => format!("{name} ({number_name} {number})"),
            Resolution::Missing => format!("{name} (there is no such {kind})"),
            Resolution::Unknown => format!("{name} (its {number_name} is not known yet)"),
        },
    }
}

fn describe_groups(groups: &Groups) -> String {
    match groups {
        Groups::TooMany => format!("more than {MAX_GROUPS} others, which are not compared"),
        Groups::Known(groups) if groups.is_empty() => "no others".into(),
        Groups::Known(groups) => {
            let listed: Vec<String> = groups.iter().take(MAX_LISTED_GROUPS).map(u32::to_string).collect();
            let more = match groups.len().saturating_sub(MAX_LISTED_GROUPS) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("groups {}{more}", listed.join(" "))
        }
    }
}

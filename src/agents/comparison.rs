//! Compares a process with each condition of each agent, to say why it is an agent or is not.
//!
//! The result explains [`AgentRegistry::identify`] and decides nothing.

use std::sync::Arc;

use crate::names::Resolution;
use crate::peer::{ContentCache, FileError, Peer, Sha256Digest};
use crate::plural::counted;
use crate::posture::ImaDigests;

use super::authenticated_agent::AuthenticatedAgent;
use super::compared_agents::Failure;
use super::contents::compare_file;
use super::entry::AgentEntry;
use super::identify::Identification;
use super::lint::is_multi_user_unit;
use super::registrations::Registrations;
use super::registry::AgentRegistry;
use super::selectors::IdOrName;

/// A condition of `[match]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `user`.
    User,
    /// `group`.
    Group,
    /// `unit`.
    Unit,
    /// `user_unit`.
    UserUnit,
    /// `session`.
    Session,
    /// `container`.
    Container,
    /// `exe`.
    Exe,
    /// `exe_sha256`.
    ExeSha256,
    /// `measured`.
    Measured,
    /// `files`.
    Files,
    /// `unit_sha256`.
    UnitSha256,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process meets it.
    Holds,
    /// The process does not meet it.
    Fails,
    /// It cannot be decided.
    Unknown,
    /// It needs the content of a file, which is read only where all other conditions hold.
    NotCompared,
}

/// A process compared with one agent.
#[derive(Clone, Debug)]
pub struct AgentComparison {
    /// The agent.
    pub entry: Arc<AgentEntry>,
    /// Each condition that the agent has.
    pub outcomes: Vec<(Condition, Outcome)>,
}

/// The agents that a process is compared with.
#[derive(Clone, Copy, Debug)]
pub enum ComparedWith<'a> {
    /// All.
    All,
    /// The one of this name.
    One(&'a str),
    /// Those that the process may know of.
    KnownToProcess,
}

/// A process compared with several agents.
pub struct ProcessComparison<'a> {
    pub(super) peer: &'a Peer,
    pub(super) registrations: Arc<Registrations>,
    pub(super) digest: Option<Sha256Digest>,
    contents: &'a ContentCache,
    pub(super) identification: &'a Identification,
    pub(super) ima_digests: &'a ImaDigests,
    /// Sorted: those with the fewest conditions that do not hold first, then by name.
    pub agents: Vec<AgentComparison>,
}

impl Condition {
    /// Its key in the file.
    pub fn name(self) -> &'static str {
        match self {
            Condition::User => "user",
            Condition::Group => "group",
            Condition::Unit => "unit",
            Condition::UserUnit => "user_unit",
            Condition::Session => "session",
            Condition::Container => "container",
            Condition::Exe => "exe",
            Condition::ExeSha256 => "exe_sha256",
            Condition::Measured => "measured",
            Condition::Files => "files",
            Condition::UnitSha256 => "unit_sha256",
        }
    }
}

impl AgentComparison {
    /// Whether all conditions hold.
    pub fn matches(&self) -> bool {
        self.unmet() == 0
    }

    fn unmet(&self) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| *outcome != Outcome::Holds).count()
    }

    /// Whether the process may know of the agent: it meets all conditions, or it has the agent's user, or
    /// is in a unit of the agent into which only root starts processes. Of such a process, the agent's name
    /// says nothing that the host's configuration hides from it. The values of conditions stay hidden.
    fn is_known_to_process(&self) -> bool {
        let holds = |condition| self.outcomes.contains(&(condition, Outcome::Holds));
        let unit = self.entry.selectors.unit.as_deref();
        let is_own_unit = holds(Condition::Unit) && unit.is_some_and(|unit| !is_multi_user_unit(unit));
        self.matches() || holds(Condition::User) || is_own_unit
    }
}

impl Identification {
    /// The names of all agents that the peer is, sorted.
    pub fn names(&self) -> Vec<String> {
        self.matched.iter().map(|agent| agent.name().to_string()).collect()
    }

    /// The first agent by name that the peer is.
    pub fn first(&self) -> Option<&AuthenticatedAgent> {
        self.matched.first()
    }

    /// Why the digest of the executable, which a condition of this agent needs, is not known.
    pub(super) fn digest_error(&self, entry: &AgentEntry) -> Option<String> {
        match self.failure_of(entry.name.as_str()) {
            Some((_, Failure::NoDigest(error))) => Some(error.to_string()),
            _ => None,
        }
    }
}

impl AgentRegistry {
    /// Compares `peer`, which was identified as `identification`, with these agents.
    pub fn compare_each<'a>(
        &'a self,
        compared_with: ComparedWith<'_>,
        peer: &'a Peer,
        identification: &'a Identification,
        ima_digests: &'a ImaDigests,
    ) -> ProcessComparison<'a> {
        let mut comparison = ProcessComparison {
            peer,
            registrations: self.registrations(),
            digest: peer.known_exe_sha256(self.digest_cache()),
            contents: self.digest_cache().contents(),
            identification,
            ima_digests,
            agents: Vec::new(),
        };
        let registrations = &comparison.registrations;
        let compare = |entry| comparison.agent(entry);
        let mut agents: Vec<AgentComparison> = match compared_with {
            ComparedWith::All => registrations.agents.iter().map(compare).collect(),
            ComparedWith::One(name) => registrations.find(name).map(compare).into_iter().collect(),
            ComparedWith::KnownToProcess => {
                let related =
                    registrations.index().find_related(peer, registrations.names()).into_iter().map(compare);
                related.filter(AgentComparison::is_known_to_process).collect()
            }
        };
        agents.sort_by_key(AgentComparison::unmet);
        comparison.agents = agents;
        comparison
    }
}

impl ProcessComparison<'_> {
    fn agent(&self, entry: &Arc<AgentEntry>) -> AgentComparison {
        let (selectors, names) = (&entry.selectors, self.registrations.names());
        let decide = |holds| if holds { Outcome::Holds } else { Outcome::Fails };
        let mut outcomes = Vec::new();
        if let Some(user) = &selectors.user {
            outcomes.push((
                Condition::User,
                match number(user, |name| names.user(name).current) {
                    Resolution::Number(uid) => decide(uid == self.peer.uid),
                    Resolution::Missing => Outcome::Fails,
                    Resolution::Unknown => Outcome::Unknown,
                },
            ));
        }
        if let Some(group) = &selectors.group {
            outcomes.push((
                Condition::Group,
                match number(group, |name| names.group(name).current) {
                    Resolution::Number(gid) if self.peer.in_group(gid) => Outcome::Holds,
                    Resolution::Number(_) if self.peer.has_too_many_groups() => Outcome::Unknown,
                    Resolution::Number(_) | Resolution::Missing => Outcome::Fails,
                    Resolution::Unknown => Outcome::Unknown,
                },
            ));
        }
        if let Some(unit) = &selectors.unit {
            outcomes.push((Condition::Unit, decide(self.peer.unit.as_ref() == Some(unit))));
        }
        if selectors.user_unit.is_some() {
            outcomes.push((Condition::UserUnit, decide(selectors.holds_user_unit(self.peer))));
        }
        if selectors.session {
            outcomes.push((Condition::Session, decide(self.peer.is_in_own_session())));
        }
        if selectors.container.is_some() {
            outcomes.push((Condition::Container, decide(selectors.holds_container(self.peer))));
        }
        if let Some(exe) = &selectors.exe {
            outcomes.push((Condition::Exe, decide(self.peer.exe() == Some(exe))));
        }
        let others_hold = outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Holds);
        if let Some(expected) = selectors.exe_sha256 {
            outcomes.push((
                Condition::ExeSha256,
                match self.digest {
                    Some(digest) => decide(digest == expected),
                    None if others_hold => Outcome::Unknown,
                    None => Outcome::NotCompared,
                },
            ));
        }
        if selectors.measured {
            let others_hold = outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Holds);
            outcomes.push((
                Condition::Measured,
                match self.digest {
                    Some(digest) if others_hold => decide(self.ima_digests.check_measured(&digest.0).is_ok()),
                    None if others_hold => Outcome::Unknown,
                    _ => Outcome::NotCompared,
                },
            ));
        }
        for (condition, is_given) in [
            (Condition::Files, !selectors.files.is_empty()),
            (Condition::UnitSha256, selectors.unit_sha256.is_some()),
        ] {
            if is_given {
                let others_hold = outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Holds);
                let compare = || self.content(entry, condition).map_or(Outcome::Fails, |_| Outcome::Holds);
                outcomes.push((condition, if others_hold { compare() } else { Outcome::NotCompared }));
            }
        }
        AgentComparison { entry: entry.clone(), outcomes }
    }

    /// Compares what is known of an agent's files or unit.
    pub(super) fn content(&self, entry: &AgentEntry, condition: Condition) -> Result<String, String> {
        let selectors = &entry.selectors;
        if condition == Condition::Files {
            for (path, expected) in &selectors.files {
                let found = self.contents.known_file_digest(path).unwrap_or(Err(FileError::Temporary));
                compare_file(path, *expected, &found).map_err(|fault| fault.reason)?;
            }
            return Ok(format!("{} have their digests", counted(selectors.files.len(), "file")));
        }
        let unit = selectors.unit.as_deref().unwrap_or_default();
        match self.contents.known_unit_digest(unit) {
            Some(Ok(digest)) if selectors.unit_sha256 == Some(digest) => Ok(digest.to_string()),
            Some(Ok(digest)) => Err(digest.to_string()),
            Some(Err(error)) => Err(format!("{unit} {error}")),
            None => Err("the unit's files were not read; try again".into()),
        }
    }
}

fn number(condition: &IdOrName, look_up: impl Fn(&str) -> Resolution) -> Resolution {
    match condition {
        IdOrName::Id(number) => Resolution::Number(*number),
        IdOrName::Name(name) => look_up(name),
    }
}

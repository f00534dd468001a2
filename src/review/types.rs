//! A review as its JSON has it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::figures::{Counts, Totals};
use crate::clock::Timestamp;

/// The version of the JSON.
pub const VERSION: u64 = 1;

/// What the agents of a host may do, against what they did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// [`VERSION`].
    pub version: u64,
    /// The name of the host.
    pub host: String,
    /// Which part of the log was compared.
    pub period: Period,
    /// The sums over all agents.
    pub totals: Totals,
    /// The agents, by name.
    pub agents: Vec<AgentReview>,
    /// The files that were narrowed; absent if none was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Vec<AppliedFile>>,
}

/// A file that was narrowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliedFile {
    /// The agent's name.
    pub agent: String,
    /// The file.
    pub file: PathBuf,
    /// The file that has its earlier text.
    pub earlier: PathBuf,
}

/// Which part of the log was compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// The begin that was asked for.
    pub since: Timestamp,
    /// From when on the log has all records; later than `since` where the log is younger.
    pub from: Timestamp,
    /// When the review was made.
    pub until: Timestamp,
    /// Whether the log covers all that was asked for.
    pub complete: bool,
    /// Why nothing is known of the time before `from`; absent if the log covers all that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<PeriodBound>,
    /// Numbers of records in this part that no line has, and records that cannot be read: what was used by them is not
    /// known.
    pub missing_records: u64,
    /// Whether rights were called unused although records are missing, or although an agent's use is known for a
    /// shorter time than was asked for.
    pub accepts_incomplete: bool,
}

/// Why nothing is known of an earlier time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeriodBound {
    /// The log begins then.
    Log,
    /// A review reads the latest 512 MiB of records.
    Size,
    /// The clock of earlier records was not synchronized.
    Clock,
}

/// What one agent may do, against what it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentReview {
    /// The agent's name.
    pub name: String,
    /// Contact for the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The file that describes it.
    pub file: PathBuf,
    /// The roles that its file refers to.
    pub roles: Vec<String>,
    /// Whether it is drained.
    pub drain: bool,
    /// From when on its use is known: that of the log, or the last change of its file, of its content or of its
    /// metadata, where that is later. Of an agent
    /// with roles, changes of files of roles count too.
    pub known_since: Timestamp,
    /// When it got or was refused something last in the period; absent if it was not seen in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// What follows for it.
    pub state: AgentState,
    /// Its rights in numbers.
    pub counts: Counts,
    /// Its audiences.
    pub grants: Vec<GrantReview>,
    /// Its credentials.
    pub credentials: Vec<CredentialReview>,
    /// A unified diff from its file to the narrowed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Why its file is not narrowed although it could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_narrowed: Option<String>,
}

/// What follows for an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// Its own file grants more than it used.
    Narrow,
    /// It was given nothing in the period, and asked for nothing that may be granted: consider to offboard it. Its file
    /// stays as it is.
    Unused,
    /// Its use is not known for the whole period, or for less than a day, or it asked for something and was refused.
    Unknown,
    /// Its own file can stay as it is.
    Keep,
}

/// Whether a right was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// A record shows it.
    Used,
    /// No record shows it.
    Unused,
    /// The records do not say.
    Unknown,
}

/// Why the use of one right is not known, where that of others of the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotKnown {
    /// The agent asked for it and was refused.
    Refused,
    /// A record does not name all.
    Cut,
    /// JWT-SVIDs, which have no scope, were issued for the audience.
    Svids,
    /// The service manager may have loaded it when the unit started.
    Loaded,
    /// The agent does not get it itself.
    Injected,
}

/// One audience of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantReview {
    /// The audience.
    pub audience: String,
    /// The role that grants it; absent for the agent's own grant. A role's file is not narrowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether something was issued for it.
    pub state: Use,
    /// Why its use, or that of its scopes, is not known; absent if it is, or if that of the agent is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_known: Option<NotKnown>,
    /// Tokens and JWT-SVIDs that were issued.
    pub issued: u64,
    /// When the last one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// The scopes.
    pub scopes: Vec<ScopeReview>,
    /// The longest lifetime that is granted, in seconds.
    pub ttl: u64,
    /// The longest lifetime that was given, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest: Option<u64>,
    /// What the narrowed file has instead.
    #[serde(default, skip_serializing_if = "Narrowing::is_none")]
    pub narrowing: Narrowing,
    /// The role that grants the unused audience too, which would take effect if the agent's own grant were removed.
    /// So it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays_because_of_role: Option<String>,
}

/// One scope of a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeReview {
    /// The scope.
    pub scope: String,
    /// Whether a token had it.
    pub state: Use,
}

/// What is removed from an agent's own grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Narrowing {
    /// The grant as a whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
    /// These scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_scopes: Vec<String>,
    /// The lifetime that is enough, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
}

/// One credential of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialReview {
    /// The name of the credential.
    pub name: String,
    /// The role that grants it; absent for the agent's own file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether it was released to the agent. Not known for a credential that the agent does not get itself.
    pub state: Use,
    /// Why its use is not known; absent if it is, or if that of the agent is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_known: Option<NotKnown>,
    /// How often it was released.
    pub released: u64,
    /// When it was released last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// Whether the narrowed file lacks it.
    pub remove: bool,
    /// As in [`GrantReview::stays_because_of_role`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays_because_of_role: Option<String>,
}

impl NotKnown {
    /// A clause for texts.
    pub fn text(self) -> &'static str {
        match self {
            NotKnown::Refused => "it was asked for and refused",
            NotKnown::Cut => "a record does not name all",
            NotKnown::Svids => "JWT-SVIDs have no scopes",
            NotKnown::Loaded => "the unit may have loaded it when it started",
            NotKnown::Injected => "the agent does not get it itself",
        }
    }
}

impl Narrowing {
    /// Whether nothing is removed.
    pub fn is_none(&self) -> bool {
        *self == Narrowing::default()
    }
}

impl AgentState {
    /// All states, in the order in which a reader wants to see them.
    pub const ALL: [AgentState; 4] =
        [AgentState::Narrow, AgentState::Unused, AgentState::Unknown, AgentState::Keep];

    /// The name in texts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            AgentState::Narrow => "narrow",
            AgentState::Unused => "unused",
            AgentState::Unknown => "unknown",
            AgentState::Keep => "keep",
        }
    }
}

impl AgentReview {
    /// Whether a change of the agent's own file is proposed.
    pub(crate) fn has_narrowing(&self) -> bool {
        self.grants.iter().any(|grant| !grant.narrowing.is_none())
            || self.credentials.iter().any(|credential| credential.remove)
    }
}

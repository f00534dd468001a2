//! What is known of the names: an immutable snapshot.

use std::collections::HashMap;
use std::fmt;

use super::lookup_error::LookupError;

/// A name in the system's user or group database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A user, as getpwnam(3) takes it.
    User(String),
    /// A group, as getgrnam(3) takes it.
    Group(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::User(name) => write!(f, "user \"{}\"", name.escape_debug()),
            Name::Group(name) => write!(f, "group \"{}\"", name.escape_debug()),
        }
    }
}

/// The number of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// The number that the name service reported last.
    Number(u32),
    /// The name service reports no such name.
    Missing,
    /// No lookup has succeeded: the number is not known.
    #[default]
    Unknown,
}

/// What is known of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Its number now.
    pub current: Resolution,
    /// Its last number since the daemon started, also while the name is missing: units with `DynamicUser=`
    /// have no user while they are stopped.
    pub last: Option<u32>,
}

/// What is known of all names. A name that is not in the table is [`Resolution::Unknown`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameTable {
    users: HashMap<String, Numbers>,
    groups: HashMap<String, Numbers>,
    problems: Vec<String>,
}

impl NameTable {
    /// A table of these names; one without a number is missing.
    #[cfg(test)]
    pub(crate) fn of_test(names: impl IntoIterator<Item = (Name, Option<u32>)>) -> NameTable {
        let mut table = NameTable::default();
        for (name, number) in names {
            let current = number.map_or(Resolution::Missing, Resolution::Number);
            table.insert(&name, Numbers { current, last: number });
        }
        table
    }

    /// What is known of a user.
    pub fn user(&self, name: &str) -> Numbers {
        self.users.get(name).copied().unwrap_or_default()
    }

    /// What is known of a group.
    pub fn group(&self, name: &str) -> Numbers {
        self.groups.get(name).copied().unwrap_or_default()
    }

    /// What is known of a user or group.
    pub fn get(&self, name: &Name) -> Numbers {
        match name {
            Name::User(name) => self.user(name),
            Name::Group(name) => self.group(name),
        }
    }

    /// Lookups that failed or were not answered in time, one line each, sorted by name.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(super) fn insert(&mut self, name: &Name, numbers: Numbers) {
        match name {
            Name::User(name) => self.users.insert(name.clone(), numbers),
            Name::Group(name) => self.groups.insert(name.clone(), numbers),
        };
    }

    /// `error` is why the last lookup of `name` failed.
    pub(super) fn add_problem(&mut self, name: &Name, error: &LookupError, numbers: Numbers) {
        let effect = match numbers.current {
            Resolution::Number(number) => format!("its last number, {number}, stays in use"),
            Resolution::Missing | Resolution::Unknown => {
                "callers that may match by it get temporarily_unavailable".into()
            }
        };
        self.problems.push(format!("{name} cannot be looked up ({error}); {effect}"));
    }
}

//! The invocations in which something was issued, in `invocations.json`: after a restart of the daemon, those that
//! ended meanwhile are known.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::agents::AgentName;
use crate::peer::{InvocationEnd, boot_id};
use crate::store;

const FILE_NAME: &str = "invocations.json";
const VERSION: u64 = 1;

/// The content of the file. No invocation of another boot goes on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvocationsFile {
    boot: String,
    invocations: Vec<RawInvocation>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RawInvocation {
    id: String,
    agents: Vec<String>,
    #[serde(flatten)]
    end: StoredEnd,
}

/// What ends an invocation, as files have it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ends_with", rename_all = "lowercase")]
pub enum StoredEnd {
    /// A system unit.
    Unit {
        /// Its name.
        unit: String,
    },
    /// A cgroup.
    Cgroup {
        /// Its path in the unified hierarchy.
        path: String,
        /// Its ID.
        cgroup: u64,
    },
    /// The leader of a session.
    Session {
        /// Its pid.
        leader: i32,
        /// Its start time in clock ticks since boot.
        start_time: u64,
    },
    /// The end of the host's run.
    Boot,
}

impl From<InvocationEnd> for StoredEnd {
    fn from(end: InvocationEnd) -> StoredEnd {
        match end {
            InvocationEnd::Unit(unit) => StoredEnd::Unit { unit },
            InvocationEnd::Cgroup { path, id } => StoredEnd::Cgroup { path, cgroup: id },
            InvocationEnd::Session { leader, start_time } => StoredEnd::Session { leader, start_time },
            InvocationEnd::Boot => StoredEnd::Boot,
        }
    }
}

impl From<StoredEnd> for InvocationEnd {
    fn from(end: StoredEnd) -> InvocationEnd {
        match end {
            StoredEnd::Unit { unit } => InvocationEnd::Unit(unit),
            StoredEnd::Cgroup { path, cgroup } => InvocationEnd::Cgroup { path, id: cgroup },
            StoredEnd::Session { leader, start_time } => InvocationEnd::Session { leader, start_time },
            StoredEnd::Boot => InvocationEnd::Boot,
        }
    }
}

impl InvocationsFile {
    /// Reads the file from the state directory; `None` if there is none. Blocking.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn read(dir: &Path) -> Result<Option<InvocationsFile>, store::Error> {
        store::read(&dir.join(FILE_NAME), VERSION)
    }

    /// Writes it, which is on disk when this returns. Blocking.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), store::Error> {
        store::write(&dir.join(FILE_NAME), VERSION, self)
    }

    /// Whether the host was started again since it was written.
    pub fn is_of_earlier_boot(&self) -> bool {
        self.boot != boot_id()
    }

    pub(super) fn into_invocations(self) -> impl Iterator<Item = (String, InvocationEnd, Vec<AgentName>)> {
        self.invocations.into_iter().map(|RawInvocation { id, agents, end }| {
            let end = InvocationEnd::from(end);
            (id, end, agents.iter().filter_map(|name| AgentName::parse_any(name).ok()).collect())
        })
    }
}

impl<'a> FromIterator<(&'a str, &'a InvocationEnd, &'a [AgentName])> for InvocationsFile {
    fn from_iter<I>(invocations: I) -> InvocationsFile
    where
        I: IntoIterator<Item = (&'a str, &'a InvocationEnd, &'a [AgentName])>,
    {
        let raw = |(id, end, agents): (&str, &InvocationEnd, &[AgentName])| RawInvocation {
            id: id.to_owned(),
            agents: agents.iter().map(|agent| agent.as_str().to_owned()).collect(),
            end: StoredEnd::from(end.clone()),
        };
        InvocationsFile {
            boot: boot_id().to_owned(),
            invocations: invocations.into_iter().map(raw).collect(),
        }
    }
}

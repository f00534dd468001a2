//! Why a process is no agent.

use crate::peer::{DigestError, MAX_GROUPS};

/// Why a peer is not identified as an agent. The caller receives the text, which therefore names an agent
/// only to a process that has the agent's user, group and unit, or that named the agent itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// Which agents are registered is not known.
    #[error(
        "the registered agents are not known: their files have had faults since the daemon started, which an \
         administrator has to correct; try again later"
    )]
    NotLoaded,
    /// The process meets the selectors of no agent.
    #[error("no registered agent matches this process")]
    NoMatch,
    /// The process meets all selectors but `measured`.
    #[error("this process would be agent \"{agent}\", but {reason}")]
    Unmeasured {
        /// The agent's name.
        agent: String,
        /// Why the executable does not count as measured.
        reason: String,
    },
    /// The process meets all selectors but those on the content of its executable, which is not known.
    #[error("this process would be agent \"{agent}\", but {error}")]
    NoDigest {
        /// The agent's name.
        agent: String,
        /// Why the digest of the executable is not known.
        error: DigestError,
    },
    /// The process meets all selectors but those on files or its unit.
    #[error("this process would be agent \"{agent}\", but {reason}")]
    Content {
        /// The agent's name.
        agent: String,
        /// Which file or unit is another one, or cannot be read.
        reason: String,
        /// Whether the same request may succeed later without a change of the files.
        is_temporary: bool,
    },
    /// Whether the process is an agent depends on a name whose number is not known.
    #[error(
        "whether this process is an agent is not known: the number of a user or group in agents.d is not \
         known yet; try again"
    )]
    Unresolved,
    /// The process is in more groups than the daemon reads.
    #[error(
        "whether one of the groups of this process makes it an agent is not known: it is in more than \
         {MAX_GROUPS} groups, which are not compared; start it with fewer"
    )]
    TooManyGroups,
    /// The process is in the cgroup of a sub-agent and is not it.
    #[error("this process is in the cgroup of sub-agent \"{agent}\" and is not it: {reason}")]
    NotSubAgent {
        /// The sub-agent's name.
        agent: String,
        /// Why it is not.
        reason: String,
    },
    /// Which cgroups are delegated is not known, and the process may be in one.
    #[error("whether this process is agent \"{agent}\" or one of its sub-agents is not known: {reason}")]
    UnknownDelegations {
        /// The agent's name.
        agent: String,
        /// Why it is not known.
        reason: String,
    },
    /// The process is not the agent that the request names.
    #[error("this process is not agent \"{0}\"; run whoami to list its agents")]
    AgentMismatch(String),
    /// The process matches several agents, and the request names none of them.
    #[error("several agents match this process; name one of {} in \"agent\" (--agent)", .0.join(", "))]
    Ambiguous(Vec<String>),
}

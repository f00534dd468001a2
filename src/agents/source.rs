//! Where agents and roles are read.

use std::path::{Path, PathBuf};

use crate::config::{Config, RequiredAdministrators, list_files};

/// The file in the state directory that has the digest of approved files.
const APPROVED_FILE_NAME: &str = "approved-agents.json";

/// The directories of agents and roles, and what their files have to fulfil.
#[derive(Clone, Debug)]
pub struct AgentSource {
    /// The directory of agents: `agents.d`. It must exist.
    pub agents: PathBuf,
    /// The directory of roles: `roles.d`. It may be missing on a host without roles.
    pub roles: PathBuf,
    /// What each file of an agent has to fulfil.
    pub rules: FileRules,
    /// Where the digest of approved files is, if wider rights need a second administrator.
    pub approvals: Option<PathBuf>,
}

/// What each file of an agent has to fulfil.
#[derive(Clone, Copy, Debug)]
pub struct FileRules {
    /// Length of the trust domain in bytes: a SPIFFE ID has at most 127, so it limits the length of names and
    /// tenants.
    pub trust_domain_length: usize,
    /// Whether an agent without owner is a fault.
    pub requires_owner: bool,
}

impl AgentSource {
    /// The directory `agents`, with `roles.d` beside it.
    pub fn beside(agents: &Path, trust_domain_length: usize) -> AgentSource {
        AgentSource {
            agents: agents.to_owned(),
            roles: agents.with_file_name("roles.d"),
            rules: FileRules { trust_domain_length, requires_owner: false },
            approvals: None,
        }
    }

    /// Whether there may be files of roles. Blocking.
    pub(super) fn has_roles(&self) -> bool {
        list_files(&self.roles, "toml", usize::MAX, "paths.roles")
            .map_or(true, |files| files.is_some_and(|files| !files.is_empty()))
    }
}

impl From<&Config> for AgentSource {
    fn from(config: &Config) -> AgentSource {
        AgentSource {
            agents: config.paths.agents.clone(),
            roles: config.paths.roles.clone(),
            rules: FileRules {
                trust_domain_length: config.trust_domain_length(),
                requires_owner: config.agents.require_owner,
            },
            approvals: match config.change.require {
                RequiredAdministrators::One => None,
                RequiredAdministrators::Two => Some(config.paths.state.join(APPROVED_FILE_NAME)),
            },
        }
    }
}

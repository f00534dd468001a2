//! Processes that may start commands as sub-agents of an agent without being the agent.

use crate::peer::Peer;

use super::authenticated_agent::AuthenticatedAgent;
use super::registry::AgentRegistry;
use super::run_grant::{RunCheck, RunGrant};

/// Who asks for a sub-agent of an agent.
#[derive(Clone, Debug)]
pub enum Delegator {
    /// The agent itself.
    Agent(AuthenticatedAgent),
    /// A process that the agent's `[run]` permits.
    Runner(Runner),
}

impl Delegator {
    /// The agent whose sub-agent is asked for, with the process that asks.
    pub fn agent(&self) -> &AuthenticatedAgent {
        match self {
            Delegator::Agent(agent) => agent,
            Delegator::Runner(runner) => &runner.agent,
        }
    }

    /// The permission of a process that is not the agent.
    pub fn runner(&self) -> Option<&Runner> {
        match self {
            Delegator::Agent(_) => None,
            Delegator::Runner(runner) => Some(runner),
        }
    }
}

/// A process that may start commands as sub-agents of an agent, and is not that agent. Only [`AgentRegistry::runner`]
/// constructs one.
#[derive(Clone, Debug)]
pub struct Runner {
    agent: AuthenticatedAgent,
    grant: RunGrant,
}

/// Why a process may not start commands for an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRunner {
    /// The agent is not registered, or its file does not permit it.
    Refused,
    /// It is not known yet.
    Unknown,
}

impl Runner {
    /// Returns the permission.
    pub fn grant(&self) -> &RunGrant {
        &self.grant
    }

    /// Returns the user who starts the command.
    pub fn uid(&self) -> u32 {
        self.agent.peer().uid
    }
}

impl AgentRegistry {
    /// The peer as one that may start commands for the registered agent `name`. Sub-agents may not, nor processes in
    /// containers, which have less than their user has outside.
    ///
    /// # Errors
    /// It may not, or it is not known.
    pub fn runner(&self, peer: &Peer, name: &str) -> Result<Runner, NotRunner> {
        let registrations = self.registrations();
        if registrations.delegations.unknown_reason().is_some() {
            return Err(NotRunner::Unknown);
        }
        if peer.container.is_some() || registrations.delegations.of_peer(peer).is_some() {
            return Err(NotRunner::Refused);
        }
        let check = |grant: &RunGrant| grant.check(peer, registrations.names());
        let entry = registrations.agents.get(name);
        let grant = entry.and_then(|entry| Some((entry, entry.run.as_ref()?)));
        let Some((entry, grant)) = grant.filter(|(_, grant)| check(grant) == RunCheck::Permitted) else {
            // The same for every name, so that no caller learns which agents have such a table.
            let mut grants = registrations.agents.iter().filter_map(|entry| entry.run.as_ref());
            let is_unknown = grants.any(|grant| check(grant) == RunCheck::Unknown);
            return Err(if is_unknown { NotRunner::Unknown } else { NotRunner::Refused });
        };
        let exe_sha256 = peer.known_exe_sha256(self.digest_cache());
        let agent = AuthenticatedAgent {
            entry: entry.clone(),
            peer: peer.clone(),
            exe_sha256,
            match_tag: grant.tag(),
            attested: None,
            delegation: None,
            is_runner: true,
        };
        Ok(Runner { agent, grant: grant.clone() })
    }
}

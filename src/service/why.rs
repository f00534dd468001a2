//! Why a process is an agent, or is not.

use super::admin::Admin;
use super::error::{AdminError, InvalidRequest, RequestError};
use super::identity_service::IdentityService;
use crate::agents::{AgentComparison, ComparedWith, Identification, Outcome, ProcessComparison};
use crate::peer::{InspectedProcess, Peer, PeerLookup};
use crate::policy::RateLimitKey;
use crate::wire::agent;
use crate::wire::comparison::{self, ConditionComparison, ConditionOutcome, WhyResponse};

/// Agents in a response to an administrator, which then has at most 200 KiB.
const MAX_COMPARED: usize = 100;
/// Agents in a response to the process itself.
const MAX_COMPARED_BY_PROCESS: usize = 16;

impl IdentityService {
    /// The process `pid` of this host, compared with all agents or with the one of this name. Nothing is
    /// issued or recorded.
    ///
    /// # Errors
    /// [`AdminError::Inspect`] if there is no such process, or it changed meanwhile;
    /// [`AdminError::UnknownAgent`]; [`AdminError::InvalidRequest`] if `pid` is no number.
    pub async fn explain_process(
        &self,
        _: &Admin,
        pid: &str,
        agent: Option<&str>,
    ) -> Result<WhyResponse, AdminError> {
        let pid =
            pid.parse().map_err(|_| InvalidRequest::new("the path must end in the number of a process"))?;
        if agent.is_some_and(|name| self.deps.agents.registrations().find(name).is_none()) {
            return Err(AdminError::UnknownAgent);
        }
        let process = InspectedProcess::open(pid)?;
        let (agents, ima_digests) = (&self.deps.agents, self.deps.posture.ima_digests());
        let identification = agents.identify(agents.candidates(process.peer()), ima_digests).await;
        let compared_with = agent.map_or(ComparedWith::All, ComparedWith::One);
        let response = self.explain(process.peer(), &identification, compared_with, MAX_COMPARED, true);
        process.ensure_unchanged()?;
        Ok(response)
    }

    /// The caller, compared with the agents that it may know of.
    ///
    /// # Errors
    /// A recorded refusal where the caller cannot be read or exceeds its rate. That it is no agent is a
    /// result.
    pub async fn explain_caller(&self, lookup: PeerLookup) -> Result<WhyResponse, RequestError> {
        let explained = async {
            let peer = self.require_peer(lookup)?;
            let (identification, is_counted) = self.compare(&peer).await?;
            match identification.first() {
                Some(agent) => self.check_agent_rate(agent)?,
                None if is_counted => {}
                None => self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(&peer))?,
            }
            let compared_with = ComparedWith::KnownToProcess;
            Ok(self.explain(&peer, &identification, compared_with, MAX_COMPARED_BY_PROCESS, false))
        };
        match explained.await {
            Ok(response) => Ok(response),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    fn explain(
        &self,
        peer: &Peer,
        identification: &Identification,
        compared_with: ComparedWith<'_>,
        max_compared: usize,
        shows_expected: bool,
    ) -> WhyResponse {
        let ima_digests = self.deps.posture.ima_digests();
        let process = self.deps.agents.compare_each(compared_with, peer, identification, ima_digests);
        let compared =
            process.agents.iter().take(max_compared).map(|one| describe(&process, one, shows_expected));
        WhyResponse {
            compared: compared.collect(),
            omitted: process.agents.len().saturating_sub(max_compared),
            agents: identification.names(),
            refusal: identification.refusal().map(|error| error.to_string()),
            delegation: identification.first().and_then(|agent| agent.delegation()).map(Into::into),
            // After the comparison, which may have found the digest.
            peer: agent::Peer::from(&**peer),
        }
    }
}

fn describe(
    process: &ProcessComparison<'_>,
    agent: &AgentComparison,
    shows_expected: bool,
) -> comparison::AgentComparison {
    let conditions = agent.outcomes.iter().map(|(condition, outcome)| ConditionComparison {
        condition: condition.name().to_owned(),
        outcome: match outcome {
            Outcome::Holds => ConditionOutcome::Holds,
            Outcome::Fails => ConditionOutcome::Fails,
            Outcome::Unknown => ConditionOutcome::Unknown,
            Outcome::NotCompared => ConditionOutcome::NotCompared,
        },
        expected: shows_expected.then(|| process.expected(agent, *condition)),
        seen: process.seen(agent, *condition, *outcome),
    });
    comparison::AgentComparison {
        agent: agent.entry.name.to_string(),
        roles: match shows_expected {
            true => agent.entry.roles.iter().map(|role| role.name().to_owned()).collect(),
            false => Vec::new(),
        },
        matches: agent.matches(),
        conditions: conditions.collect(),
    }
}

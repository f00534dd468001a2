//! Decides requests for sub-agents. Only this file constructs a [`DelegationPermit`].

use std::time::Duration;

use crate::agents::{
    AgentEntry, AgentName, AuthenticatedAgent, DelegateGrant, DelegatedRights, Delegator, RunGrant, Runner,
};
use crate::peer::Boundary;
use crate::posture::Posture;

use super::cedar::{Act, Allowed, PolicySetId};
use super::circumstances::{Circumstances, check_draining};
use super::decision::check_posture;
use super::refusal::{ErrorCode, Refusal};

/// How the own names of commands begin that users start for an agent.
const RUN_PREFIX: &str = "run-";

/// A request for a sub-agent: well-formed, but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegationRequest {
    /// The sub-agent's own name, as requested.
    pub name: String,
    /// What of its parent's rights it is to have.
    pub rights: DelegatedRights,
    /// How long it is to exist; `None` requests the longest time. A longer one is shortened to that.
    pub ttl: Option<Duration>,
    /// Who keeps its processes in its cgroup.
    pub boundary: Boundary,
}

/// A positive decision on one sub-agent.
#[derive(Clone, Debug)]
pub struct DelegationPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
    allowed: Allowed,
    name: AgentName,
    rights: DelegatedRights,
    ttl: Duration,
    boundary: Boundary,
    max: u32,
    run_by: Option<u32>,
}

impl DelegationPermit {
    /// Returns the agent that delegates, or for which a user starts a command: then the process is that of the user.
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    /// Returns the posture at the decision; [`Posture::Off`] if the decision did not evaluate it.
    pub fn posture(&self) -> Posture {
        self.posture
    }

    /// Returns the policies that were in force.
    pub fn policy(&self) -> Option<PolicySetId> {
        self.allowed.set()
    }

    /// Returns the name of the sub-agent, after that of its parent.
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    /// Returns what of its parent's rights the sub-agent has.
    pub fn rights(&self) -> &DelegatedRights {
        &self.rights
    }

    /// Returns how long the sub-agent exists.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns who keeps the sub-agent's processes in its cgroup.
    pub fn boundary(&self) -> Boundary {
        self.boundary
    }

    /// Returns how many sub-agents the registered agent may have at once, or users may start for it.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// Returns the user who starts the command, or has started one above it; `None` if the agent delegates of itself.
    pub fn run_by(&self) -> Option<u32> {
        self.run_by
    }
}

/// Decides whether an agent may have a sub-agent, or a user may start a command as one.
///
/// # Errors
/// A [`Refusal`] with `access_denied` if the agent is revoked or drained, has no `[delegate]` or not so deep, or the
/// host's posture or a policy forbids it; `invalid_request` if the name is not one of an agent or has not the
/// prefix that it has to have, and `invalid_target` if the agent lacks a right that it delegates.
pub fn decide_delegation(
    delegator: &Delegator,
    circumstances: &Circumstances,
    request: DelegationRequest,
) -> Result<DelegationPermit, Refusal> {
    let (agent, run) = (delegator.agent().clone(), delegator.runner());
    circumstances.check_revoked(&agent)?;
    let named = |refusal: Refusal| circumstances.refusal(refusal, &agent);
    let entry = agent.entry();
    check_draining(entry).map_err(named)?;
    let name = entry.name.of_sub_agent(&request.name);
    let name = name.map_err(|e| named(Refusal::new(ErrorCode::InvalidRequest, e.to_string())))?;
    check_prefix(&request.name, run.is_some(), entry)
        .map_err(|description| named(Refusal::new(ErrorCode::InvalidRequest, description)))?;
    let by_parent = agent.delegation().and_then(|delegation| delegation.run_by);
    let (longest, max) = match run.map(Runner::grant) {
        Some(RunGrant { ttl, max, .. }) => (*ttl, *max),
        None => {
            let delegate = delegate_grant(entry, &name)
                .map_err(|description| named(Refusal::new(ErrorCode::AccessDenied, description)))?;
            // What a command has below it takes a place of a command.
            let of_run = entry.root().run.as_ref().filter(|_| by_parent.is_some());
            (delegate.ttl, of_run.map_or(delegate.max, |run| run.max))
        }
    };
    let checked = request.rights.check(entry);
    checked.map_err(|e| named(Refusal::new(ErrorCode::InvalidTarget, e.to_string())))?;
    let longest = agent.cap(longest, circumstances.time.now);
    let ttl = request.ttl.map_or(longest, |requested| requested.min(longest));
    let host_posture = &circumstances.posture;
    let posture = check_posture(host_posture.mode, host_posture).map_err(named)?;
    let act = Act::Delegate { name: name.as_str(), ttl: ttl.as_secs(), boundary: request.boundary.as_str() };
    let allowed = circumstances.allow(&agent, posture, act).map_err(named)?;
    let DelegationRequest { rights, boundary, .. } = request;
    let run_by = run.map(Runner::uid).or(by_parent);
    Ok(DelegationPermit { posture, allowed, name, rights, ttl, boundary, max, run_by, agent })
}

/// Checks that the own name of a command that a user starts for a registered agent has the prefix, and those of the
/// agent's own sub-agents do not: no user takes a name that the agent uses.
fn check_prefix(name: &str, is_run: bool, parent: &AgentEntry) -> Result<(), String> {
    if parent.parent.is_some() || name.starts_with(RUN_PREFIX) == is_run {
        return Ok(());
    }
    Err(match is_run {
        true => format!(
            "the name of a command that a user starts begins with {RUN_PREFIX}, as {RUN_PREFIX}{name}"
        ),
        false => {
            format!("a name that begins with {RUN_PREFIX} is that of a command that a user starts by [run]")
        }
    })
}

fn delegate_grant<'a>(entry: &'a AgentEntry, name: &AgentName) -> Result<&'a DelegateGrant, String> {
    let Some(delegate) = &entry.delegate else {
        return Err(format!(
            "the file of agent \"{}\" has no [delegate], so it may have no sub-agents",
            entry.root().name
        ));
    };
    if !entry.may_delegate_to(name) {
        return Err(format!(
            "sub-agents of agent \"{}\" may be {} deep, and \"{name}\" would be {} deep",
            entry.root().name,
            delegate.depth,
            name.depth()
        ));
    }
    Ok(delegate)
}

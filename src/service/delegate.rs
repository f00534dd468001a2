//! Sub-agents: an agent delegates a cgroup below its own, with a part of its rights, or a user whom the agent's `[run]`
//! permits does.

use std::sync::Arc;

use super::authenticate::UNKNOWN_RETRY;
use super::error::{InvalidRequest, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use super::requests::{self, CheckedDelegateRequest};
use crate::agents::{AuthenticatedAgent, Candidates, Delegation, Delegator, MAX_SPIFFE_ID_LEN, NotRunner};
use crate::delegation::{self, DelegatedCgroup, NewDelegation, OwnCgroups, PlacementError};
use crate::peer::{Boundary, Cgroup, CgroupError, Peer, PeerLookup};
use crate::policy::{self, DelegationPermit, DelegationRequest, ErrorCode};
use crate::wire::delegate::DelegateRequest;

impl IdentityService {
    /// Makes the processes of a cgroup a sub-agent of the caller's agent, or of one for which the caller may start commands.
    ///
    /// # Errors
    /// A recorded refusal, also where `request` is an error.
    pub async fn delegate(
        &self,
        lookup: PeerLookup,
        request: Result<DelegateRequest<'_>, InvalidRequest>,
    ) -> RequestResult<DelegatedCgroup> {
        let decision = async {
            match self.decide_delegation(lookup, request.and_then(requests::delegate_request)).await {
                Ok(delegated) => {
                    let agent = delegated.delegation().agent.clone();
                    match self.audit.record_delegation(delegated).await {
                        Ok(recorded) => Ok(recorded),
                        Err(unavailable) => {
                            // What is not recorded is not in force.
                            self.deps.delegations.end_agents(agent.as_str(), "it could not be recorded");
                            self.deps.delegations.store().await;
                            Err(unavailable.into())
                        }
                    }
                }
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::Delegation, decision).await
    }

    /// The agent that the caller is, or for which it may start commands. A process that is the agent needs no `[run]`.
    async fn identify_delegator(
        &self,
        peer: &Peer,
        request: Result<CheckedDelegateRequest, InvalidRequest>,
    ) -> Result<(Delegator, CheckedDelegateRequest), Rejection> {
        let Ok(request @ CheckedDelegateRequest { agent: Some(_), .. }) = request else {
            let identified = self.identify_for(peer, request, |checked| checked.agent.as_deref()).await?;
            return Ok((Delegator::Agent(identified.0), identified.1));
        };
        let mut rejection = match self.identify(peer, request.agent.as_deref()).await {
            Ok(agent) => return Ok((Delegator::Agent(agent), request)),
            Err(rejection) => rejection,
        };
        // One that was refused for its rate or may be the agent later is not asked for anything else.
        let name = request.agent.as_deref().unwrap_or_default();
        if rejection.refusal.code != ErrorCode::InvalidClient {
            return Err(rejection);
        }
        match self.deps.agents.runner(peer, name) {
            // The comparison before has counted against the rate of its uid.
            Ok(runner) => Ok((Delegator::Runner(runner), request)),
            Err(NotRunner::Refused) => {
                // The same whether there is such an agent or not.
                let more =
                    format!(", and no [run] permits uid {} to start commands for agent \"{name}\"", peer.uid);
                rejection.refusal.description += &more;
                Err(rejection)
            }
            Err(NotRunner::Unknown) => {
                let text = "whether this user may start commands for the agent is not known yet; try again";
                let mut rejection = Rejection::new(ErrorCode::TemporarilyUnavailable, text, peer);
                rejection.refusal.retry_after = Some(UNKNOWN_RETRY);
                Err(rejection)
            }
        }
    }

    async fn decide_delegation(
        &self,
        lookup: PeerLookup,
        request: Result<CheckedDelegateRequest, InvalidRequest>,
    ) -> Result<DelegatedCgroup, Rejection> {
        let peer = self.require_peer(lookup)?;
        let (delegator, request) = self.identify_delegator(&peer, request).await?;
        let is_runner = delegator.runner().is_some();
        let decided = self.decide_identified(peer, delegator, request).await;
        // What a user is refused is not the agent's own request: no rule for anomalies and no rate of it counts that.
        decided.map_err(|rejection| if is_runner { rejection.without_agent() } else { rejection })
    }

    async fn decide_identified(
        &self,
        peer: Peer,
        delegator: Delegator,
        request: CheckedDelegateRequest,
    ) -> Result<DelegatedCgroup, Rejection> {
        let agent = delegator.agent().clone();
        let refuse = |code, text: String| Rejection::new(code, text, &peer).with_agent(&agent);
        let CheckedDelegateRequest { name, cgroup, rights, ttl, .. } = request;
        let runner = delegator.runner().map(|_| self.deps.agents.candidates(&peer));
        let cgroup = own_cgroups(&agent, &peer, runner.as_ref())
            .path(&cgroup)
            .map_err(delegation::Error::from)
            .and_then(|path| Ok(Cgroup::open(&path)?))
            .map_err(|e| refuse(error_code(&e), e.to_string()))?;
        let boundary = boundary(&agent, &cgroup, peer.uid);
        let request = DelegationRequest { name, rights, ttl, boundary };
        let permit = policy::decide_delegation(&delegator, &self.circumstances(), request)?;
        self.require_clock()
            .map_err(|refusal| Rejection::from(refusal).with_peer(&peer).with_agent(&agent))?;
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(&agent))?;
        let spiffe_id = issuer_state.host().sub_agent_id(agent.entry(), permit.name());
        if spiffe_id.len() > MAX_SPIFFE_ID_LEN {
            let text = format!(
                "the SPIFFE ID would have {} characters, and relying parties accept at most {MAX_SPIFFE_ID_LEN}; give \
                 the sub-agent a shorter name",
                spiffe_id.len()
            );
            return Err(refuse(ErrorCode::InvalidRequest, text));
        }
        let delegation = self
            .create_delegation(&peer, &permit, cgroup, runner)
            .await
            .map_err(|e| refuse(error_code(&e), e.to_string()))?;
        // Its end is the end of the sub-agent. What the process gets for itself is noticed when it gets it.
        self.deps.invocations.issued(agent.peer(), permit.name(), delegation.expires);
        self.ensure_still_permitted(&permit, &delegation).await?;
        Ok(DelegatedCgroup::new(permit, delegation, spiffe_id))
    }

    /// Looks at the processes in the cgroup and stores the delegation, on a thread that may wait.
    async fn create_delegation(
        &self,
        peer: &Peer,
        permit: &DelegationPermit,
        cgroup: Cgroup,
        runner: Option<Candidates>,
    ) -> Result<Arc<Delegation>, delegation::Error> {
        let deps = self.deps.clone();
        let (peer, permit) = (peer.clone(), permit.clone());
        let create = move || {
            let own = own_cgroups(permit.agent(), &peer, runner.as_ref());
            own.check(&cgroup)?;
            // Those of a cgroup that is delegated again are the sub-agent's.
            let known = deps.agents.registrations().delegations.get(permit.name().as_str()).cloned();
            if known.is_none_or(|known| known.cgroup != cgroup) {
                own.check_processes(&cgroup, &deps.agents)?;
            }
            let new = NewDelegation::new(&permit, cgroup);
            deps.delegations.create(new, deps.clock.now(), deps.clock.boot_time())
        };
        let created = tokio::task::spawn_blocking(create).await;
        created.unwrap_or_else(|e| Err(delegation::Error::Unknown(e.to_string())))
    }

    /// Ends a delegation whose parent was revoked or changed while it was stored.
    async fn ensure_still_permitted(
        &self,
        permit: &DelegationPermit,
        delegation: &Delegation,
    ) -> Result<(), Rejection> {
        let agent = permit.agent();
        let checked = self
            .ensure_current(agent)
            .and_then(|()| self.ensure_policies(permit.policy(), agent))
            .and_then(|()| self.ensure_not_revoked(agent));
        if let Err(rejection) = &checked {
            let reason = rejection.refusal.description.clone();
            self.deps.delegations.end_agents(delegation.agent.as_str(), &reason);
            self.deps.delegations.store().await;
        }
        checked
    }
}

/// What keeps the processes in the cgroup. It does not keep them from being their parent where that is any process of the
/// user: cron, a login or the user's service manager starts one elsewhere for them.
/// Nor where users may start commands for the agent: one of them can have a process started that starts another one.
fn boundary(agent: &AuthenticatedAgent, cgroup: &Cgroup, uid: u32) -> Boundary {
    let root = agent.entry().root();
    let is_of_unit = root.selectors.unit.is_some() || root.selectors.container.is_some();
    match is_of_unit && root.run.is_none() {
        true => cgroup.boundary(uid),
        false => Boundary::Cooperative,
    }
}

/// The cgroups below which the agent may delegate. `peer` is the process as it connected.
fn own_cgroups<'a>(
    agent: &'a AuthenticatedAgent,
    peer: &'a Peer,
    runner: Option<&'a Candidates>,
) -> OwnCgroups<'a> {
    let slice = agent.entry().delegate.as_ref().and_then(|delegate| delegate.slice.as_deref());
    OwnCgroups {
        caller: peer,
        agent: agent.name().as_str(),
        delegation: agent.delegation(),
        slice: slice.filter(|_| runner.is_none()),
        runner,
    }
}

fn error_code(error: &delegation::Error) -> ErrorCode {
    match error {
        delegation::Error::Cgroup(CgroupError::NoHierarchy | CgroupError::Unreadable(_))
        | delegation::Error::Unknown(_)
        | delegation::Error::Store(_) => ErrorCode::TemporarilyUnavailable,
        delegation::Error::Cgroup(_) | delegation::Error::NameInUse { .. } => ErrorCode::InvalidRequest,
        delegation::Error::Placement(
            PlacementError::Own(_) | PlacementError::NoOwn | PlacementError::Slice(_),
        ) => ErrorCode::InvalidRequest,
        delegation::Error::Placement(_) => ErrorCode::AccessDenied,
        delegation::Error::TooManyOfAgent(..) | delegation::Error::TooMany => ErrorCode::SlowDown,
    }
}

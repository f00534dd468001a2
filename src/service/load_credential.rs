//! Credentials for service managers: `LoadCredential=` in units.
//!
//! A service manager connects from a child that is in the unit's cgroup already and says the unit and the
//! credential in the address of its socket, which any process can choose. The address is therefore only a
//! request; who asks is known from the kernel:
//!
//! - root in the unit that the address names: a child of the system's service manager. The credential is that
//!   of an agent with this `unit`. The unit's process does not run yet, so its user is asked of the service
//!   manager, and an agent with conditions on the program is refused.
//! - a process of a user in `user@UID.service`: a child of the user's service manager, or any other process
//!   of the user, who could write both address and cgroup. It gets what it would get on the agent socket.

use super::error::{InvalidRequest, RequestError};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::{Outcome, RequestKind};
use crate::agents::{self, AuthenticatedAgent};
use crate::audit::Recorded;
use crate::credentials::ReleasedCredential;
use crate::peer::{Peer, PeerLookup};
use crate::policy::{CredentialRequest, ErrorCode, RateLimitKey, Refusal, Stage};
use crate::wire::manager_address::ManagerAddress;

/// Why a credential is not loaded.
#[derive(Debug)]
pub struct LoadRefused {
    /// Whether the caller is a service manager that starts a unit: the unit is not to start without the
    /// credential.
    pub fails_unit: bool,
    /// The refusal, or the failure of the audit log.
    pub error: RequestError,
}

impl From<&LoadRefused> for Outcome {
    fn from(refused: &LoadRefused) -> Outcome {
        (&refused.error).into()
    }
}

/// Who connected.
enum Caller {
    /// The system's service manager, for a unit.
    SystemManager,
    /// A process of a user, below the user's service manager.
    UserManager,
}

impl IdentityService {
    /// The latest value of a sealed credential, for the unit that a service manager is about to start.
    ///
    /// # Errors
    /// [`LoadRefused`] with a recorded refusal.
    pub async fn load_credential(
        &self,
        lookup: PeerLookup,
        address: Result<ManagerAddress, InvalidRequest>,
    ) -> Result<Recorded<ReleasedCredential>, LoadRefused> {
        let decision = async {
            let (fails_unit, released) = match self.identify_manager(lookup, address) {
                Err(rejection) => (false, Err(rejection)),
                Ok((peer, caller, address)) => (true, self.decide_load(&peer, caller, &address).await),
            };
            let error = match released {
                Ok(released) => match self.audit.record_credential(released).await {
                    Ok(recorded) => return Ok(recorded),
                    Err(unavailable) => unavailable.into(),
                },
                Err(rejection) => self.record_rejection(rejection).await,
            };
            Err(LoadRefused { fails_unit, error })
        };
        self.measured(RequestKind::LoadedCredential, decision).await
    }

    /// Tells who connected, by the kernel's information.
    fn identify_manager(
        &self,
        lookup: PeerLookup,
        address: Result<ManagerAddress, InvalidRequest>,
    ) -> Result<(Peer, Caller, ManagerAddress), Rejection> {
        let peer = self.require_peer(lookup)?;
        let refuse = |code, description: String| {
            self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(&peer))?;
            Err(Rejection::new(code, description, &peer))
        };
        let address = match address {
            Ok(address) => address,
            Err(e) => return refuse(ErrorCode::InvalidRequest, e.to_string()),
        };
        let unit = peer.unit.as_deref().unwrap_or_default();
        let caller = if peer.uid == 0 && unit == address.unit {
            Caller::SystemManager
        } else if unit == format!("user@{}.service", peer.uid) {
            Caller::UserManager
        } else {
            let description = format!(
                "the address names the unit {}, and the process is not root in it; this socket is for service \
                 managers that load credentials of a unit",
                address.unit.escape_debug()
            );
            return refuse(ErrorCode::InvalidClient, description);
        };
        Ok((peer, caller, address))
    }

    async fn decide_load(
        &self,
        manager: &Peer,
        caller: Caller,
        address: &ManagerAddress,
    ) -> Result<ReleasedCredential, Rejection> {
        if !agents::is_credential_name(&address.credential) {
            let description = format!(
                "\"{}\" is not a credential's name, which has a-z 0-9 . _ - and at most 63 characters; \
                 LoadCredential= takes the name before its colon",
                address.credential.escape_debug()
            );
            self.check_rate(RateLimitKey::UnknownUid(manager.uid), Some(manager))?;
            return Err(Rejection::new(ErrorCode::InvalidRequest, description, manager));
        }
        let agents = match caller {
            Caller::SystemManager => self.unit_agents(manager, &address.unit).await?,
            Caller::UserManager => self.matching_agents(manager).await?,
        };
        let agent = choose(agents, &address.credential)?;
        self.check_agent_rate(&agent)?;
        if agent.entry().credential(&address.credential).is_some_and(|granted| granted.approval.is_some()) {
            let description = "this credential needs an approval, and a service manager cannot wait for one; have the \
                               program ask with \"hostbadge credential get --wait-approval\"";
            let refusal = Refusal::new(ErrorCode::AccessDenied, description).at(Stage::Context);
            return Err(refusal
                .with_peer(agent.peer())
                .with_agent(agent.name())
                .with_credential(&address.credential)
                .into());
        }
        let request = CredentialRequest { name: address.credential.clone(), version: None, agent: None };
        self.release_approved(agent, request).await
    }

    /// The agents of a unit whose process does not run yet, at least one, sorted by name.
    async fn unit_agents(&self, manager: &Peer, unit: &str) -> Result<Vec<AuthenticatedAgent>, Rejection> {
        let process =
            if self.deps.agents.current().has_user_conditions_on(unit) {
                let user =
                    self.deps.service_manager.unit_user(unit).await.map_err(|e| {
                        Rejection::new(ErrorCode::TemporarilyUnavailable, e.to_string(), manager)
                    })?;
                let groups = self.deps.agents.registrations().group_numbers(&user.groups);
                manager.future_process(Some((user.uid, user.gid)), groups)
            } else {
                manager.future_process(None, Vec::new())
            };
        let mut agents = match self.matching_agents(&process).await {
            Ok(agents) => agents,
            Err(rejection) => return Err(self.name_condition_on_program(rejection, unit)),
        };
        // A registration that is by user or group alone is none of the unit.
        agents.retain(|agent| agent.entry().is_loadable_for(unit));
        if agents.is_empty() {
            let description = format!("no registered agent has unit = \"{unit}\"");
            let rejection = Rejection::new(ErrorCode::InvalidClient, description, manager);
            return Err(self.name_condition_on_program(rejection, unit));
        }
        Ok(agents)
    }

    /// Says what administrators would look for where an agent of the unit has conditions on the program.
    fn name_condition_on_program(&self, mut rejection: Rejection, unit: &str) -> Rejection {
        let agents = self.deps.agents.current();
        let agent = agents.with_conditions_on_program(unit);
        if let (ErrorCode::InvalidClient, Some(agent)) = (rejection.refusal.code, agent) {
            rejection.refusal.description = format!(
                "agent \"{}\" of this unit has conditions on its program, which does not run yet when the \
                 service manager loads credentials; have the program ask with \"hostbadge credential get\", \
                 or register the unit without them",
                agent.name
            );
        }
        rejection
    }
}

/// The agent whose credential is meant: the only one that has it.
fn choose(mut agents: Vec<AuthenticatedAgent>, credential: &str) -> Result<AuthenticatedAgent, Rejection> {
    let has = |agent: &AuthenticatedAgent| agent.entry().credential(credential).is_some();
    let with: Vec<usize> = (0..agents.len()).filter(|index| has(&agents[*index])).collect();
    match with.as_slice() {
        // The policy refuses it, with the name of the agent.
        [] => Ok(agents.swap_remove(0)),
        [index] => Ok(agents.swap_remove(*index)),
        [first, ..] => {
            let names: Vec<String> = with.iter().map(|index| agents[*index].name().to_string()).collect();
            let description = format!(
                "several agents of this unit have the credential, and LoadCredential= cannot name one: {}; \
                 leave it in the file of one of them",
                names.join(", ")
            );
            let peer = agents[*first].peer();
            let refusal = Refusal::new(ErrorCode::InvalidRequest, description);
            Err(refusal.with_peer(peer).with_credential(credential).into())
        }
    }
}

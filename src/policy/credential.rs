//! Decides requests for sealed credentials by the agent's tables `[[credential]]`. Only this file constructs
//! a [`CredentialPermit`].

use crate::agents::{AuthenticatedAgent, CredentialUse};
use crate::posture::Posture;

use super::cedar::{Act, Approval, PolicySetId};
use super::circumstances::{CREDENTIAL, Circumstances};
use super::decision::check_posture;
use super::refusal::{ErrorCode, Refusal};

/// A request for the value of a credential: well-formed, but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRequest {
    /// The credential's name.
    pub name: String,
    /// The version; `None` requests the latest.
    pub version: Option<u64>,
    /// Name of the agent that the caller acts as; required only if the caller matches several agents.
    pub agent: Option<String>,
}

/// A positive decision on the release of one credential.
#[derive(Debug)]
pub struct CredentialPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
    approval: Approval,
    name: String,
    version: Option<u64>,
}

impl CredentialPermit {
    /// Returns the agent that gets the value.
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    /// Returns the posture at the decision; [`Posture::Off`] if the decision did not evaluate it.
    pub fn posture(&self) -> Posture {
        self.posture
    }

    /// Returns the policies that were in force.
    pub fn policy(&self) -> Option<PolicySetId> {
        self.approval.set()
    }

    /// Returns the credential's name, within the agent's tenant.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the requested version; `None` for the latest.
    pub fn version(&self) -> Option<u64> {
        self.version
    }
}

/// Decides whether an agent gets the value of a credential. The credential is one of the agent's own tenant.
///
/// # Errors
/// A [`Refusal`] with `invalid_target` if the agent has no `[[credential]]` of this name, and `access_denied`
/// if it is revoked, may not have the value or is drained, the permission has expired or does not count at this hour, or
/// the host's posture or a policy forbids it.
pub fn decide_credential(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
    request: CredentialRequest,
) -> Result<CredentialPermit, Refusal> {
    let named = |refusal: Refusal| circumstances.refusal(refusal, &agent).with_credential(&request.name);
    circumstances.check_revoked(&agent).map_err(|refusal| refusal.with_credential(&request.name))?;
    let refuse = |code, description: String| named(Refusal::new(code, description));
    let granted = agent.entry().credential(&request.name);
    let Some(granted) = granted else {
        let description = format!("agent \"{}\" has no [[credential]] of this name", agent.name());
        return Err(refuse(ErrorCode::InvalidTarget, description));
    };
    if granted.usage == CredentialUse::Inject {
        let description = format!(
            "agent \"{}\" may use this credential only through the egress proxy; its value is released where \
             the administrator sets use = \"release\"",
            agent.name()
        );
        return Err(refuse(ErrorCode::AccessDenied, description));
    }
    circumstances.check_limits(agent.entry(), CREDENTIAL, &granted.limits).map_err(named)?;
    let host_posture = &circumstances.posture;
    let posture = check_posture(granted.posture.unwrap_or(host_posture.mode), host_posture).map_err(named)?;
    let act = Act::Credential { name: &request.name, usage: "release", request: None };
    let approval = circumstances.approve(&agent, posture, act).map_err(named)?;
    Ok(CredentialPermit { posture, approval, name: request.name, version: request.version, agent })
}

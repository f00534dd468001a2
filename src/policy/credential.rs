//! Decides requests for sealed credentials by the agent's tables `[[credential]]`. Only this file constructs
//! a [`CredentialPermit`].

use crate::agents::{AuthenticatedAgent, CredentialUse};
use crate::approvals::{ApprovalAction, UsedApproval};
use crate::posture::Posture;

use super::cedar::{Act, Allowed, PolicySetId};
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
    allowed: Allowed,
    name: String,
    version: Option<u64>,
    used_approval: Option<Box<UsedApproval>>,
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
        self.allowed.set()
    }

    /// Returns the credential's name, within the agent's tenant.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the requested version; `None` for the latest.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Returns the approval by an administrator that the request has used, if its `[[credential]]` requires one.
    pub fn used_approval(&self) -> Option<&UsedApproval> {
        self.used_approval.as_deref()
    }
}

/// Decides whether an agent gets the value of a credential. The credential is one of the agent's own tenant.
///
/// # Errors
/// A [`Refusal`] with `invalid_target` if the agent has no `[[credential]]` of this name, and `access_denied`
/// if it is revoked, may not have the value or is drained, the permission has expired or does not count at this hour, or
/// the host's posture, a policy or an administrator forbids it, and `authorization_pending` if an administrator has to
/// approve it.
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
    let only = match granted.usage {
        CredentialUse::Release => None,
        CredentialUse::Inject => Some("through the egress proxy"),
        CredentialUse::Sign => Some("for signatures, by hostbadge prove sigv4"),
    };
    if let Some(only) = only {
        let description = format!(
            "agent \"{}\" may use this credential only {only}; its value is released where the administrator sets use = \
             \"release\"",
            agent.name()
        );
        return Err(refuse(ErrorCode::AccessDenied, description));
    }
    circumstances.check_limits(agent.entry(), CREDENTIAL, &granted.limits).map_err(named)?;
    let host_posture = &circumstances.posture;
    let posture = check_posture(granted.posture.unwrap_or(host_posture.mode), host_posture).map_err(named)?;
    let is_approved = granted.approval.is_some();
    let act = Act::Credential { name: &request.name, usage: "release", approved: is_approved, request: None };
    let allowed = circumstances.allow(&agent, posture, act).map_err(named)?;
    let action = || ApprovalAction::Credential { name: request.name.clone(), version: request.version };
    let used_approval = circumstances.take_approval(&agent, granted.approval, action).map_err(named)?;
    Ok(CredentialPermit {
        posture,
        allowed,
        name: request.name,
        version: request.version,
        used_approval,
        agent,
    })
}

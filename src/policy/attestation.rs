//! Decides requests for evidence. Only this file constructs an [`AttestationPermit`].

use crate::agents::AuthenticatedAgent;
use crate::posture::{Posture, PostureMode};

use super::cedar::{Act, Allowed, PolicySetId};
use super::circumstances::Circumstances;
use super::refusal::Refusal;

/// A positive decision on evidence about the host. It needs no grant, because evidence is public.
#[derive(Clone, Debug)]
pub struct AttestationPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
    allowed: Allowed,
}

impl AttestationPermit {
    /// Returns the agent that gets the evidence.
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    /// Returns the posture at the decision; [`Posture::Off`] if it was not evaluated.
    pub fn posture(&self) -> Posture {
        self.posture
    }

    /// Returns the policies that were in force.
    pub fn policy(&self) -> Option<PolicySetId> {
        self.allowed.set()
    }
}

/// Decides whether an agent may have evidence. The posture does not forbid it: a verifier learns of a host
/// whose posture is not accepted by its evidence.
///
/// # Errors
/// A [`Refusal`] with `access_denied` if the agent is revoked or the policies forbid it.
pub fn decide_attestation(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
) -> Result<AttestationPermit, Refusal> {
    circumstances.check_revoked(&agent)?;
    let posture = match circumstances.posture.mode {
        PostureMode::Off => Posture::Off,
        PostureMode::Warn | PostureMode::Enforce => circumstances.posture.posture,
    };
    match circumstances.allow(&agent, posture, Act::Attest) {
        Ok(allowed) => Ok(AttestationPermit { agent, posture, allowed }),
        Err(refusal) => Err(circumstances.refusal(refusal, &agent)),
    }
}

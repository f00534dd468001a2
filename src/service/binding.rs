//! What tokens are bound to: the proof keys of agents, and their certificates.

use std::sync::Arc;

use super::identity_service::IdentityService;
use super::rejection::Rejection;
use crate::agents::{AuthenticatedAgent, Binding};
use crate::issue::HostIdentity;
use crate::policy::{ErrorCode, Permit, Refusal};
use crate::present::ProofKey;

impl IdentityService {
    /// Adds to a permit what its token is bound to.
    ///
    /// # Errors
    /// `invalid_request` if the token is to be bound to a certificate and `certificate` is not one of the agent's, or if
    /// `certificate` is given for another binding; the errors of [`IdentityService::proof_key`].
    pub(super) fn bind(
        &self,
        permit: Permit,
        certificate: Option<&str>,
        host: &HostIdentity,
    ) -> Result<Permit, Rejection> {
        let refuse = |permit: &Permit, description: String| {
            Rejection::new(ErrorCode::InvalidRequest, description, permit.agent().peer())
                .with_agent(permit.agent())
                .with_audience(permit.audience())
        };
        match (permit.binding(), certificate) {
            (Binding::None, None) => Ok(permit),
            (Binding::Dpop, None) => {
                let key = self.proof_key(permit.agent())?;
                Ok(permit.bound_to(key.jkt()))
            }
            (Binding::None | Binding::Dpop, Some(_)) => {
                Err(refuse(&permit, "certificate is for tokens with bind = \"mtls\"".to_owned()))
            }
            (Binding::Mtls, None) => {
                let description = "the token is to be bound to a certificate: certificate has to be the agent's, in \
                                   PEM, as POST /v1/certificate returned it";
                Err(refuse(&permit, description.to_owned()))
            }
            (Binding::Mtls, Some(pem)) => {
                let spiffe_id = host.spiffe_id(permit.agent().entry());
                let now = self.deps.clock.now();
                let thumbprint = self.deps.certificate_issuer.thumbprint_of_own(pem, &spiffe_id, now);
                let thumbprint = thumbprint.map_err(|e| refuse(&permit, e.to_string()))?;
                Ok(permit.bound_to(&thumbprint))
            }
        }
    }

    /// The proof key of an agent in the invocation of its process.
    ///
    /// # Errors
    /// `temporarily_unavailable` if the invocation is not known, and `server_error` if no key can be generated.
    pub(super) fn proof_key(&self, agent: &AuthenticatedAgent) -> Result<Arc<ProofKey>, Rejection> {
        let invocation = invocation(agent)?;
        let key = self.deps.proof_keys.current(agent.name().as_str(), invocation, self.deps.clock.now());
        key.map_err(|e| Rejection::new(ErrorCode::ServerError, e.to_string(), agent.peer()).with_agent(agent))
    }

    /// The proof key of an agent with this thumbprint, or its present one.
    ///
    /// # Errors
    /// As [`IdentityService::proof_key`]; `invalid_request` if the agent has no such key in this invocation.
    pub(super) fn proof_key_of(
        &self,
        agent: &AuthenticatedAgent,
        jkt: Option<&str>,
    ) -> Result<Arc<ProofKey>, Rejection> {
        let Some(jkt) = jkt else { return self.proof_key(agent) };
        let found =
            self.deps.proof_keys.find(agent.name().as_str(), invocation(agent)?, jkt, self.deps.clock.now());
        found.ok_or_else(|| {
            let description = "the token is bound to a key that this agent does not have in this invocation; request \
                               a new token";
            Rejection::new(ErrorCode::InvalidRequest, description, agent.peer()).with_agent(agent)
        })
    }
}

fn invocation(agent: &AuthenticatedAgent) -> Result<&str, Refusal> {
    agent.peer().invocation.as_deref().ok_or_else(|| {
        let description = "a proof key is one of an invocation, and that of this process is not known";
        Refusal::new(ErrorCode::TemporarilyUnavailable, description)
            .with_peer(agent.peer())
            .with_agent(agent.name())
    })
}

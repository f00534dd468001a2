//! Proofs of possession for one HTTP request, and client assertions.

use super::approvals::rejection_of;
use super::credentials::refusal_of;
use super::error::{InvalidRequest, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use super::requests::{self, CheckedProofRequest};
use crate::issue::{IssuedProof, ProofSigner};
use crate::peer::PeerLookup;
use crate::policy::{self, ErrorCode, ProofPermit, Refusal};
use crate::present::AccessKey;
use crate::wire::agent::ProveRequest;

impl IdentityService {
    /// A proof for one HTTP request or authorization server, for the agent that the caller matches.
    ///
    /// # Errors
    /// A recorded refusal, also where `request` is an error.
    pub async fn prove(
        &self,
        lookup: PeerLookup,
        request: Result<ProveRequest<'_>, InvalidRequest>,
    ) -> RequestResult<IssuedProof> {
        let decision = async {
            match self.decide_proof(lookup, request.and_then(requests::proof_request)).await {
                Ok(proof) => {
                    self.watch_invocation(proof.permit().agent(), proof.expires());
                    Ok(self.audit.record_proof(proof).await?)
                }
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::Proof, decision).await
    }

    async fn decide_proof(
        &self,
        lookup: PeerLookup,
        request: Result<CheckedProofRequest, InvalidRequest>,
    ) -> Result<IssuedProof, Rejection> {
        let peer = self.require_peer(lookup)?;
        let (agent, checked) =
            self.identify_for(&peer, request, |checked| checked.request.agent.as_deref()).await?;
        let CheckedProofRequest { request, details } = checked;
        self.wait_for_signer(std::slice::from_ref(&agent)).await?;
        if let Some(permission) = policy::proof_permission(agent.entry(), &request)
            && permission.approval().is_some()
        {
            if let Some(credential) = permission.credential() {
                self.require_credential(&agent, credential, None)?;
            }
            self.prepare_approval(&agent).await?;
        }
        let permit = policy::decide_proof(agent, &self.circumstances(), request).map_err(rejection_of)?;
        let agent = permit.agent();
        self.require_clock()
            .map_err(|refusal| Rejection::from(refusal).with_peer(&peer).with_agent(agent))?;
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(&peer).with_agent(agent))?;
        let (proof_key, access_key);
        let signer = if permit.kind().needs_credential() {
            access_key = self.access_key(&permit)?;
            ProofSigner::AccessKey(&access_key.0, access_key.1)
        } else if permit.kind().needs_proof_key() {
            proof_key = self.proof_key_of(agent, details.jkt())?;
            ProofSigner::ProofKey(&proof_key)
        } else {
            ProofSigner::IssuingKey
        };
        Ok(issuer_state.prove(permit, &details, signer, self.deps.clock.now())?)
    }

    /// The access key in the credential of a permitted signature, and its version.
    fn access_key(&self, permit: &ProofPermit) -> Result<(AccessKey, u64), Refusal> {
        let named = |refusal: Refusal| {
            let refusal = refusal.with_peer(permit.agent().peer()).with_agent(permit.agent().name());
            permit.source().name_in(refusal)
        };
        let (version, value) =
            self.deps.credentials.open_for_proof(permit).map_err(|e| named(refusal_of(&e)))?;
        let key = AccessKey::parse(value.as_str())
            .map_err(|e| named(Refusal::new(ErrorCode::ServerError, e.to_string()).imposed()))?;
        Ok((key, version))
    }
}

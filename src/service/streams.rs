//! Streams of the Workload API: who follows them, and whether what they were sent is still valid.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::error::{InvalidRequest, NotReady, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use super::requests;
use crate::agents::{AuthenticatedAgent, Registrations};
use crate::clock::BootTime;
use crate::federation::FederatedBundles;
use crate::issue::{IssuerState, WitSvid};
use crate::peer::{self, Peer, PeerInfo, PeerLookup};
use crate::pki::IssuedX509Svid;
use crate::policy::{self, Circumstances, ErrorCode, IdentityPermit, PolicySetId, Refusal, Stage};
use crate::posture::Posture;

/// A caller is identified again after this time, even if nothing else changed: the wall clock may have been
/// set meanwhile.
const IDENTITY_TTL: Duration = Duration::from_secs(30);

/// What a poll finds out about the process that opened a connection.
pub enum CallerCheck {
    /// The process exists.
    Present(Box<IdentityInputs>),
    /// The process could not be read; the next poll decides.
    Retry,
    /// The process has ended or is another one now.
    Gone,
}

/// Everything that a caller's agents and their credentials depend on, at one poll.
pub struct IdentityInputs {
    peer: Peer,
    registrations: Arc<Registrations>,
    issuer_state: Option<Arc<IssuerState>>,
    bundles: Arc<FederatedBundles>,
    ca_generation: u64,
    posture: Posture,
    revocations: u64,
    taken_at: Instant,
}

/// What the bundles and revocation lists are made from, at one moment. It keeps none of it in memory.
#[derive(Debug)]
pub struct BundleVersion {
    issuer_state: Option<Weak<IssuerState>>,
    federated: Weak<FederatedBundles>,
    ca_generation: u64,
}

impl BundleVersion {
    /// Whether the bundles and lists are the same.
    pub fn is_same(&self, other: &BundleVersion) -> bool {
        // The memory of what a `Weak` points to is not used again while it exists.
        let issuer_ptr = |version: &BundleVersion| version.issuer_state.as_ref().map(Weak::as_ptr);
        issuer_ptr(self) == issuer_ptr(other)
            && Weak::ptr_eq(&self.federated, &other.federated)
            && self.ca_generation == other.ca_generation
    }
}

impl IdentityService {
    /// The present version of the bundles and revocation lists.
    pub fn bundle_version(&self) -> BundleVersion {
        BundleVersion {
            issuer_state: self.deps.issuer.state().as_ref().map(Arc::downgrade),
            federated: Arc::downgrade(&self.deps.federation.bundles()),
            ca_generation: self.deps.certificate_issuer.generation(),
        }
    }

    /// Reads a caller again, without identifying it.
    pub fn check_caller(&self, lookup: PeerLookup) -> CallerCheck {
        let peer = match lookup.peer {
            Ok(peer) => peer,
            Err(peer::Error::ConcurrentChange | peer::Error::Hidden | peer::Error::Kernel(_)) => {
                return CallerCheck::Retry;
            }
            Err(_) => return CallerCheck::Gone,
        };
        CallerCheck::Present(Box::new(IdentityInputs {
            peer,
            registrations: self.deps.agents.registrations(),
            issuer_state: self.deps.issuer.state(),
            bundles: self.deps.federation.bundles(),
            ca_generation: self.deps.certificate_issuer.generation(),
            posture: self.posture(),
            revocations: self.deps.revocations.generation(),
            taken_at: Instant::now(),
        }))
    }

    /// The agents that a caller matches, without a rate and without a record; none where it matches no agent.
    pub async fn agents_of_caller(&self, inputs: &IdentityInputs) -> Option<Vec<AuthenticatedAgent>> {
        let agents = &self.deps.agents;
        let candidates = agents.candidates(&inputs.peer);
        agents.identify(candidates, self.deps.posture.ima_digests()).await.all().ok()
    }

    /// SPIFFE IDs of agents, in their order.
    ///
    /// # Errors
    /// [`NotReady`] while the host's identity is not loaded.
    pub fn spiffe_ids(&self, agents: &[AuthenticatedAgent]) -> Result<Vec<String>, NotReady> {
        let issuer_state = self.ready_issuer()?;
        Ok(agents.iter().map(|agent| issuer_state.host().spiffe_id(agent.entry())).collect())
    }

    /// Whether a text is the SPIFFE ID of a workload, or empty.
    ///
    /// # Errors
    /// [`InvalidRequest`] with the text for the caller.
    pub fn check_spiffe_id(&self, spiffe_id: &str) -> Result<(), InvalidRequest> {
        requests::check_spiffe_id(spiffe_id)
    }

    /// A WIT-SVID with its key, for an agent with an open stream. With `denial_logged`, a refusal is
    /// counted and not recorded, because the stream's previous refusal was.
    ///
    /// # Errors
    /// A refusal, also where the agent is no longer registered as it was when the stream identified it.
    pub async fn issue_wit_svid(
        &self,
        agent: &AuthenticatedAgent,
        denial_logged: bool,
    ) -> RequestResult<WitSvid> {
        let decision = async {
            let waited = self.wait_for_signer(std::slice::from_ref(agent)).await;
            let issue = || -> Result<WitSvid, Rejection> {
                waited?;
                let (permit, issuer_state) = self.permit_stream_identity(agent)?;
                let ttl = self.deps.certificate_issuer.ttl();
                self.check_live_tokens(agent, ttl)?;
                Ok(issuer_state.mint_wit_svid(permit, ttl, self.deps.clock.now())?)
            };
            match issue() {
                Ok(svid) => {
                    self.watch_invocation(agent, svid.expires());
                    Ok(self.audit.record_wit_svid(svid).await?)
                }
                Err(rejection) => Err(self.record_rejection(rejection.counted_if(denial_logged)).await),
            }
        };
        self.measured(RequestKind::WitSvid, decision).await
    }

    /// Whether the host's posture and the policies permit that an agent keeps credentials of its identity. A
    /// drained agent gets no new ones, and keeps what it has until that expires.
    pub fn may_have_identity(&self, agent: &AuthenticatedAgent) -> bool {
        policy::decide_kept_identity(agent.clone(), &self.circumstances()).is_ok()
    }

    /// Whether a certificate counts as issued: it was not revoked, and its issuing CA is still trusted.
    pub fn is_x509_svid_valid(&self, certificate: &IssuedX509Svid) -> bool {
        self.deps.certificate_issuer.is_valid(certificate)
    }

    /// Whether the key that signed a WIT-SVID is still the one that signs: after a rotation, streams get new
    /// WIT-SVIDs. There is no revocation list for WIT-SVIDs.
    pub fn is_wit_svid_valid(&self, svid: &WitSvid) -> bool {
        self.deps.issuer.state().is_none_or(|issuer_state| issuer_state.is_current_wit_kid(svid.kid()))
    }

    /// What an SVID for an agent with an open stream needs: the permit, and the issuer's state.
    pub(super) fn permit_stream_identity(
        &self,
        agent: &AuthenticatedAgent,
    ) -> Result<(IdentityPermit, Arc<IssuerState>), Rejection> {
        self.ensure_current(agent)?;
        let permit = self.permit_identity(agent)?;
        self.require_clock()
            .map_err(|refusal| Rejection::from(refusal).with_peer(agent.peer()).with_agent(agent))?;
        let issuer_state =
            self.issuer_state().map_err(|rejection| rejection.with_peer(agent.peer()).with_agent(agent))?;
        Ok((permit, issuer_state))
    }

    /// Refuses agents whose registration, or a number in it, changed since the caller was identified.
    pub(super) fn ensure_current(&self, agent: &AuthenticatedAgent) -> Result<(), Rejection> {
        if self.deps.agents.is_current(agent) {
            return Ok(());
        }
        let description = "the agent configuration has changed; retry";
        Err(Rejection::new(ErrorCode::TemporarilyUnavailable, description, agent.peer()).with_agent(agent))
    }

    fn permit_identity(&self, agent: &AuthenticatedAgent) -> Result<IdentityPermit, Rejection> {
        Ok(policy::decide_identity(agent.clone(), &self.circumstances())?)
    }

    /// The host and the time, for a decision that is made at once.
    pub(super) fn circumstances(&self) -> Circumstances {
        let revocations = self.deps.revocations.current();
        Circumstances {
            posture: self.deps.posture.evaluate(BootTime::now()),
            policies: self.deps.policies.snapshot(),
            time: self.deps.clock_state.at_decision(),
            unknown_revocations: (!revocations.is_loaded()).then(|| self.why_revocations_are_unknown()),
            revocations,
        }
    }

    /// Refuses an agent that was revoked since its request was decided.
    pub(super) fn ensure_not_revoked(&self, agent: &AuthenticatedAgent) -> Result<(), Rejection> {
        match self.deps.revocations.current().blocking(agent) {
            None => Ok(()),
            Some(revocation) => {
                let description = revocation.description();
                let refusal =
                    Refusal::new(ErrorCode::AccessDenied, description).at(Stage::Identity).imposed();
                Err(Rejection::from(refusal).with_peer(agent.peer()).with_agent(agent))
            }
        }
    }

    /// Refuses what was decided by policies that are no longer in force.
    pub(super) fn ensure_policies(
        &self,
        decided_by: Option<PolicySetId>,
        agent: &AuthenticatedAgent,
    ) -> Result<(), Rejection> {
        if self.deps.policies.snapshot().id() == decided_by {
            return Ok(());
        }
        let description = "the policies have changed; retry";
        Err(Rejection::new(ErrorCode::TemporarilyUnavailable, description, agent.peer()).with_agent(agent))
    }
}

impl IdentityInputs {
    /// Whether nothing has changed since `self` that another identification could depend on.
    pub fn is_unchanged(&self, current: &IdentityInputs) -> bool {
        let issuer_ptr = |inputs: &IdentityInputs| inputs.issuer_state.as_ref().map(Arc::as_ptr);
        std::ptr::eq::<PeerInfo>(&*self.peer, &*current.peer)
            && self.registrations.is_same(&current.registrations)
            && issuer_ptr(self) == issuer_ptr(current)
            && Arc::ptr_eq(&self.bundles, &current.bundles)
            && (self.ca_generation, self.posture) == (current.ca_generation, current.posture)
            && self.revocations == current.revocations
            && current.taken_at.duration_since(self.taken_at) < IDENTITY_TTL
    }
}

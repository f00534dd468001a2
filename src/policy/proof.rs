//! Decides requests for proofs by the agent's grants. Only this file constructs a [`ProofPermit`].

use std::fmt;

use crate::agents::{AgentEntry, AuthenticatedAgent, Grant, Granted};
use crate::approvals::{ApprovalAction, UsedApproval};
use crate::posture::Posture;
use crate::present::{Action, BodyDigest, ProofKind};

use super::cedar::{Act, Allowed, PolicySetId};
use super::circumstances::{Circumstances, GRANT};
use super::decision::check_posture;
use super::refusal::{ErrorCode, Refusal};

/// What a proof is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofTarget {
    /// One HTTP request.
    Action(Action),
    /// An authorization server, by its issuer: the audience of a grant.
    AuthorizationServer(String),
}

/// A request for a proof: well-formed, but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofRequest {
    /// The kind of proof.
    pub kind: ProofKind,
    /// What it is for.
    pub target: ProofTarget,
    /// Name of the agent that the caller acts as; required only if the caller matches several agents.
    pub agent: Option<String>,
}

/// A positive decision on one proof. `issue` builds proofs only from a permit, and only for what it names.
#[derive(Debug)]
pub struct ProofPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
    allowed: Allowed,
    kind: ProofKind,
    target: ProofTarget,
    audience: String,
    client_id: String,
    used_approval: Option<Box<UsedApproval>>,
    epoch: u64,
}

impl ProofPermit {
    /// Returns the agent that gets the proof.
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

    /// Returns the kind of proof.
    pub fn kind(&self) -> ProofKind {
        self.kind
    }

    /// Returns what the proof is for.
    pub fn target(&self) -> &ProofTarget {
        &self.target
    }

    /// Returns the audience of the grant that gives the proof.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Returns the agent's identifier at the authorization server: that of its grant, else its name.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Returns the approval by an administrator that the request has used, if its grant requires one.
    pub fn used_approval(&self) -> Option<&UsedApproval> {
        self.used_approval.as_deref()
    }

    /// Returns the epoch of the revocations at the decision.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl ProofTarget {
    /// What an administrator approves.
    fn approval_action(
        &self,
        proof: ProofKind,
        audience: &str,
        body_sha256: Option<String>,
    ) -> ApprovalAction {
        let request = match self {
            ProofTarget::Action(action) => Some((action.method.to_string(), action.url.as_str().to_owned())),
            ProofTarget::AuthorizationServer(_) => None,
        };
        let (method, url) = request.unzip();
        ApprovalAction::Proof { proof, audience: audience.to_owned(), method, url, body_sha256 }
    }

    fn act<'a>(&'a self, kind: ProofKind, body_sha256: Option<&'a str>) -> Act<'a> {
        let kind = kind.as_str();
        match self {
            ProofTarget::Action(action) => Act::Prove {
                kind,
                url: action.url.as_str(),
                origin: action.url.origin(),
                request: (action.method.as_str(), action.url.path()),
                body_sha256,
            },
            ProofTarget::AuthorizationServer(issuer) => {
                Act::Prove { kind, url: issuer, origin: issuer, request: ("", ""), body_sha256: None }
            }
        }
    }
}

/// As records name it: the method and the URL without its query, which may have a secret, or the issuer.
impl fmt::Display for ProofTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProofTarget::Action(action) => write!(f, "{} {}", action.method, action.url.without_query()),
            ProofTarget::AuthorizationServer(issuer) => f.write_str(issuer),
        }
    }
}

/// Decides a request for a proof by the agent's grants, and then by the policies.
///
/// # Errors
/// A [`Refusal`] with `invalid_target` if no grant gives such a proof for the request, and `access_denied` if the agent
/// is revoked or drained, the grant has expired or does not count at this hour, or the host's posture, a policy or an
/// administrator forbids the proof, and `authorization_pending` if an administrator has to approve it.
pub fn decide_proof(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
    request: ProofRequest,
) -> Result<ProofPermit, Refusal> {
    circumstances.check_revoked(&agent)?;
    let Some(grant) = granting(agent.entry(), &request) else {
        let kind = request.kind.as_str();
        let description = match &request.target {
            ProofTarget::Action(action) => format!(
                "agent \"{}\" has no grant whose proofs have \"{kind}\" and whose actions have {} {}",
                agent.name(),
                action.method,
                action.url.without_query()
            ),
            ProofTarget::AuthorizationServer(_) => {
                format!(
                    "agent \"{}\" has no grant for this audience whose proofs have \"{kind}\"",
                    agent.name()
                )
            }
        };
        return Err(circumstances.refusal(Refusal::new(ErrorCode::InvalidTarget, description), &agent));
    };
    let audience = grant.audience.clone();
    let named = |refusal: Refusal| circumstances.refusal(refusal, &agent).with_audience(&audience);
    circumstances.check_limits(agent.entry(), GRANT, &grant.limits).map_err(named)?;
    let host_posture = &circumstances.posture;
    let posture = check_posture(grant.posture.unwrap_or(host_posture.mode), host_posture).map_err(named)?;
    let body_sha256 = match &request.target {
        ProofTarget::Action(action) => action.body.as_ref().map(BodyDigest::to_hex),
        ProofTarget::AuthorizationServer(_) => None,
    };
    let act = request.target.act(request.kind, body_sha256.as_deref());
    let allowed = circumstances.allow(&agent, posture, act).map_err(named)?;
    let action = || request.target.approval_action(request.kind, &audience, body_sha256.clone());
    let used_approval = circumstances.take_approval(&agent, grant.approval, action).map_err(named)?;
    let client_id = grant.proofs.client_id.clone().unwrap_or_else(|| agent.name().to_string());
    let epoch = circumstances.revocations.epoch();
    let ProofRequest { kind, target, .. } = request;
    Ok(ProofPermit { agent, posture, allowed, kind, target, audience, client_id, used_approval, epoch })
}

/// The first grant that gives the proof.
pub fn granting<'a>(entry: &'a AgentEntry, request: &ProofRequest) -> Option<Granted<'a, Grant>> {
    match &request.target {
        ProofTarget::Action(action) => entry.grants().find(|grant| grant.proofs.allows(request.kind, action)),
        ProofTarget::AuthorizationServer(issuer) => {
            entry.grant(issuer).filter(|grant| grant.proofs.kinds.contains(&request.kind))
        }
    }
}

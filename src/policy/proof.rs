//! Decides requests for proofs by the agent's grants. Only this file constructs a [`ProofPermit`].

use std::fmt;

use crate::agents::{
    AgentEntry, ApprovalMode, AuthenticatedAgent, CredentialGrant, Grant, Granted, SigningGrant, TimeLimits,
};
use crate::approvals::{ApprovalAction, UsedApproval};
use crate::posture::{Posture, PostureMode};
use crate::present::{Action, BodyDigest, ProofKind};

use super::cedar::{Act, Allowed, PolicySetId};
use super::circumstances::{CREDENTIAL, Circumstances, GRANT};
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
    /// With a kind that needs one, the credential; `None` for the first one that signs the request.
    pub credential: Option<String>,
    /// Name of the agent that the caller acts as; required only if the caller matches several agents.
    pub agent: Option<String>,
}

/// What in the agent's file or roles gives a proof.
#[derive(Debug)]
pub enum ProofPermission<'a> {
    /// A grant.
    Grant(Granted<'a, Grant>),
    /// A `[[credential]]` with what it signs.
    Credential(Granted<'a, CredentialGrant>, &'a SigningGrant),
}

/// What gives a permitted proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofSource {
    /// The grant for this audience.
    Grant {
        /// The audience.
        audience: String,
    },
    /// The sealed credential of this name.
    Credential {
        /// Its name within the agent's tenant.
        name: String,
        /// The region in the signature.
        region: String,
        /// The service in the signature.
        service: String,
    },
}

/// A positive decision on one proof. `issue` builds proofs only from a permit, and only for what it names.
#[derive(Debug)]
pub struct ProofPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
    allowed: Allowed,
    kind: ProofKind,
    target: ProofTarget,
    source: ProofSource,
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

    /// Returns what gives the proof.
    pub fn source(&self) -> &ProofSource {
        &self.source
    }

    /// Returns the audience of the grant that gives the proof; `None` if a credential does.
    pub fn audience(&self) -> Option<&str> {
        match &self.source {
            ProofSource::Grant { audience } => Some(audience),
            ProofSource::Credential { .. } => None,
        }
    }

    /// Returns the credential that gives the proof; `None` if a grant does.
    pub fn credential(&self) -> Option<&str> {
        match &self.source {
            ProofSource::Grant { .. } => None,
            ProofSource::Credential { name, .. } => Some(name),
        }
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

impl ProofPermission<'_> {
    /// Whether an administrator has to approve the request.
    pub fn approval(&self) -> Option<ApprovalMode> {
        match self {
            ProofPermission::Grant(grant) => grant.approval,
            ProofPermission::Credential(credential, _) => credential.approval,
        }
    }

    /// The credential that it needs.
    pub fn credential(&self) -> Option<&str> {
        match self {
            ProofPermission::Grant(_) => None,
            ProofPermission::Credential(credential, _) => Some(&credential.name),
        }
    }

    fn posture(&self) -> Option<PostureMode> {
        match self {
            ProofPermission::Grant(grant) => grant.posture,
            ProofPermission::Credential(credential, _) => credential.posture,
        }
    }

    /// What begins the description of a refusal, and when the permission counts.
    fn limits(&self) -> (&'static str, &TimeLimits) {
        match self {
            ProofPermission::Grant(grant) => (GRANT, &grant.limits),
            ProofPermission::Credential(credential, _) => (CREDENTIAL, &credential.limits),
        }
    }

    fn source(&self) -> ProofSource {
        match self {
            ProofPermission::Grant(grant) => ProofSource::Grant { audience: grant.audience.clone() },
            ProofPermission::Credential(credential, signing) => ProofSource::Credential {
                name: credential.name.clone(),
                region: signing.region.clone(),
                service: signing.service.clone(),
            },
        }
    }
}

impl ProofSource {
    /// The refusal with the audience or credential.
    pub fn name_in(&self, refusal: Refusal) -> Refusal {
        match self {
            ProofSource::Grant { audience } => refusal.with_audience(audience),
            ProofSource::Credential { name, .. } => refusal.with_credential(name),
        }
    }
}

impl ProofTarget {
    /// What an administrator approves.
    fn approval_action(
        &self,
        proof: ProofKind,
        source: &ProofSource,
        body_sha256: Option<String>,
    ) -> ApprovalAction {
        let request = match self {
            ProofTarget::Action(action) => Some((action.method.to_string(), action.url.as_str().to_owned())),
            ProofTarget::AuthorizationServer(_) => None,
        };
        let (method, url) = request.unzip();
        let (audience, credential) = match source {
            ProofSource::Grant { audience } => (Some(audience.clone()), None),
            ProofSource::Credential { name, .. } => (None, Some(name.clone())),
        };
        ApprovalAction::Proof { proof, audience, credential, method, url, body_sha256 }
    }

    /// SHA-256 of the request's body in hexadecimal digits, where it has one.
    pub(super) fn body_sha256(&self) -> Option<String> {
        match self {
            ProofTarget::Action(action) => action.body.as_ref().map(BodyDigest::to_hex),
            ProofTarget::AuthorizationServer(_) => None,
        }
    }

    /// The use of a credential that signs an action.
    pub(super) fn credential_act<'a>(&'a self, name: &'a str, approved: bool) -> Option<Act<'a>> {
        match self {
            ProofTarget::Action(action) => Some(Act::Credential {
                name,
                usage: "sign",
                approved,
                request: Some((action.method.as_str(), action.url.path())),
            }),
            ProofTarget::AuthorizationServer(_) => None,
        }
    }

    pub(super) fn act<'a>(&'a self, kind: ProofKind, body_sha256: Option<&'a str>) -> Act<'a> {
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

/// Decides a request for a proof by the agent's grants and credentials, and then by the policies. A policy that forbids
/// the use of a credential forbids its signatures.
///
/// # Errors
/// A [`Refusal`] with `invalid_target` if none gives such a proof for the request, and `access_denied` if the agent
/// is revoked or drained, the grant has expired or does not count at this hour, or the host's posture, a policy or an
/// administrator forbids the proof, and `authorization_pending` if an administrator has to approve it.
pub fn decide_proof(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
    request: ProofRequest,
) -> Result<ProofPermit, Refusal> {
    circumstances.check_revoked(&agent)?;
    let Some(permission) = proof_permission(agent.entry(), &request) else {
        let refusal = Refusal::new(ErrorCode::InvalidTarget, not_permitted(agent.entry(), &request));
        let refusal = circumstances.refusal(refusal, &agent);
        // The rule on canaries goes by the credential that was asked for.
        return Err(match &request.credential {
            Some(name) => refusal.with_credential(name),
            None => refusal,
        });
    };
    let source = permission.source();
    let named = |refusal: Refusal| source.name_in(circumstances.refusal(refusal, &agent));
    let (what, limits) = permission.limits();
    circumstances.check_limits(agent.entry(), what, limits).map_err(named)?;
    let host_posture = &circumstances.posture;
    let mode = permission.posture().unwrap_or(host_posture.mode);
    let posture = check_posture(mode, host_posture).map_err(named)?;
    let approval = permission.approval();
    let body_sha256 = request.target.body_sha256();
    if let ProofSource::Credential { name, .. } = &source
        && let Some(act) = request.target.credential_act(name, approval.is_some())
    {
        circumstances.allow(&agent, posture, act).map_err(named)?;
    }
    let act = request.target.act(request.kind, body_sha256.as_deref());
    let allowed = circumstances.allow(&agent, posture, act).map_err(named)?;
    let action = || request.target.approval_action(request.kind, &source, body_sha256.clone());
    let used_approval = circumstances.take_approval(&agent, approval, action).map_err(named)?;
    let client_id = match permission {
        ProofPermission::Grant(grant) => grant.item.proofs.client_id.clone(),
        ProofPermission::Credential(..) => None,
    };
    let client_id = client_id.unwrap_or_else(|| agent.name().to_string());
    let epoch = circumstances.revocations.epoch();
    let ProofRequest { kind, target, .. } = request;
    Ok(ProofPermit { agent, posture, allowed, kind, target, source, client_id, used_approval, epoch })
}

/// What of the agent gives the proof: the first grant, or the first credential, that does.
pub fn proof_permission<'a>(entry: &'a AgentEntry, request: &ProofRequest) -> Option<ProofPermission<'a>> {
    let grant = match &request.target {
        ProofTarget::Action(action) if request.kind.needs_credential() => {
            return signing_credential(entry, request.credential.as_deref(), action);
        }
        ProofTarget::Action(action) => entry.grants().find(|grant| grant.proofs.allows(request.kind, action)),
        ProofTarget::AuthorizationServer(issuer) => {
            entry.grant(issuer).filter(|grant| grant.proofs.kinds.contains(&request.kind))
        }
    };
    grant.map(ProofPermission::Grant)
}

fn signing_credential<'a>(
    entry: &'a AgentEntry,
    name: Option<&str>,
    action: &Action,
) -> Option<ProofPermission<'a>> {
    entry
        .credentials()
        .filter(|credential| name.is_none_or(|name| credential.name == name) && credential.signs(action))
        .find_map(|credential| {
            let signing = credential.item.signing.as_ref()?;
            Some(ProofPermission::Credential(credential, signing))
        })
}

/// Why nothing gives the proof.
pub(super) fn not_permitted(entry: &AgentEntry, request: &ProofRequest) -> String {
    let (agent, kind) = (&entry.name, request.kind.as_str());
    match &request.target {
        ProofTarget::Action(action) if request.kind.needs_credential() => {
            let named = request.credential.as_ref().map_or(String::new(), |name| format!(" \"{name}\""));
            format!(
                "agent \"{agent}\" has no [[credential]]{named} with use = \"sign\" whose actions have {} {}",
                action.method,
                action.url.without_query()
            )
        }
        ProofTarget::Action(action) => format!(
            "agent \"{agent}\" has no grant whose proofs have \"{kind}\" and whose actions have {} {}",
            action.method,
            action.url.without_query()
        ),
        ProofTarget::AuthorizationServer(_) => {
            format!("agent \"{agent}\" has no grant for this audience whose proofs have \"{kind}\"")
        }
    }
}

//! Decides token requests by the agent's grants. Only this file constructs a [`Permit`] or an
//! [`IdentityPermit`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agents::{
    AgentEntry, Algorithm, Assurance, AuthenticatedAgent, Binding, Grant, Granted, TokenTyp,
};
use crate::approvals::{ApprovalAction, UsedApproval};
use crate::posture::{Posture, PostureAtDecision, PostureMode};

use super::cedar::{Act, Allowed, PolicySetId};
use super::circumstances::{Circumstances, GRANT, check_draining};
use super::refusal::{ErrorCode, Refusal, Stage};

/// A request for an access token: well-formed, but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Relying party that the token is for.
    pub audience: String,
    /// Requested scopes; `None` requests all scopes of the grant (RFC 6749 section 3.3).
    pub scopes: Option<Vec<String>>,
    /// Requested lifetime; `None` requests the grant's. A longer one is shortened to the grant's.
    pub ttl: Option<Duration>,
    /// What the token is to be bound to; `None` requests what the grant says.
    pub bind: Option<Binding>,
    /// Name of the agent that the caller acts as; required only if the caller matches several agents.
    pub agent: Option<String>,
}

/// A positive decision on one token. `issue` signs access tokens only from a permit.
#[derive(Debug)]
pub struct Permit {
    agent: AuthenticatedAgent,
    posture: Posture,
    allowed: Allowed,
    audience: String,
    scope: String,
    ttl: Duration,
    signer: Signer,
    typ: TokenTyp,
    binding: Binding,
    thumbprint: Option<Box<str>>,
    status_list: Option<bool>,
    used_approval: Option<Box<UsedApproval>>,
    epoch: u64,
}

impl Permit {
    /// Returns the agent that the token identifies.
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    /// Returns the posture that the token states; [`Posture::Off`] if the decision did not evaluate it.
    pub fn posture(&self) -> Posture {
        self.posture
    }

    /// Returns the policies that were in force.
    pub fn policy(&self) -> Option<PolicySetId> {
        self.allowed.set()
    }

    pub(super) fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// Returns the relying party that the token is for.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Returns the scopes in alphabetical order, separated by spaces; may be empty.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Returns the longest lifetime that the token may have, at most 1 hour.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns the key that signs the token.
    pub fn signer(&self) -> Signer {
        self.signer
    }

    /// Returns the `typ` in the token's header.
    pub fn typ(&self) -> TokenTyp {
        self.typ
    }

    /// Returns what the token is bound to.
    pub fn binding(&self) -> Binding {
        self.binding
    }

    /// Adds the thumbprint of the key or certificate that the token is bound to, in base64url.
    pub fn bound_to(self, thumbprint: &str) -> Permit {
        Permit { thumbprint: Some(thumbprint.into()), ..self }
    }

    /// Returns the thumbprint of what the token is bound to, once it is known.
    pub fn thumbprint(&self) -> Option<&str> {
        self.thumbprint.as_deref()
    }

    /// Returns whether the token has a status in a status list, where the grant says it.
    pub fn status_list(&self) -> Option<bool> {
        self.status_list
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

/// A positive decision on an identity document (X509-SVID, WIT-SVID). It needs no grant, because an identity
/// alone gives access to nothing.
#[derive(Debug)]
pub struct IdentityPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
    allowed: Allowed,
    epoch: u64,
}

impl IdentityPermit {
    /// Returns the agent that the document identifies.
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

    /// Returns the epoch of the revocations at the decision.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// The key of this host that signs a grant's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The issuing key, in memory: ES256.
    Issuing,
    /// The host key, in the TPM: ES256.
    Host,
    /// The RSA key, in the TPM: RS256.
    Rsa,
}

/// Decides a token request by the agent's grants, and then by the policies. A request without a matching
/// grant is refused, as is one of an agent that is drained, and one at a time at which the grant does not count.
///
/// # Errors
/// A [`Refusal`] with `invalid_target` if the agent has no grant for the audience, `invalid_scope` if the
/// grant lacks a requested scope, `access_denied` if the agent is revoked or drained, the grant has expired
/// or does not count at this hour, or the host's posture, a policy or an administrator forbids the token, and
/// `authorization_pending` if an administrator has to approve it.
pub fn decide(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
    request: TokenRequest,
) -> Result<Permit, Refusal> {
    let named = |refusal: Refusal| circumstances.refusal(refusal, &agent).with_audience(&request.audience);
    circumstances.check_revoked(&agent).map_err(|refusal| refusal.with_audience(&request.audience))?;
    let refuse = |code, description: String| named(Refusal::new(code, description));
    let mut terms =
        grant_terms(agent.entry(), &request).map_err(|(code, description)| refuse(code, description))?;
    let limits = &terms.grant.item.limits;
    circumstances.check_limits(agent.entry(), GRANT, limits).map_err(named)?;
    let requested_ttl = terms.ttl.as_secs();
    terms.ttl = agent.cap(limits.cap(terms.ttl, circumstances.time.now), circumstances.time.now);
    let GrantTerms { ref grant, ttl, signer, binding, .. } = terms;
    let host_posture = &circumstances.posture;
    let posture = check_posture(grant.posture.unwrap_or(host_posture.mode), host_posture).map_err(named)?;
    let allowed = circumstances.allow(&agent, posture, terms.act(&request.audience)).map_err(named)?;
    let scope = join_scopes(terms.scopes.iter());
    let (typ, status_list) = (grant.typ, grant.status_list);
    let action = || ApprovalAction::Token {
        audience: request.audience.clone(),
        scope: scope.clone(),
        // Not that which ends with the grant, since it is another one at each repetition.
        ttl: requested_ttl,
        assurance: grant.assurance,
        typ,
        bind: binding,
    };
    let used_approval = circumstances.take_approval(&agent, grant.approval, action).map_err(named)?;
    let epoch = circumstances.revocations.epoch();
    let audience = request.audience;
    Ok(Permit {
        agent,
        posture,
        allowed,
        audience,
        scope,
        ttl,
        signer,
        typ,
        binding,
        thumbprint: None,
        status_list,
        used_approval,
        epoch,
    })
}

/// What a grant gives of a token request.
pub(super) struct GrantTerms<'a> {
    /// The grant.
    pub grant: Granted<'a, Grant>,
    /// The scopes; a set, so that equal scopes give equal claims.
    pub scopes: BTreeSet<&'a str>,
    /// The lifetime.
    pub ttl: Duration,
    /// The key that signs.
    pub signer: Signer,
    /// What the token is bound to.
    pub binding: Binding,
}

impl<'a> GrantTerms<'a> {
    /// What the policies are asked.
    pub(super) fn act(&self, audience: &'a str) -> Act<'a> {
        Act::Token {
            audience,
            scopes: self.scopes.iter().copied().collect(),
            ttl: self.ttl.as_secs(),
            assurance: match self.signer {
                Signer::Issuing => "sealed",
                Signer::Host | Signer::Rsa => "tpm",
            },
            binding: self.binding.as_str(),
            // Nothing is issued before.
            approved: self.grant.approval.is_some(),
        }
    }
}

/// What the agent's grant for the audience gives of a request.
///
/// # Errors
/// `invalid_target` without a grant, `invalid_scope` if it lacks a requested scope, and `access_denied` if its tokens
/// are bound to something else than requested, each with the reason.
pub(super) fn grant_terms<'a>(
    entry: &'a AgentEntry,
    request: &'a TokenRequest,
) -> Result<GrantTerms<'a>, (ErrorCode, String)> {
    let Some(grant) = entry.grant(&request.audience) else {
        let description = format!("agent \"{}\" has no grant for this audience", entry.name);
        return Err((ErrorCode::InvalidTarget, description));
    };
    let scopes = match &request.scopes {
        None => grant.item.scopes.iter().map(String::as_str).collect(),
        Some(requested) => {
            if let Some(missing) = requested.iter().find(|scope| !grant.scopes.contains(*scope)) {
                let description =
                    format!("the grant for this audience has no scope \"{}\"", missing.escape_debug());
                return Err((ErrorCode::InvalidScope, description));
            }
            requested.iter().map(String::as_str).collect()
        }
    };
    // A request can shorten the lifetime of the grant, but not extend it.
    let ttl = request.ttl.map_or(grant.ttl, |requested| requested.min(grant.ttl));
    let signer = match (grant.assurance, grant.alg) {
        (_, Algorithm::Rs256) => Signer::Rsa,
        (Assurance::Tpm, Algorithm::Es256) => Signer::Host,
        (Assurance::Sealed, Algorithm::Es256) => Signer::Issuing,
    };
    // A request can bind a token that the grant does not bind, but not the reverse.
    let binding = match (grant.bind, request.bind) {
        (granted, None) => granted,
        (Binding::None, Some(requested)) => requested,
        (granted, Some(requested)) if granted == requested => granted,
        (granted, Some(requested)) => {
            let description = format!(
                "tokens of the grant for this audience have bind = \"{}\", and this request has \"{}\"",
                granted.as_str(),
                requested.as_str()
            );
            return Err((ErrorCode::AccessDenied, description));
        }
    };
    Ok(GrantTerms { grant, scopes, ttl, signer, binding })
}

/// Decides whether an agent may have a new identity document.
///
/// # Errors
/// A [`Refusal`] with `access_denied` if the agent is drained, the host's configuration enforces the posture and
/// it is not accepted, or a policy forbids the document.
pub fn decide_identity(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
) -> Result<IdentityPermit, Refusal> {
    check_draining(agent.entry()).map_err(|refusal| circumstances.refusal(refusal, &agent))?;
    decide_kept_identity(agent, circumstances)
}

/// Decides whether an agent may keep an identity document that it has: as [`decide_identity`], also while it is
/// drained. One that is revoked may not.
///
/// # Errors
/// As [`decide_identity`].
pub fn decide_kept_identity(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
) -> Result<IdentityPermit, Refusal> {
    circumstances.check_revoked(&agent)?;
    let approved = check_posture(circumstances.posture.mode, &circumstances.posture)
        .and_then(|posture| Ok((posture, circumstances.allow(&agent, posture, Act::Certificate)?)));
    match approved {
        Ok((posture, allowed)) => {
            let epoch = circumstances.revocations.epoch();
            Ok(IdentityPermit { agent, posture, allowed, epoch })
        }
        Err(refusal) => Err(circumstances.refusal(refusal, &agent)),
    }
}

/// Returns the posture that a permit states.
///
/// # Errors
/// `access_denied`, which does not name the agent yet.
pub(super) fn check_posture(mode: PostureMode, host_posture: &PostureAtDecision) -> Result<Posture, Refusal> {
    match mode {
        PostureMode::Off => Ok(Posture::Off),
        PostureMode::Enforce if host_posture.posture != Posture::Accepted => {
            let (posture, reason) = (host_posture.posture, host_posture.reason_with_remedy());
            let description = format!("the host's posture is {posture}: {reason}");
            Err(Refusal::new(ErrorCode::AccessDenied, description).at(Stage::Context).imposed())
        }
        PostureMode::Enforce | PostureMode::Warn => Ok(host_posture.posture),
    }
}

fn join_scopes<'a>(scopes: impl Iterator<Item = &'a &'a str>) -> String {
    scopes.copied().collect::<Vec<_>>().join(" ")
}

//! Decides token requests by the agent's grants. Only this file constructs a [`Permit`] or an
//! [`IdentityPermit`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agents::{AgentEntry, Algorithm, Assurance, AuthenticatedAgent, Grant, Granted, TokenTyp};
use crate::posture::{Posture, PostureAtDecision, PostureMode};

use super::cedar::{Act, Approval, PolicySetId};
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
    /// Name of the agent that the caller acts as; required only if the caller matches several agents.
    pub agent: Option<String>,
}

/// A positive decision on one token. `issue` signs access tokens only from a permit.
#[derive(Debug)]
pub struct Permit {
    agent: AuthenticatedAgent,
    posture: Posture,
    approval: Approval,
    audience: String,
    scope: String,
    ttl: Duration,
    signer: Signer,
    typ: TokenTyp,
    status_list: Option<bool>,
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
        self.approval.set()
    }

    pub(super) fn approval(&self) -> &Approval {
        &self.approval
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

    /// Returns whether the token has a status in a status list, where the grant says it.
    pub fn status_list(&self) -> Option<bool> {
        self.status_list
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
    approval: Approval,
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
        self.approval.set()
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
/// grant lacks a requested scope, and `access_denied` if the agent is revoked or drained, the grant has expired
/// or does not count at this hour, or the host's posture or a policy forbids the token.
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
    terms.ttl = limits.cap(terms.ttl, circumstances.time.now);
    let GrantTerms { ref grant, ttl, signer, .. } = terms;
    let host_posture = &circumstances.posture;
    let posture = check_posture(grant.posture.unwrap_or(host_posture.mode), host_posture).map_err(named)?;
    let approval = circumstances.approve(&agent, posture, terms.act(&request.audience)).map_err(named)?;
    let scope = join_scopes(terms.scopes.iter());
    let (typ, status_list) = (grant.typ, grant.status_list);
    let epoch = circumstances.revocations.epoch();
    let audience = request.audience;
    Ok(Permit { posture, approval, scope, ttl, signer, typ, status_list, epoch, audience, agent })
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
            binding: "none",
        }
    }
}

/// What the agent's grant for the audience gives of a request.
///
/// # Errors
/// `invalid_target` without a grant, and `invalid_scope` if it lacks a requested scope, each with the reason.
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
    Ok(GrantTerms { grant, scopes, ttl, signer })
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
        .and_then(|posture| Ok((posture, circumstances.approve(&agent, posture, Act::Certificate)?)));
    match approved {
        Ok((posture, approval)) => {
            let epoch = circumstances.revocations.epoch();
            Ok(IdentityPermit { agent, posture, approval, epoch })
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

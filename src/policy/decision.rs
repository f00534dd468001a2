//! Decides token requests by the agent's grants. Only this file constructs a [`Permit`] or an
//! [`IdentityPermit`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agents::{Algorithm, Assurance, AuthenticatedAgent, TokenTyp};
use crate::posture::{Posture, PostureAtDecision, PostureMode};

use super::circumstances::{Circumstances, check_draining};
use super::refusal::{ErrorCode, Refusal};

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
    audience: String,
    scope: String,
    ttl: Duration,
    signer: Signer,
    typ: TokenTyp,
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
}

/// A positive decision on an identity document (X509-SVID, WIT-SVID). It needs no grant, because an identity
/// alone gives access to nothing.
#[derive(Debug)]
pub struct IdentityPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
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

/// Decides a token request by the agent's grants. A request without a matching grant is refused, as is one of
/// an agent that is drained, and one at a time at which the grant does not count.
///
/// # Errors
/// A [`Refusal`] with `invalid_target` if the agent has no grant for the audience, `invalid_scope` if the
/// grant lacks a requested scope, and `access_denied` if the agent is drained, the grant has expired or does
/// not count at this hour, or the host's posture forbids the token.
pub fn decide(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
    request: TokenRequest,
) -> Result<Permit, Refusal> {
    let refuse = |code, description: String| {
        Refusal::new(code, description)
            .with_peer(agent.peer())
            .with_agent(agent.name())
            .with_audience(&request.audience)
    };
    let Some(grant) = agent.entry().grant(&request.audience) else {
        return Err(refuse(
            ErrorCode::InvalidTarget,
            format!("agent \"{}\" has no grant for this audience", agent.name()),
        ));
    };
    check_draining(&agent).map_err(|refusal| refusal.with_audience(&request.audience))?;
    circumstances
        .check_limits("the grant for this audience", &grant.limits)
        .map_err(|(code, description)| refuse(code, description))?;
    let scope = match &request.scopes {
        None => join_scopes(grant.scopes.iter()),
        Some(requested) => {
            if let Some(missing) = requested.iter().find(|scope| !grant.scopes.contains(*scope)) {
                let description =
                    format!("the grant for this audience has no scope \"{}\"", missing.escape_debug());
                return Err(refuse(ErrorCode::InvalidScope, description));
            }
            // The set sorts and deduplicates, so that equal sets of scopes give equal claims.
            join_scopes(requested.iter().collect::<BTreeSet<_>>().into_iter())
        }
    };
    let host_posture = &circumstances.posture;
    let posture = check_posture(grant.posture.unwrap_or(host_posture.mode), host_posture)
        .map_err(|description| refuse(ErrorCode::AccessDenied, description))?;
    // A request can shorten the lifetime of the grant, but not extend it.
    let ttl = request.ttl.map_or(grant.ttl, |requested| requested.min(grant.ttl));
    let ttl = grant.limits.cap(ttl, circumstances.time.now);
    let signer = match (grant.assurance, grant.alg) {
        (_, Algorithm::Rs256) => Signer::Rsa,
        (Assurance::Tpm, Algorithm::Es256) => Signer::Host,
        (Assurance::Sealed, Algorithm::Es256) => Signer::Issuing,
    };
    Ok(Permit { posture, audience: request.audience, scope, ttl, signer, typ: grant.typ, agent })
}

/// Decides whether an agent may have a new identity document.
///
/// # Errors
/// A [`Refusal`] with `access_denied` if the agent is drained, or the host's configuration enforces the posture
/// and it is not accepted.
pub fn decide_identity(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
) -> Result<IdentityPermit, Refusal> {
    check_draining(&agent)?;
    decide_kept_identity(agent, circumstances)
}

/// Decides whether an agent may keep an identity document that it has: as [`decide_identity`], also while it is
/// drained.
///
/// # Errors
/// As [`decide_identity`].
pub fn decide_kept_identity(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
) -> Result<IdentityPermit, Refusal> {
    let host_posture = &circumstances.posture;
    match check_posture(host_posture.mode, host_posture) {
        Ok(posture) => Ok(IdentityPermit { agent, posture }),
        Err(description) => Err(Refusal::new(ErrorCode::AccessDenied, description)
            .with_peer(agent.peer())
            .with_agent(agent.name())),
    }
}

/// Returns the posture that a permit states, or the description of the refusal.
pub(super) fn check_posture(mode: PostureMode, host_posture: &PostureAtDecision) -> Result<Posture, String> {
    match mode {
        PostureMode::Off => Ok(Posture::Off),
        PostureMode::Enforce if host_posture.posture != Posture::Accepted => Err(format!(
            "the host's posture is {}: {}",
            host_posture.posture,
            host_posture.reason_with_remedy()
        )),
        PostureMode::Enforce | PostureMode::Warn => Ok(host_posture.posture),
    }
}

fn join_scopes<'a>(scopes: impl Iterator<Item = &'a String>) -> String {
    scopes.map(String::as_str).collect::<Vec<_>>().join(" ")
}

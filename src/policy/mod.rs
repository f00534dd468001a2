//! May it: the fourth step of the road. Default deny; only this room makes a [`Permit`].

mod jwt_svid;
mod rate_limit;
mod refusal;

use std::time::Duration;

use crate::agents::{Algorithm, Assurance, AuthenticatedAgent};
use crate::peer::Peer;
use crate::posture::{Posture, PostureAtDecision, PostureMode};

pub use jwt_svid::{JwtSvidPermit, JwtSvidRequest, MAX_AUDIENCES, decide_jwt_svid};
pub use rate_limit::{Limiter, Rate, RateLimitKey, RateLimited};
pub use refusal::{ErrorCode, Refusal};

/// Who may administer, beside root.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdminPolicy {
    /// The admin group, where the host has it.
    pub admin_group: Option<u32>,
    /// A developer's own uid; none on a real host.
    pub dev_uid: Option<u32>,
}

impl AdminPolicy {
    pub fn is_admin(&self, peer: &Peer) -> bool {
        peer.uid == 0
            || self.admin_group.is_some_and(|group| peer.in_group(group))
            || self.dev_uid == Some(peer.uid)
    }

    /// Who may do what comes to holding the host's keys. The admin group is for those who run agents.
    pub fn is_owner(&self, peer: &Peer) -> bool {
        peer.uid == 0 || self.dev_uid == Some(peer.uid)
    }
}

/// What a caller asks for, well-formed but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    pub audience: String,
    /// Scopes asked for; none means all that the grant has (RFC 6749 section 3.3).
    pub scopes: Option<Vec<String>>,
    /// Wanted lifetime; none means the grant's.
    pub ttl: Option<Duration>,
    /// Which agent the caller wants to be, where it is several.
    pub agent: Option<String>,
}

/// A decision in favour. `issue` mints only from this.
#[derive(Debug)]
pub struct Permit {
    agent: AuthenticatedAgent,
    posture: Posture,
    audience: String,
    scope: String,
    ttl: Duration,
    signer: Signer,
}

/// A decision that an agent may show who it is. Needs no grant: an identity opens nothing by itself.
#[derive(Debug)]
pub struct IdentityPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
}

impl IdentityPermit {
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    pub fn posture(&self) -> Posture {
        self.posture
    }
}

/// Which key of this host a grant has its tokens signed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The issuing key, in memory: ES256.
    Issuing,
    /// The host key, in the TPM: ES256.
    Host,
    /// The RSA key, in the TPM: RS256.
    Rsa,
}

impl Permit {
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    pub fn posture(&self) -> Posture {
        self.posture
    }

    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Scopes in the order of the alphabet, separated by spaces; may be empty.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// How long what is minted may live.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub fn signer(&self) -> Signer {
        self.signer
    }
}

/// Decides by the agent's grants.
pub fn decide(
    agent: AuthenticatedAgent,
    host_posture: &PostureAtDecision,
    request: TokenRequest,
) -> Result<Permit, Refusal> {
    let refuse = |code, description: String| {
        Refusal::new(code, description)
            .with_peer(agent.peer())
            .with_agent(agent.name())
            .with_audience(&request.audience)
    };
    let Some(grant) = agent.entry().grants.iter().find(|grant| grant.audience == request.audience) else {
        return Err(refuse(
            ErrorCode::InvalidTarget,
            format!("agent \"{}\" has no grant for this audience", agent.name()),
        ));
    };
    let scope = match &request.scopes {
        None => join_scopes(grant.scopes.iter()),
        Some(requested) => {
            if let Some(missing) = requested.iter().find(|scope| !grant.scopes.contains(*scope)) {
                let description =
                    format!("the grant for this audience has no scope \"{}\"", missing.escape_debug());
                return Err(refuse(ErrorCode::InvalidScope, description));
            }
            // Through a set, so that the same scopes read the same however they were asked for.
            join_scopes(requested.iter().collect::<std::collections::BTreeSet<_>>().into_iter())
        }
    };
    let posture = check_posture(grant.posture.unwrap_or(host_posture.mode), host_posture)
        .map_err(|description| refuse(ErrorCode::AccessDenied, description))?;
    // A request can shorten, never lengthen.
    let ttl = request.ttl.map_or(grant.ttl, |requested| requested.min(grant.ttl));
    let signer = match (grant.assurance, grant.alg) {
        (_, Algorithm::Rs256) => Signer::Rsa,
        (Assurance::Tpm, Algorithm::Es256) => Signer::Host,
        (Assurance::Sealed, Algorithm::Es256) => Signer::Issuing,
    };
    Ok(Permit { posture, audience: request.audience, scope, ttl, signer, agent })
}

/// Decides whether an agent may have a proof of its own identity.
pub fn decide_identity(
    agent: AuthenticatedAgent,
    host_posture: &PostureAtDecision,
) -> Result<IdentityPermit, Refusal> {
    match check_posture(host_posture.mode, host_posture) {
        Ok(posture) => Ok(IdentityPermit { agent, posture }),
        Err(description) => Err(Refusal::new(ErrorCode::AccessDenied, description)
            .with_peer(agent.peer())
            .with_agent(agent.name())),
    }
}

/// The posture that a decision goes by, or why there is nothing for anybody.
fn check_posture(mode: PostureMode, host_posture: &PostureAtDecision) -> Result<Posture, String> {
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

//! A SPIFFE token may be for several audiences: each of them has to be granted.

use std::time::Duration;

use super::{ErrorCode, Permit, Refusal, Signer, TokenRequest, decide};
use crate::agents::AuthenticatedAgent;
use crate::posture::{Posture, PostureAtDecision};

/// Audiences that one token may have. One is what SPIFFE recommends.
pub const MAX_AUDIENCES: usize = 16;

/// What a SPIFFE client asks for, well-formed but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvidRequest {
    /// 1 to [`AUDIENCES_MOST`], none twice.
    pub audiences: Vec<String>,
    /// One identity alone; all that are granted the audiences where there is none.
    pub spiffe_id: Option<String>,
}

/// A decision in favour of one token for all the audiences.
#[derive(Debug)]
pub struct JwtSvidPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
    audiences: Vec<String>,
    ttl: Duration,
}

impl JwtSvidPermit {
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    pub fn posture(&self) -> Posture {
        self.posture
    }

    /// In the order in which they were asked for.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The shortest of the grants'.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

/// Decides by the agent's grants, audience by audience.
pub fn decide_jwt_svid(
    agent: AuthenticatedAgent,
    host_posture: &PostureAtDecision,
    audiences: &[String],
) -> Result<JwtSvidPermit, Refusal> {
    let mut permits = Vec::with_capacity(audiences.len());
    for audience in audiences {
        let request = TokenRequest { audience: audience.clone(), scopes: None, ttl: None, agent: None };
        let permit = decide(agent.clone(), host_posture, request)?;
        if permit.signer() != Signer::Issuing {
            let description =
                "the grant for this audience wants the TPM's own signature, which the agent socket gives";
            let refusal = Refusal::new(ErrorCode::AccessDenied, description);
            return Err(refusal.with_peer(agent.peer()).with_agent(agent.name()).with_audience(audience));
        }
        permits.push(permit);
    }
    let no_audience = || Refusal::new(ErrorCode::InvalidRequest, "a token is for one audience at least");
    let ttl = permits.iter().map(Permit::ttl).min().ok_or_else(no_audience)?;
    // Grants may differ in whether anybody looks; then the token does not say that somebody did.
    let common_posture = |a: Posture, b: Posture| if a == b { a } else { Posture::Off };
    let posture = permits.iter().map(Permit::posture).reduce(common_posture).unwrap_or(Posture::Off);
    Ok(JwtSvidPermit { agent, posture, audiences: audiences.to_vec(), ttl })
}

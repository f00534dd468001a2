//! A SPIFFE token may be for several audiences: each of them has to be granted.

use std::time::Duration;

use super::{Ask, Permit, Reason, Refusal, Signer, decide};
use crate::agents::Agent;
use crate::posture::{Condition, Posture};

/// Audiences that one token may have. One is what SPIFFE recommends.
pub const AUDIENCES_MOST: usize = 16;

/// What a SPIFFE client asks for, well-formed but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidAsk {
    /// 1 to [`AUDIENCES_MOST`], none twice.
    pub audiences: Vec<String>,
    /// One identity alone; all that are granted the audiences where there is none.
    pub spiffe_id: Option<String>,
}

/// A decision in favour of one token for all the audiences.
#[derive(Debug)]
pub struct SvidPermit {
    agent: Agent,
    posture: Posture,
    audiences: Vec<String>,
    ttl: Duration,
}

impl SvidPermit {
    pub fn agent(&self) -> &Agent {
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
pub fn decide_svid(agent: Agent, host: &Condition, audiences: &[String]) -> Result<SvidPermit, Refusal> {
    let mut permits = Vec::with_capacity(audiences.len());
    for audience in audiences {
        let ask = Ask { audience: audience.clone(), scopes: None, ttl: None, agent: None };
        let permit = decide(agent.clone(), host, ask)?;
        if permit.signer() != Signer::Issuing {
            let what =
                "the grant for this audience wants the TPM's own signature, which the agent socket gives";
            let refusal = Refusal::new(Reason::AccessDenied, what);
            return Err(refusal.by(agent.peer()).of(agent.name()).about(audience));
        }
        permits.push(permit);
    }
    let refuse = || Refusal::new(Reason::InvalidRequest, "a token is for one audience at least");
    let ttl = permits.iter().map(Permit::ttl).min().ok_or_else(refuse)?;
    // Grants may differ in whether anybody looks; then the token does not say that somebody did.
    let same = |a: Posture, b: Posture| if a == b { a } else { Posture::Off };
    let posture = permits.iter().map(Permit::posture).reduce(same).unwrap_or(Posture::Off);
    Ok(SvidPermit { agent, posture, audiences: audiences.to_vec(), ttl })
}

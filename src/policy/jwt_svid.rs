//! Decides requests for JWT-SVIDs, which may have several audiences: the agent needs a grant for each of
//! them.

use std::time::Duration;

use crate::agents::{AgentEntry, AuthenticatedAgent, Binding};
use crate::posture::Posture;

use super::cedar::{Allowed, PolicySetId};
use super::circumstances::Circumstances;
use super::decision::{Permit, Signer, TokenRequest, decide};
use super::refusal::{ErrorCode, Refusal, Stage};

/// Audiences of one JWT-SVID. The SPIFFE JWT-SVID specification (section 3.2) recommends one.
pub const MAX_AUDIENCES: usize = 16;

/// A request for JWT-SVIDs: well-formed, but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvidRequest {
    /// 1 to [`MAX_AUDIENCES`] different audiences.
    pub audiences: Vec<String>,
    /// Requests a token for this SPIFFE ID only; `None` requests one for each agent that the caller matches
    /// and that has grants for all audiences.
    pub spiffe_id: Option<String>,
}

/// A positive decision on one JWT-SVID for all requested audiences.
#[derive(Debug)]
pub struct JwtSvidPermit {
    agent: AuthenticatedAgent,
    posture: Posture,
    allowed: Allowed,
    audiences: Vec<String>,
    ttl: Duration,
    status_list: Option<bool>,
    epoch: u64,
}

impl JwtSvidPermit {
    /// Returns the agent that the token identifies.
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    /// Returns the posture that the token states; [`Posture::Off`] if the grants' postures differ.
    pub fn posture(&self) -> Posture {
        self.posture
    }

    /// Returns the policies that were in force.
    pub fn policy(&self) -> Option<PolicySetId> {
        self.allowed.set()
    }

    /// Returns the audiences in the order of the request.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Returns the longest lifetime that the token may have: the shortest of the grants' lifetimes.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns whether the token has a status in a status list, where the grants say it: one of them suffices,
    /// and all have to say that it has none.
    pub fn status_list(&self) -> Option<bool> {
        self.status_list
    }

    /// Returns the epoch of the revocations at the decision.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Decides a request for one JWT-SVID: [`decide`] must permit each audience with the issuing key, and with the
/// lifetime that the token would have.
///
/// # Errors
/// The [`Refusal`] of the first audience that is not permitted, `access_denied` if a grant requires a
/// signature by the TPM, an approval or a bound token, and `invalid_request` without audiences.
pub fn decide_jwt_svid(
    agent: AuthenticatedAgent,
    circumstances: &Circumstances,
    audiences: &[String],
) -> Result<JwtSvidPermit, Refusal> {
    let mut permits = Vec::with_capacity(audiences.len());
    let ttl = shortest_ttl(agent.entry(), circumstances, audiences);
    for audience in audiences {
        if agent.entry().grant(audience).is_some_and(|grant| grant.approval.is_some()) {
            let description =
                "the grant for this audience requires an approval; request the token on the agent socket";
            let refusal = Refusal::new(ErrorCode::AccessDenied, description).at(Stage::Context);
            return Err(circumstances.refusal(refusal, &agent).with_audience(audience));
        }
        let request = TokenRequest { audience: audience.clone(), scopes: None, ttl, bind: None, agent: None };
        let permit = decide(agent.clone(), circumstances, request)?;
        if permit.signer() != Signer::Issuing {
            let description = "the grant for this audience requires a TPM signature; \
                               request the token on the agent socket";
            let refusal = Refusal::new(ErrorCode::AccessDenied, description);
            return Err(circumstances.refusal(refusal, &agent).with_audience(audience));
        }
        if permit.binding() != Binding::None {
            let description = "the grant for this audience requires bound tokens; request the token on the agent \
                               socket";
            let refusal = Refusal::new(ErrorCode::AccessDenied, description);
            return Err(circumstances.refusal(refusal, &agent).with_audience(audience));
        }
        permits.push(permit);
    }
    let no_audience = || Refusal::new(ErrorCode::InvalidRequest, "at least one audience is required");
    let ttl = permits.iter().map(Permit::ttl).min().ok_or_else(no_audience)?;
    // Grants can differ in whether they evaluate the posture. The token states it only if all grants agree.
    let common_posture = |a: Posture, b: Posture| if a == b { a } else { Posture::Off };
    let posture = permits.iter().map(Permit::posture).reduce(common_posture).unwrap_or(Posture::Off);
    // All were decided by the same policies.
    let allowed = permits.first().map(Permit::allowed).cloned().ok_or_else(no_audience)?;
    let status_list = either_status(permits.iter().map(Permit::status_list));
    let epoch = circumstances.revocations.epoch();
    Ok(JwtSvidPermit { agent, posture, allowed, audiences: audiences.to_vec(), ttl, status_list, epoch })
}

/// The lifetime of a token for all these audiences; `None` without a grant for any of them.
fn shortest_ttl(entry: &AgentEntry, circumstances: &Circumstances, audiences: &[String]) -> Option<Duration> {
    let grants = audiences.iter().filter_map(|audience| entry.grant(audience));
    grants.map(|grant| grant.limits.cap(grant.ttl, circumstances.time.now)).min()
}

/// Whether a token for several audiences has a status: if one of their grants says so, and not if all deny it;
/// otherwise the configuration decides.
fn either_status(granted: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let either = |a: Option<bool>, b: Option<bool>| match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    };
    granted.reduce(either).flatten()
}

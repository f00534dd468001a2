//! JWT-SVIDs (SPIFFE JWT-SVID specification), as the Workload API returns them.

use std::fmt;

use serde::Serialize;

use super::attested_claims::{BinaryId, attested_claims};
use super::error::Error;
use super::hostbadge_claim::HostbadgeClaim;
use super::issuer::IssuerState;
use super::jws::{UnsignedJws, new_jti};
use super::status_list::StatusClaim;
use super::token_period::TokenPeriod;
use crate::clock::Timestamp;
use crate::policy::{JwtSvidPermit, Refusal};
use crate::revocation::status::{NewSubject, StatusLists, TokenStatus};

/// A signed JWT-SVID, with what the audit log needs of it. `Debug` does not show its text.
pub struct JwtSvid {
    text: String,
    spiffe_id: String,
    permit: JwtSvidPermit,
    kid: String,
    jti: String,
    expires: Timestamp,
}

impl JwtSvid {
    /// The compact JWS: a bearer secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `sub`.
    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }

    /// The decision from which the token was issued.
    pub fn permit(&self) -> &JwtSvidPermit {
        &self.permit
    }

    /// The key that signed it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its identifier (RFC 7519 section 4.1.7).
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// `exp`, in whole seconds.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("jti", &self.jti).finish_non_exhaustive()
    }
}

impl IssuerState {
    /// Issues a JWT-SVID that the issuing key signs, in memory.
    ///
    /// # Errors
    /// A refusal, if signing fails, the tenant's keys are not made yet, or the token needs a status and gets none.
    pub fn mint_jwt_svid(
        &self,
        permit: JwtSvidPermit,
        statuses: &StatusLists,
        now: Timestamp,
    ) -> Result<JwtSvid, Refusal> {
        match sign(self, &permit, statuses, now) {
            Ok(SignedSvid { text, spiffe_id, kid, jti, expires }) => {
                Ok(JwtSvid { text, spiffe_id, permit, kid, jti, expires })
            }
            Err(error) => Err(Refusal::new(error.refusal_code(), error.to_string())
                .with_peer(permit.agent().peer())
                .with_agent(permit.agent().name())
                .with_audience(&permit.audiences().join(" "))),
        }
    }
}

#[derive(Serialize)]
struct JwtSvidClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    client_id: &'a str,
    aud: &'a [String],
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusClaim>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    attest_methods: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_id: Option<BinaryId>,
    hostbadge: HostbadgeClaim<'a>,
}

/// A [`JwtSvid`] without its permit.
struct SignedSvid {
    text: String,
    spiffe_id: String,
    kid: String,
    jti: String,
    expires: Timestamp,
}

fn sign(
    issuer_state: &IssuerState,
    permit: &JwtSvidPermit,
    statuses: &StatusLists,
    now: Timestamp,
) -> Result<SignedSvid, Error> {
    let agent = permit.agent();
    let tenant = agent.entry().tenant.as_deref();
    let issuer = issuer_state.issuer_of(tenant)?;
    let (host, header) = (issuer_state.host(), issuer.jwt_svid_header());
    let (attest_methods, binary_id) = attested_claims(agent);
    let jti = new_jti()?;
    let TokenPeriod { not_before, expires, .. } = TokenPeriod::new(now, permit.ttl());
    let spiffe_id = host.spiffe_id(agent.entry());
    let audiences: Vec<&str> = permit.audiences().iter().map(String::as_str).collect();
    let subject = NewSubject {
        spiffe_id: &spiffe_id,
        audiences: &audiences,
        kid: header.kid(),
        invocation: agent.peer().invocation.as_deref(),
        epoch: permit.epoch(),
        match_tag: agent.match_tag(),
    };
    let token = TokenStatus { tenant, subject, jti: &jti, expires };
    let claims = JwtSvidClaims {
        iss: issuer.issuer(),
        sub: &spiffe_id,
        client_id: agent.name().as_str(),
        aud: permit.audiences(),
        iat: not_before,
        nbf: not_before,
        exp: expires.as_secs(),
        jti: &jti,
        status: issuer_state.assign_status(statuses, permit.status_list(), &token)?,
        attest_methods,
        binary_id,
        hostbadge: HostbadgeClaim::new(
            host,
            agent,
            permit.posture(),
            issuer_state.clock_sync(),
            header.key_protection(),
            permit.policy(),
            permit.epoch(),
        ),
    };
    let text = UnsignedJws::of_claims(header, &claims)?.sign(issuer.issuing_key()?)?;
    Ok(SignedSvid { text, spiffe_id, kid: header.kid().to_owned(), jti, expires })
}

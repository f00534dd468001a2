//! Access tokens in JWT form (RFC 9068).

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::attested_claims::{BinaryId, attested_claims};
use super::error::Error;
use super::host_identity::HostIdentity;
use super::hostbadge_claim::HostbadgeClaim;
use super::issuer::{IssuerKeys, IssuerState};
use super::jws::{UnsignedJws, new_jti};
use super::status_list::StatusClaim;
use super::token_period::TokenPeriod;
use crate::agents::{AgentEntry, Binding};
use crate::clock::Timestamp;
use crate::policy::{ErrorCode, Permit, Refusal, Signer};
use crate::revocation::status::{NewSubject, StatusLists, TokenStatus};

/// A signed access token, with what the audit log needs of it. `Debug` does not show its text.
pub struct AccessToken {
    signed: SignedToken,
    permit: Permit,
}

struct SignedToken {
    text: String,
    kid: String,
    jti: String,
    period: TokenPeriod,
}

impl AccessToken {
    /// The compact JWS: a bearer secret.
    pub fn text(&self) -> &str {
        &self.signed.text
    }

    /// The decision from which the token was issued.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The key that signed it.
    pub fn kid(&self) -> &str {
        &self.signed.kid
    }

    /// Its identifier (RFC 7519 section 4.1.7).
    pub fn jti(&self) -> &str {
        &self.signed.jti
    }

    /// `exp`, in whole seconds.
    pub fn expires(&self) -> Timestamp {
        self.signed.period.expires
    }

    /// How long the token is valid, from its issue on; shorter than the permit's if that is 1 hour.
    pub fn lifetime(&self) -> Duration {
        self.signed.period.lifetime
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("jti", &self.signed.jti).finish_non_exhaustive()
    }
}

impl IssuerState {
    /// Issues a token that the issuing key signs, in memory.
    ///
    /// # Errors
    /// A refusal with [`ErrorCode::ServerError`], if the permit names a key in the TPM, or signing fails, and with
    /// [`ErrorCode::TemporarilyUnavailable`] if the token needs a status and gets none.
    pub fn mint_token(
        &self,
        permit: Permit,
        statuses: &StatusLists,
        now: Timestamp,
    ) -> Result<AccessToken, Refusal> {
        let refuse = |permit: &Permit, message: String| {
            Refusal::new(ErrorCode::ServerError, message)
                .with_peer(permit.agent().peer())
                .with_agent(permit.agent().name())
                .with_audience(permit.audience())
        };
        if permit.signer() != Signer::Issuing {
            return Err(refuse(&permit, "this grant's tokens are signed by the TPM".to_owned()));
        }
        match self.issue(&permit, statuses, now) {
            Ok(signed) => Ok(AccessToken { signed, permit }),
            Err(error) => Err(Refusal { code: error.refusal_code(), ..refuse(&permit, error.to_string()) }),
        }
    }
}

impl IssuerState {
    fn issue(&self, permit: &Permit, statuses: &StatusLists, now: Timestamp) -> Result<SignedToken, Error> {
        let issuer = self.issuer_of(permit.agent().entry().tenant.as_deref())?;
        build(self, permit, statuses, now)?.sign(issuer)
    }
}

/// An access token without its signature.
pub(super) struct UnsignedToken {
    jws: UnsignedJws,
    kid: String,
    jti: String,
    period: TokenPeriod,
}

impl UnsignedToken {
    /// SHA-256 of the signing input.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.jws.digest()
    }

    /// The token with a signature over [`UnsignedToken::digest`], of the permit that it was built from.
    pub(super) fn with_signature(self, signature: &[u8], permit: Permit) -> AccessToken {
        let UnsignedToken { jws, kid, jti, period } = self;
        let signed = SignedToken { text: jws.with_signature(signature), kid, jti, period };
        AccessToken { signed, permit }
    }

    fn sign(self, issuer: &IssuerKeys) -> Result<SignedToken, Error> {
        let UnsignedToken { jws, kid, jti, period } = self;
        Ok(SignedToken { text: jws.sign(issuer.issuing_key()?)?, kid, jti, period })
    }
}

#[derive(Serialize)]
struct AccessTokenClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    client_id: &'a str,
    aud: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusClaim>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    attest_methods: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_id: Option<BinaryId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Actor>,
    hostbadge: HostbadgeClaim<'a>,
}

/// What proves that the token's presenter is its holder (RFC 7800 section 3.1).
#[derive(Serialize)]
enum Confirmation<'a> {
    /// The thumbprint of a key (RFC 9449 section 6.1).
    #[serde(rename = "jkt")]
    Key(&'a str),
    /// SHA-256 of a certificate (RFC 8705 section 3.1).
    #[serde(rename = "x5t#S256")]
    Certificate(&'a str),
}

/// The sub-agent that acts for the agent in `sub`, and within it the one that delegated to it (RFC 8693 section 4.1).
#[derive(Serialize)]
struct Actor {
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Box<Actor>>,
}

impl Actor {
    /// `None` for a registered agent, which acts for itself.
    fn of(entry: &AgentEntry, host: &HostIdentity) -> Option<Actor> {
        let parent = entry.parent.as_deref()?;
        Some(Actor { sub: host.spiffe_id(entry), act: Actor::of(parent, host).map(Box::new) })
    }
}

impl<'a> Confirmation<'a> {
    /// # Errors
    /// [`Error::Unbound`] if the token is to be bound, and it is not known to what.
    fn of(permit: &'a Permit) -> Result<Option<Confirmation<'a>>, Error> {
        match (permit.binding(), permit.thumbprint()) {
            (Binding::None, _) => Ok(None),
            (Binding::Dpop, Some(thumbprint)) => Ok(Some(Confirmation::Key(thumbprint))),
            (Binding::Mtls, Some(thumbprint)) => Ok(Some(Confirmation::Certificate(thumbprint))),
            (Binding::Dpop | Binding::Mtls, None) => Err(Error::Unbound),
        }
    }
}

/// Builds the permitted token, made at `now`, for the key that the grant names.
pub(super) fn build(
    issuer_state: &IssuerState,
    permit: &Permit,
    statuses: &StatusLists,
    now: Timestamp,
) -> Result<UnsignedToken, Error> {
    let agent = permit.agent();
    let tenant = agent.entry().tenant.as_deref();
    let issuer = issuer_state.issuer_of(tenant)?;
    let header = issuer_state.signing_header(issuer, permit.signer(), permit.typ())?;
    let (attest_methods, binary_id) = attested_claims(agent);
    let host = issuer_state.host();
    let jti = new_jti()?;
    let period = TokenPeriod::new(now, permit.ttl());
    let spiffe_id = host.spiffe_id(agent.entry());
    let delegating = agent.entry().parent.as_ref().map(|_| host.spiffe_id(agent.entry().root()));
    let subject = NewSubject {
        spiffe_id: &spiffe_id,
        audiences: &[permit.audience()],
        kid: header.kid(),
        invocation: agent.peer().invocation.as_deref(),
        epoch: permit.epoch(),
        match_tag: agent.match_tag(),
    };
    let token = TokenStatus { tenant, subject, jti: &jti, expires: period.expires };
    let claims = AccessTokenClaims {
        iss: issuer.issuer(),
        sub: delegating.as_deref().unwrap_or(&spiffe_id),
        client_id: agent.name().as_str(),
        aud: permit.audience(),
        iat: period.not_before,
        nbf: period.not_before,
        exp: period.expires.as_secs(),
        jti: &jti,
        scope: permit.scope(),
        status: issuer_state.assign_status(statuses, permit.status_list(), &token)?,
        attest_methods,
        binary_id,
        cnf: Confirmation::of(permit)?,
        act: Actor::of(agent.entry(), host),
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
    let jws = UnsignedJws::of_claims(header, &claims)?;
    Ok(UnsignedToken { jws, kid: header.kid().to_owned(), jti, period })
}

//! Access tokens in JWT form (RFC 9068).

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::error::Error;
use super::hostbadge_claim::HostbadgeClaim;
use super::issuer::IssuerState;
use super::jws::{UnsignedJws, new_jti};
use super::token_period::TokenPeriod;
use crate::clock::Timestamp;
use crate::policy::{ErrorCode, Permit, Refusal, Signer};

/// A signed access token, with what the audit log needs of it. `Debug` does not show its text.
pub struct AccessToken {
    text: String,
    permit: Permit,
    kid: String,
    jti: String,
    period: TokenPeriod,
}

impl AccessToken {
    /// The compact JWS: a bearer secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The decision from which the token was issued.
    pub fn permit(&self) -> &Permit {
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
        self.period.expires
    }

    /// How long the token is valid, from its issue on; shorter than the permit's if that is 1 hour.
    pub fn lifetime(&self) -> Duration {
        self.period.lifetime
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("jti", &self.jti).finish_non_exhaustive()
    }
}

impl IssuerState {
    /// Issues a token that the issuing key signs, in memory.
    ///
    /// # Errors
    /// A refusal with [`ErrorCode::ServerError`], if the permit names a key in the TPM, or signing fails.
    pub fn mint_token(&self, permit: Permit, now: Timestamp) -> Result<AccessToken, Refusal> {
        let (agent, audience) = (permit.agent().clone(), permit.audience().to_owned());
        let refuse = |message: String| {
            Refusal::new(ErrorCode::ServerError, message)
                .with_peer(agent.peer())
                .with_agent(agent.name())
                .with_audience(&audience)
        };
        if permit.signer() != Signer::Issuing {
            return Err(refuse("this grant's tokens are signed by the TPM".to_owned()));
        }
        build(self, permit, now).and_then(|token| token.sign(self)).map_err(|error| refuse(error.to_string()))
    }
}

/// An access token without its signature.
pub(super) struct UnsignedToken {
    jws: UnsignedJws,
    permit: Permit,
    kid: String,
    jti: String,
    period: TokenPeriod,
}

impl UnsignedToken {
    /// Which key has to sign.
    pub(super) fn signer(&self) -> Signer {
        self.permit.signer()
    }

    /// SHA-256 of the signing input.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.jws.digest()
    }

    /// The token with a signature over [`UnsignedToken::digest`].
    pub(super) fn with_signature(self, signature: &[u8]) -> AccessToken {
        let UnsignedToken { jws, permit, kid, jti, period } = self;
        AccessToken { text: jws.with_signature(signature), permit, kid, jti, period }
    }

    fn sign(self, issuer_state: &IssuerState) -> Result<AccessToken, Error> {
        let UnsignedToken { jws, permit, kid, jti, period } = self;
        Ok(AccessToken { text: jws.sign(issuer_state.issuing_key())?, permit, kid, jti, period })
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
    hostbadge: HostbadgeClaim<'a>,
}

/// Builds the permitted token, made at `now`, for the key that the grant names.
pub(super) fn build(
    issuer_state: &IssuerState,
    permit: Permit,
    now: Timestamp,
) -> Result<UnsignedToken, Error> {
    let header = issuer_state.signing_header(permit.signer(), permit.typ())?;
    let agent = permit.agent();
    let host = issuer_state.host();
    let jti = new_jti()?;
    let period = TokenPeriod::new(now, permit.ttl());
    let claims = AccessTokenClaims {
        iss: &host.issuer,
        sub: &host.spiffe_id(agent.entry()),
        client_id: agent.name().as_str(),
        aud: permit.audience(),
        iat: period.not_before,
        nbf: period.not_before,
        exp: period.expires.as_secs(),
        jti: &jti,
        scope: permit.scope(),
        hostbadge: HostbadgeClaim::new(
            host,
            agent,
            permit.posture(),
            issuer_state.clock_sync(),
            header.key_protection(),
        ),
    };
    let jws = UnsignedJws::new(header, &serde_json::to_vec(&claims)?);
    Ok(UnsignedToken { jws, kid: header.kid().to_owned(), jti, period, permit })
}

//! Token introspection (RFC 7662).

use super::issuer::IssuerState;
use super::validity::{TokenSubject, Undecided, ValidNow};
use crate::agents::Binding;
use crate::clock::Timestamp;
use crate::verify::{self, Expectation, TokenKind};

/// An introspection request.
#[derive(Debug)]
pub struct IntrospectionRequest {
    /// The access token.
    pub token: String,
    /// The relying party's own audience: a token for another audience is inactive. `None` accepts any
    /// audience.
    pub audience: Option<String>,
}

/// The response: `active` alone, or `active` with the claims.
#[derive(Debug)]
pub struct Introspection {
    /// Whether the token is valid now.
    pub active: bool,
    /// `Bearer` for an active access token, or `DPoP` where it is bound to a key.
    pub token_type: Option<&'static str>,
    /// The claims of an active token.
    pub claims: Option<serde_json::Value>,
    /// Why the token is inactive, for the audit log; RFC 7662 section 2.2 keeps it from the caller.
    pub inactive_reason: Option<String>,
    /// The token's identifier, for the audit log; `None` if the token could not be verified.
    pub jti: Option<String>,
    /// Whether this introspection used the token up.
    pub is_used_up: bool,
}

impl Introspection {
    /// The end of an active token.
    pub fn expires(&self) -> Option<Timestamp> {
        self.claims.as_ref()?["exp"].as_u64().map(Timestamp::from_secs)
    }

    /// The same token, which is inactive for this reason.
    pub fn with_reason(self, reason: &str) -> Introspection {
        Introspection { jti: self.jti, ..Introspection::inactive(reason.to_owned()) }
    }

    /// A token whose signature, times and claims were verified; inactive with a reason.
    fn of_verified(
        jti: String,
        token_type: Option<&'static str>,
        claims: serde_json::Value,
        reason: Option<String>,
    ) -> Introspection {
        match reason {
            Some(reason) => Introspection { jti: Some(jti), ..Introspection::inactive(reason) },
            None => Introspection {
                active: true,
                token_type,
                claims: Some(claims),
                inactive_reason: None,
                jti: Some(jti),
                is_used_up: false,
            },
        }
    }

    pub(super) fn inactive(reason: String) -> Introspection {
        Introspection {
            active: false,
            token_type: None,
            claims: None,
            inactive_reason: Some(reason),
            jti: None,
            is_used_up: false,
        }
    }
}

/// RFC 9449 section 6.2.
fn token_type(claims: &serde_json::Value) -> &'static str {
    let is_bound = claims["cnf"]["jkt"].is_string();
    if is_bound { Binding::Dpop.token_type() } else { Binding::None.token_type() }
}

/// The SPIFFE ID of the sub-agent that acts for the agent in `sub` (RFC 8693 section 4.1).
fn acting_id(claims: &serde_json::Value) -> Option<&str> {
    claims["act"]["sub"].as_str()
}

impl IssuerState {
    /// Checks signature, times, issuer and audience, that it is not revoked, and that the agent is of `tenant`, the
    /// caller's, and still registered with a grant for the audience and with the conditions that it met. Agents without a tenant
    /// are a group of their own, as those of a tenant are.
    ///
    /// # Errors
    /// [`Undecided`] while the number of a name in the agent's conditions is not known.
    pub fn introspect(
        &self,
        request: &IntrospectionRequest,
        tenant: Option<&str>,
        valid: ValidNow<'_>,
        now: Timestamp,
    ) -> Result<Introspection, Undecided> {
        let issuer = match self.issuer_of(tenant) {
            Ok(issuer) => issuer,
            Err(e) => return Ok(Introspection::inactive(e.to_string())),
        };
        let expected = Expectation { issuer: Some(issuer.issuer()), audience: request.audience.as_deref() };
        let keys = &issuer.documents().keys;
        let verified = match verify::verify_access_token(&request.token, keys, now, false, expected) {
            Ok(verified) => verified,
            Err(e) => return Ok(Introspection::inactive(e.to_string())),
        };
        let claims = &verified.claims;
        let subject = TokenSubject {
            name: &claims.client_id,
            spiffe_id: acting_id(&verified.raw_claims).unwrap_or(&claims.sub),
            kid: &verified.kid,
            jti: Some(&claims.jti),
            expires: Some(Timestamp::from_secs(claims.exp)),
            ..TokenSubject::default()
        };
        let subject = subject.with_claim(&verified.raw_claims["hostbadge"]);
        let audiences = std::iter::once(claims.aud.as_str());
        let reason = self.invalid_reason(&subject, audiences, tenant, valid)?;
        let token_type = token_type(&verified.raw_claims);
        Ok(Introspection::of_verified(verified.claims.jti, Some(token_type), verified.raw_claims, reason))
    }

    /// The same for a Workload Identity Token, which has no audience. Its holder has to prove its key: this does not
    /// compare any proof.
    ///
    /// # Errors
    /// As [`IssuerState::introspect`].
    pub fn introspect_wit(
        &self,
        text: &str,
        audience: Option<&str>,
        tenant: Option<&str>,
        valid: ValidNow<'_>,
        now: Timestamp,
    ) -> Result<Introspection, Undecided> {
        let issuer = match self.issuer_of(tenant) {
            Ok(issuer) => issuer,
            Err(e) => return Ok(Introspection::inactive(e.to_string())),
        };
        let expected = Expectation { issuer: Some(issuer.issuer()), audience };
        let verified = match verify::verify_token(text, &issuer.documents().keys, now, false, expected) {
            Ok(verified) if verified.kind == TokenKind::WitSvid => verified,
            Ok(verified) => return Ok(Introspection::inactive(format!("a {} is not a WIT", verified.kind))),
            Err(e) => return Ok(Introspection::inactive(e.to_string())),
        };
        let claims = &verified.claims;
        let subject = TokenSubject {
            name: claims.agent(),
            spiffe_id: &claims.sub,
            kid: verified.key_id(),
            jti: Some(&claims.jti),
            expires: Some(Timestamp::from_secs(claims.exp)),
            ..TokenSubject::default()
        };
        let subject = subject.with_claim(&verified.raw_claims["hostbadge"]);
        let reason = self.invalid_reason(&subject, std::iter::empty(), tenant, valid)?;
        Ok(Introspection::of_verified(verified.claims.jti, None, verified.raw_claims, reason))
    }
}

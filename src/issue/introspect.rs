//! Token introspection (RFC 7662).

use serde_json::Value;

use super::issuer::IssuerState;
use crate::agents::{Registrations, TagCheck};
use crate::clock::Timestamp;
use crate::revocation::{IssuedToken, Revocations};
use crate::verify::{self, Expectation};

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
    /// `Bearer` for an active access token.
    pub token_type: Option<&'static str>,
    /// The claims of an active token.
    pub claims: Option<serde_json::Value>,
    /// Why the token is inactive, for the audit log; RFC 7662 section 2.2 keeps it from the caller.
    pub inactive_reason: Option<String>,
    /// The token's identifier, for the audit log; `None` if the token could not be verified.
    pub jti: Option<String>,
}

/// Whether a token's agent still matches is not known. The caller receives the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token cannot be checked now: its agent is registered by {0}, whose number is not known yet")]
pub struct Undecided(String);

/// What makes a token of this host valid, beside its signature and its times.
#[derive(Clone, Copy)]
pub struct ValidNow<'a> {
    /// The registered agents.
    pub registrations: &'a Registrations,
    /// What has been revoked.
    pub revocations: &'a Revocations,
}

/// What a verified token says about its agent.
pub(super) struct TokenSubject<'a> {
    /// The agent's name.
    pub name: &'a str,
    /// Its SPIFFE ID.
    pub spiffe_id: &'a str,
    /// The audience for which the token is used.
    pub audience: &'a str,
    /// The key that signed it.
    pub kid: &'a str,
    /// Its identifier.
    pub jti: &'a str,
    /// All claims of the token.
    pub claims: &'a Value,
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

    pub(super) fn inactive(reason: String) -> Introspection {
        Introspection {
            active: false,
            token_type: None,
            claims: None,
            inactive_reason: Some(reason),
            jti: None,
        }
    }
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
            spiffe_id: &claims.sub,
            audience: &claims.aud,
            kid: &verified.kid,
            jti: &claims.jti,
            claims: &verified.raw_claims,
        };
        let mut response = match self.inactive_reason(&subject, tenant, valid)? {
            Some(reason) => Introspection::inactive(reason),
            None => Introspection {
                active: true,
                token_type: Some("Bearer"),
                claims: Some(verified.raw_claims),
                inactive_reason: None,
                jti: None,
            },
        };
        response.jti = Some(verified.claims.jti);
        Ok(response)
    }

    /// Why a verified token of this host is not valid any more; `None` if it is. One rule for access tokens
    /// and JWT-SVIDs.
    pub(super) fn inactive_reason(
        &self,
        token: &TokenSubject<'_>,
        tenant: Option<&str>,
        valid: ValidNow<'_>,
    ) -> Result<Option<String>, Undecided> {
        let ValidNow { registrations, revocations } = valid;
        let name = token.name;
        let Some(entry) = registrations.agents.get(name) else {
            return Ok(Some(format!("agent \"{name}\" is not registered any more")));
        };
        if self.host().spiffe_id(entry) != token.spiffe_id {
            return Ok(Some(format!("agent \"{name}\" has a different SPIFFE ID now")));
        }
        if entry.tenant.as_deref() != tenant {
            return Ok(Some(format!("agent \"{name}\" is of another tenant than the caller")));
        }
        let claim = &token.claims["hostbadge"];
        let issued = IssuedToken {
            agent: entry,
            invocation: claim["invocation"].as_str(),
            kid: token.kid,
            jti: token.jti,
            epoch: claim["epoch"].as_u64().unwrap_or_default(),
        };
        if let Some(reason) = revocations.revoked_reason(&issued) {
            return Ok(Some(reason));
        }
        if entry.grant(token.audience).is_none() {
            return Ok(Some(format!("agent \"{name}\" has no grant for its audience any more")));
        }
        // Tokens of releases that did not write the tag expire within an hour.
        let tag = claim["match"].as_str().and_then(|tag| tag.parse().ok());
        match tag.map_or(TagCheck::Same, |tag| registrations.check_tag(entry, tag)) {
            TagCheck::Same => Ok(None),
            TagCheck::Changed => {
                Ok(Some(format!("agent \"{name}\" is matched by other conditions since it was issued")))
            }
            TagCheck::Undecided(unknown) => Err(Undecided(unknown.to_string())),
        }
    }
}

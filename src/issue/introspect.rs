//! Token introspection (RFC 7662).

use serde::Serialize;

use super::issuer::IssuerState;
use crate::agents::AgentSet;
use crate::clock::Timestamp;
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
#[derive(Debug, Serialize)]
pub struct Introspection {
    /// Whether the token is valid now.
    pub active: bool,
    /// `Bearer` for an active access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<&'static str>,
    /// The claims of an active token.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub claims: Option<serde_json::Value>,
    /// Why the token is inactive, for the audit log; RFC 7662 section 2.2 keeps it from the caller.
    #[serde(skip)]
    pub inactive_reason: Option<String>,
    /// The token's identifier, for the audit log; `None` if the token could not be verified.
    #[serde(skip)]
    pub jti: Option<String>,
}

impl Introspection {
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
    /// Checks signature, times, issuer and audience, and that the agent is still registered with a grant for
    /// the audience.
    pub fn introspect(
        &self,
        request: &IntrospectionRequest,
        registry: &AgentSet,
        now: Timestamp,
    ) -> Introspection {
        let expected =
            Expectation { issuer: Some(&self.host().issuer), audience: request.audience.as_deref() };
        let keys = &self.documents().keys;
        let verified = match verify::verify_access_token(&request.token, keys, now, false, expected) {
            Ok(verified) => verified,
            Err(e) => return Introspection::inactive(e.to_string()),
        };
        let claims = &verified.claims;
        let mut response = match registry.get(&claims.client_id) {
            None => {
                Introspection::inactive(format!("agent \"{}\" is not registered any more", claims.client_id))
            }
            Some(entry) if self.host().spiffe_id(entry) != claims.sub => Introspection::inactive(format!(
                "agent \"{}\" has a different SPIFFE ID now",
                claims.client_id
            )),
            Some(entry) if !entry.grants.iter().any(|grant| grant.audience == claims.aud) => {
                Introspection::inactive(format!(
                    "agent \"{}\" has no grant for its audience any more",
                    claims.client_id
                ))
            }
            Some(_) => Introspection {
                active: true,
                token_type: Some("Bearer"),
                claims: Some(verified.raw_claims),
                inactive_reason: None,
                jti: None,
            },
        };
        response.jti = Some(verified.claims.jti);
        response
    }
}

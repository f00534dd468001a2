//! What a token is worth now (RFC 7662).

use serde::Serialize;

use super::IssuerState;
use crate::agents::AgentSet;
use crate::clock::Timestamp;
use crate::verify::{self, Expectation};

/// A question about a token.
#[derive(Debug)]
pub struct IntrospectionRequest {
    pub token: String,
    /// The asker's own audience; a token for another is then inactive.
    pub audience: Option<String>,
}

/// The answer: either inactive and nothing more, or active with the claims.
#[derive(Debug, Serialize)]
pub struct Introspection {
    pub active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<&'static str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub claims: Option<serde_json::Value>,
    /// Why it is inactive: for the record, never for the asker (RFC 7662 section 2.2).
    #[serde(skip)]
    pub inactive_reason: Option<String>,
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
    /// Signature, times, issuer, audience, and whether the agent is still registered for it.
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
            Some(entry) if self.host().spiffe_id(entry) != claims.sub => {
                Introspection::inactive(format!("agent \"{}\" is another one now", claims.client_id))
            }
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

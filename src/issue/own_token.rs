//! Recognizes a token that this host issued, whether it is valid now or not.

use super::issuer::IssuerState;
use crate::clock::Timestamp;
use crate::verify::{self, TokenKind, VerifiedToken};

/// A token that a key of this host signed.
#[derive(Clone, Debug)]
pub struct OwnToken {
    /// The tenant of the issuer.
    pub tenant: Option<String>,
    verified: VerifiedToken,
}

impl OwnToken {
    /// What it is.
    pub fn kind(&self) -> TokenKind {
        self.verified.kind
    }

    /// The token's claims, as signed.
    pub fn verified(&self) -> &VerifiedToken {
        &self.verified
    }

    /// Its identifier.
    pub fn jti(&self) -> &str {
        &self.verified.claims.jti
    }

    /// The name of the agent that it was issued to.
    pub fn agent(&self) -> &str {
        self.verified.claims.agent()
    }

    /// The SPIFFE ID of the agent. In an access token of a sub-agent, `sub` is the agent that it acts for.
    pub fn spiffe_id(&self) -> &str {
        self.verified.raw_claims["act"]["sub"].as_str().unwrap_or(&self.verified.claims.sub)
    }

    /// `exp`.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_secs(self.verified.claims.exp)
    }

    /// A member of its private claim `hostbadge`.
    pub fn host_claim(&self, name: &str) -> Option<&str> {
        self.verified.raw_claims["hostbadge"][name].as_str()
    }

    /// The epoch of the revocations at its issue.
    pub fn epoch(&self) -> u64 {
        self.verified.raw_claims["hostbadge"]["epoch"].as_u64().unwrap_or_default()
    }
}

impl IssuerState {
    /// The token, if a published key of this host signed it; its times do not matter.
    ///
    /// # Errors
    /// As those of [`verify::verify_token_signature`], by the keys of the host.
    pub fn own_token(&self, text: &str) -> Result<OwnToken, verify::Error> {
        let by_host = verify::verify_token_signature(text, &self.own().documents().keys);
        let error = match by_host {
            Ok(verified) => return Ok(OwnToken { tenant: None, verified }),
            Err(error) => error,
        };
        for tenant in self.tenants() {
            let Ok(issuer) = self.issuer_of(Some(tenant)) else { continue };
            if let Ok(verified) = verify::verify_token_signature(text, &issuer.documents().keys) {
                return Ok(OwnToken { tenant: Some(tenant.to_owned()), verified });
            }
        }
        Err(error)
    }
}

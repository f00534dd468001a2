//! Validation of JWT-SVIDs of this trust domain and of federated trust domains.

use super::introspect::Introspection;
use super::issuer::IssuerState;
use crate::agents::AgentSet;
use crate::clock::Timestamp;
use crate::verify::{self, JwtAuthorities};

/// A ValidateJWTSVID request (SPIFFE Workload API).
#[derive(Debug)]
pub struct ValidationRequest {
    /// The JWT-SVID, a compact JWS.
    pub svid: String,
    /// The caller's own audience.
    pub audience: String,
}

/// The claims that are returned of a federated token. This host does not vouch for the others.
const FEDERATED_CLAIMS: [&str; 3] = ["sub", "aud", "exp"];

impl IssuerState {
    /// Checks the signature by the keys of the token's own trust domain, its times and audience; and for a
    /// token of this trust domain, that its agent is still registered. `federated_keys` has the keys of a
    /// federated trust domain.
    pub fn validate_jwt_svid<'k>(
        &'k self,
        request: &ValidationRequest,
        registry: &AgentSet,
        federated_keys: impl FnOnce(&str) -> Option<&'k JwtAuthorities>,
        now: Timestamp,
    ) -> Introspection {
        let own_domain = self.host().trust_domain.as_str();
        let keys = |domain: &str| {
            if domain == own_domain { Some(&self.documents().svid_keys) } else { federated_keys(domain) }
        };
        let mut svid = match verify::validate_jwt_svid(&request.svid, &request.audience, now, keys) {
            Ok(svid) => svid,
            Err(e) => return Introspection::inactive(e.to_string()),
        };
        let jti = svid.claims.get("jti").and_then(|jti| jti.as_str()).map(str::to_owned);
        if verify::workload_trust_domain(&svid.spiffe_id) == Some(own_domain) {
            let name = svid.spiffe_id.rsplit('/').next().unwrap_or_default();
            let entry = registry.get(name);
            if entry.is_none_or(|entry| self.host().spiffe_id(entry) != svid.spiffe_id) {
                let reason = format!("agent \"{name}\" is not registered any more");
                return Introspection { jti, ..Introspection::inactive(reason) };
            }
        } else {
            svid.claims.retain(|name, _| FEDERATED_CLAIMS.contains(&name.as_str()));
        }
        Introspection {
            active: true,
            token_type: None,
            claims: Some(serde_json::Value::Object(svid.claims)),
            inactive_reason: None,
            jti,
        }
    }
}

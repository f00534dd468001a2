//! Whether a JWT-SVID holds, of this trust domain or of one that it is federated with.

use super::introspect::Introspection;
use super::issuer::Standing;
use crate::agents::Registry;
use crate::clock::Timestamp;
use crate::verify::{self, SvidKeys};

/// What ValidateJWTSVID asks.
#[derive(Debug)]
pub struct Question {
    pub svid: String,
    /// The asker's own.
    pub audience: String,
}

/// What is told of a foreign token: more would be another domain's word under ours.
const FOREIGN: [&str; 3] = ["sub", "aud", "exp"];

impl Standing {
    /// Signature by the keys of its own trust domain, times, audience; of ours, whether its agent is still there.
    pub fn validate<'k>(
        &'k self,
        question: &Question,
        registry: &Registry,
        foreign: impl FnOnce(&str) -> Option<&'k SvidKeys>,
        now: Timestamp,
    ) -> Introspection {
        let own = self.host().trust_domain.as_str();
        let keys = |domain: &str| match domain == own {
            true => Some(&self.documents().svid_keys),
            false => foreign(domain),
        };
        let mut svid = match verify::validate(&question.svid, &question.audience, now, keys) {
            Ok(svid) => svid,
            Err(e) => return Introspection::inactive(e.to_string()),
        };
        let jti = svid.claims.get("jti").and_then(|jti| jti.as_str()).map(str::to_owned);
        if verify::trust_domain(&svid.spiffe_id) == Some(own) {
            let name = svid.spiffe_id.rsplit('/').next().unwrap_or_default();
            let entry = registry.find(name);
            if entry.is_none_or(|entry| self.host().spiffe_id(entry) != svid.spiffe_id) {
                let because = format!("agent \"{name}\" is not registered any more");
                return Introspection { jti, ..Introspection::inactive(because) };
            }
        } else {
            svid.claims.retain(|name, _| FOREIGN.contains(&name.as_str()));
        }
        Introspection {
            active: true,
            token_type: None,
            claims: Some(serde_json::Value::Object(svid.claims)),
            inactive_because: None,
            jti,
        }
    }
}

//! Validation of JWT-SVIDs of this trust domain and of federated trust domains.

use super::introspect::Introspection;
use super::issuer::IssuerState;
use super::validity::{TokenSubject, Undecided, ValidNow};
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
    /// token of this trust domain, that its agent is of `tenant`, the caller's, and still registered with a grant
    /// for the audience and with the conditions that it met. `federated_keys` has the keys of a federated trust domain.
    ///
    /// # Errors
    /// [`Undecided`] while the number of a name in the agent's conditions is not known.
    pub fn validate_jwt_svid<'k>(
        &'k self,
        request: &ValidationRequest,
        tenant: Option<&str>,
        valid: ValidNow<'_>,
        federated_keys: impl FnOnce(&str) -> Option<&'k JwtAuthorities>,
        now: Timestamp,
    ) -> Result<Introspection, Undecided> {
        let own_domain = self.host().trust_domain.as_str();
        let keys = |domain: &str| {
            if domain == own_domain { Some(&self.bundles().svid_keys) } else { federated_keys(domain) }
        };
        let mut svid = match verify::validate_jwt_svid(&request.svid, &request.audience, now, keys) {
            Ok(svid) => svid,
            Err(e) => return Ok(Introspection::inactive(e.to_string())),
        };
        let jti = svid.claims.get("jti").and_then(|jti| jti.as_str()).map(str::to_owned);
        let is_own = verify::workload_trust_domain(&svid.spiffe_id) == Some(own_domain);
        if !is_own {
            svid.claims.retain(|name, _| FEDERATED_CLAIMS.contains(&name.as_str()));
        }
        let claims = serde_json::Value::Object(svid.claims);
        if is_own {
            let token = TokenSubject {
                name: verify::agent_of_id(&svid.spiffe_id).unwrap_or_default(),
                spiffe_id: &svid.spiffe_id,
                kid: &svid.kid,
                jti: Some(jti.as_deref().unwrap_or_default()),
                expires: claims["exp"].as_u64().map(Timestamp::from_secs),
                ..TokenSubject::default()
            };
            let token = token.with_claim(&claims["hostbadge"]);
            let audiences = std::iter::once(request.audience.as_str());
            if let Some(reason) = self.invalid_reason(&token, audiences, tenant, valid)? {
                return Ok(Introspection { jti, ..Introspection::inactive(reason) });
            }
        }
        let claims = Some(claims);
        Ok(Introspection {
            active: true,
            token_type: None,
            claims,
            inactive_reason: None,
            jti,
            is_used_up: false,
        })
    }
}

//! What other verifiers do with a token whose times are within this one's leeway.

use super::token::TokenClaims;
use crate::clock::Timestamp;

/// A verifier, and by how many seconds it tolerates a difference of clocks unless it is configured.
struct OtherVerifier {
    name: &'static str,
    /// After `exp`.
    after_exp: u64,
    /// Before `nbf`.
    before_nbf: u64,
}

/// Verifiers with less leeway than [`super::LEEWAY`] by default. Spring Security, Nimbus, Envoy, Vault and
/// OpenBao have 60 s.
const OTHER_VERIFIERS: &[OtherVerifier] = &[
    OtherVerifier { name: "Authlib", after_exp: 0, before_nbf: 0 },
    OtherVerifier { name: "PyJWT", after_exp: 0, before_nbf: 0 },
    OtherVerifier { name: "joserfc", after_exp: 0, before_nbf: 0 },
    OtherVerifier { name: "python-jose", after_exp: 0, before_nbf: 0 },
    OtherVerifier { name: "jose", after_exp: 0, before_nbf: 0 },
    OtherVerifier { name: "jsonwebtoken for Node", after_exp: 0, before_nbf: 0 },
    OtherVerifier { name: "express-oauth2-jwt-bearer", after_exp: 5, before_nbf: 5 },
    OtherVerifier { name: "golang-jwt", after_exp: 0, before_nbf: 0 },
    OtherVerifier { name: "jjwt", after_exp: 0, before_nbf: 0 },
    OtherVerifier { name: "go-oidc and Kubernetes", after_exp: 0, before_nbf: 300 },
];

impl TokenClaims {
    /// Which verifiers refuse a token now that [`super::verify_token`] accepts with its leeway: one text for
    /// each reason.
    pub fn refused_elsewhere(&self, now: Timestamp) -> Vec<String> {
        let now = now.as_secs();
        let mut refusals = Vec::new();
        if now >= self.exp {
            let names = names(|other| now >= self.exp.saturating_add(other.after_exp));
            refusals.push(format!("expired {} s ago: without a leeway, {names} refuse it", now - self.exp));
        }
        let not_before = self.nbf.unwrap_or(self.iat);
        if now < not_before {
            let names = names(|other| now.saturating_add(other.before_nbf) < not_before);
            let seconds = not_before - now;
            refusals.push(format!(
                "valid from {seconds} s after now, by the clock here: without a leeway, {names} refuse it"
            ));
        }
        refusals
    }
}

fn names(refuses: impl Fn(&OtherVerifier) -> bool) -> String {
    let names: Vec<&str> =
        OTHER_VERIFIERS.iter().filter(|other| refuses(other)).map(|other| other.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusals(iat: u64, exp: u64) -> Vec<String> {
        let claims = json!({ "iss": "i", "sub": "s", "iat": iat, "nbf": iat, "exp": exp, "jti": "j" });
        let claims: TokenClaims = serde_json::from_value(claims).unwrap();
        claims.refused_elsewhere(Timestamp::from_secs(1000))
    }

    #[test]
    fn verifiers_with_less_leeway_are_named() {
        assert!(refusals(1000, 1001).is_empty());
        let refused = refusals(900, 1000);
        assert!(refused[0].starts_with("expired 0 s ago") && refused[0].contains("PyJWT"), "{refused:?}");
        assert!(!refused[0].contains("express-oauth2-jwt-bearer"), "{refused:?}");
        assert!(refusals(900, 995)[0].contains("express-oauth2-jwt-bearer"));
        let early = refusals(1006, 1100);
        assert!(early[0].contains("6 s") && early[0].contains("express-oauth2-jwt-bearer"), "{early:?}");
        assert!(!early[0].contains("Kubernetes"), "{early:?}");
    }
}

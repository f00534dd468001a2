//! Workload Proof Tokens (draft-ietf-wimse-wpt).

use serde::Serialize;

use super::action::Action;
use super::error::Error;
use super::jws::{KeyReference, new_id, sign_jwt};
use super::key::ProofKey;
use super::proof::{PROOF_TTL, Proof, ProofHeader};
use super::values::check_token;
use crate::clock::Timestamp;
use crate::verify::proof::token_hash;

const TYP: &str = "wpt+jwt";

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    /// Seconds since 1970.
    exp: u64,
    jti: &'a str,
    wth: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
}

/// Makes the header `Workload-Proof-Token` for an action. The proof names the URL without its query; it
/// covers neither the method nor the body.
///
/// `wit` is the workload identity token that the request has in `Workload-Identity-Token`, and whose
/// `cnf.jwk` is the key; `access_token` is the token that it has beside it, if there is one.
///
/// # Errors
///
/// [`Error::Value`] for a text that cannot be a token; [`Error::Random`], [`Error::Json`],
/// [`Error::Signing`].
pub fn wpt(
    key: &ProofKey,
    action: &Action,
    wit: &str,
    access_token: Option<&str>,
    now: Timestamp,
) -> Result<Proof, Error> {
    check_token("the workload identity token", wit)?;
    access_token.map(|token| check_token("the access token", token)).transpose()?;
    let (jti, expires) = (new_id()?, now.after(PROOF_TTL));
    let claims = Claims {
        aud: action.url.without_query(),
        exp: expires.as_secs(),
        jti: &jti,
        wth: token_hash(wit),
        ath: access_token.map(token_hash),
    };
    let jwt = sign_jwt(key, TYP, KeyReference::None, &claims)?;
    Ok(Proof::new(vec![ProofHeader::new("Workload-Proof-Token", jwt)], Some(jti), expires))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::proof::{
        Error as ProofError, VerifiedWpt, WptExpectation, p256_key_from_jwk, verify_wpt,
    };
    use serde_json::Value;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn verify(
        key: &ProofKey,
        proof: &Proof,
        url: &str,
        wit: &str,
        access_token: Option<&str>,
    ) -> Result<VerifiedWpt, ProofError> {
        // As the claim `cnf.jwk` of a WIT has it.
        let mut cnf_jwk: Value = serde_json::to_value(&key.jwk().params).unwrap();
        cnf_jwk["alg"] = "ES256".into();
        let expected = WptExpectation {
            url: &Action::parse("GET", url, None).unwrap().url,
            wit,
            wit_key: &p256_key_from_jwk(&cnf_jwk).unwrap(),
            access_token,
            now: NOW,
            max_lifetime: PROOF_TTL,
            leeway: Duration::ZERO,
        };
        verify_wpt(proof.header("Workload-Proof-Token").unwrap(), &expected)
    }

    #[test]
    fn proof_verifies_for_its_url_and_tokens_only() {
        let key = ProofKey::generate(NOW).unwrap();
        let action = Action::parse("POST", "https://api.example.com/v1/a?b=c", None).unwrap();
        let proof = wpt(&key, &action, "wit", Some("token"), NOW).unwrap();
        let url = "https://api.example.com/v1/a";
        let verified = verify(&key, &proof, url, "wit", Some("token")).unwrap();
        assert_eq!((Some(verified.jti.as_str()), verified.expires), (proof.id(), proof.expires()));
        assert_eq!(proof.expires(), NOW.after(Duration::from_secs(60)));

        let refused = verify(&key, &proof, "https://api.example.com/v1/b", "wit", Some("token"));
        assert!(matches!(refused, Err(ProofError::Url)));
        assert!(matches!(verify(&key, &proof, url, "wit2", Some("token")), Err(ProofError::WitHash)));
        assert!(matches!(verify(&key, &proof, url, "wit", Some("token2")), Err(ProofError::TokenHash)));
        let other = ProofKey::generate(NOW).unwrap();
        assert!(matches!(verify(&other, &proof, url, "wit", Some("token")), Err(ProofError::Signature)));
    }

    #[test]
    fn tokens_are_checked() {
        let key = ProofKey::generate(NOW).unwrap();
        let action = Action::parse("GET", "https://a/", None).unwrap();
        verify(&key, &wpt(&key, &action, "wit", None, NOW).unwrap(), "https://a/", "wit", None).unwrap();
        for (wit, token) in [("", None), ("a b", None), ("wit", Some("")), ("wit", Some("a\n"))] {
            assert!(
                matches!(wpt(&key, &action, wit, token, NOW), Err(Error::Value { .. })),
                "{wit} {token:?}"
            );
        }
    }
}

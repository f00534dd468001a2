//! DPoP proofs (RFC 9449 section 4.2).

use serde::Serialize;

use super::action::Action;
use super::error::Error;
use super::jws::{KeyReference, new_id, sign_jwt};
use super::key::ProofKey;
use super::proof::{PROOF_TTL, Proof, ProofHeader};
use super::values::{check_nonce, check_token};
use crate::clock::Timestamp;
use crate::verify::proof::token_hash;

const TYP: &str = "dpop+jwt";

#[derive(Serialize)]
struct Claims<'a> {
    jti: &'a str,
    htm: &'a str,
    htu: &'a str,
    /// Seconds since 1970.
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

/// Makes the header `DPoP` for an action. The proof names the method and the URL without its query; it does
/// not cover the body.
///
/// `access_token` is the token that the request has, and `None` for a request to a token endpoint. `nonce` is
/// what the server sent in `DPoP-Nonce` (section 8).
///
/// # Errors
///
/// [`Error::Value`] for a token or nonce that cannot be one; [`Error::Random`], [`Error::Json`],
/// [`Error::Signing`].
pub fn dpop_proof(
    key: &ProofKey,
    action: &Action,
    access_token: Option<&str>,
    nonce: Option<&str>,
    now: Timestamp,
) -> Result<Proof, Error> {
    access_token.map(|token| check_token("the access token", token)).transpose()?;
    nonce.map(|nonce| check_nonce("the DPoP nonce", nonce)).transpose()?;
    let jti = new_id()?;
    let claims = Claims {
        jti: &jti,
        htm: action.method.as_str(),
        htu: action.url.without_query(),
        iat: now.as_secs(),
        ath: access_token.map(token_hash),
        nonce,
    };
    let jwt = sign_jwt(key, TYP, KeyReference::Jwk, &claims)?;
    Ok(Proof::new(vec![ProofHeader::new("DPoP", jwt)], Some(jti), now.after(PROOF_TTL)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::proof::{
        ActionUrl, DpopBinding, DpopExpectation, Error as ProofError, MAX_PROOF_LEN, MAX_URL_LEN,
        VerifiedDpop, verify_dpop_proof,
    };
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn key() -> ProofKey {
        ProofKey::generate(NOW).unwrap()
    }

    fn verify(proof: &Proof, action: &Action, binding: DpopBinding<'_>) -> Result<VerifiedDpop, ProofError> {
        let expected = DpopExpectation {
            method: action.method.as_str(),
            url: &action.url,
            binding,
            nonce: Some("n-1"),
            now: NOW,
            max_age: PROOF_TTL,
            leeway: Duration::ZERO,
        };
        verify_dpop_proof(proof.header("DPoP").unwrap(), &expected)
    }

    #[test]
    fn proof_verifies_for_its_action_and_token_only() {
        let key = key();
        let action = Action::parse("POST", "https://API.example.com/v1/%61?b=c", None).unwrap();
        let proof = dpop_proof(&key, &action, Some("token-1"), Some("n-1"), NOW).unwrap();
        let binding = DpopBinding::AccessToken { token: "token-1", jkt: key.jkt() };
        let verified = verify(&proof, &action, binding).unwrap();
        assert_eq!((Some(verified.jti.as_str()), verified.jkt.as_str()), (proof.id(), key.jkt()));
        assert_eq!((verified.issued_at, verified.remember_until), (NOW, proof.expires()));

        let other =
            Action { url: ActionUrl::parse("https://api.example.com/v1/b").unwrap(), ..action.clone() };
        assert!(matches!(verify(&proof, &other, binding), Err(ProofError::Url)));
        let other = Action::parse("GET", action.url.as_str(), None).unwrap();
        assert!(matches!(verify(&proof, &other, binding), Err(ProofError::Method)));
        let binding = DpopBinding::AccessToken { token: "token-2", jkt: key.jkt() };
        assert!(matches!(verify(&proof, &action, binding), Err(ProofError::TokenHash)));
    }

    #[test]
    fn each_proof_has_an_id_of_its_own() {
        let (key, action) = (key(), Action::parse("GET", "https://a/", None).unwrap());
        let make = || dpop_proof(&key, &action, None, Some("n-1"), NOW).unwrap();
        let (first, second) = (make(), make());
        assert_ne!(first.id(), second.id());
        verify(&first, &action, DpopBinding::AnyKey).unwrap();
        verify(&second, &action, DpopBinding::Key { jkt: key.jkt() }).unwrap();
    }

    #[test]
    fn the_longest_proof_is_within_the_verifiers_limit() {
        let key = key();
        let url = format!("https://a/{}", "b".repeat(MAX_URL_LEN - 10));
        let action = Action::parse(&"M".repeat(32), &url, None).unwrap();
        let proof = dpop_proof(&key, &action, Some("t"), Some(&"n".repeat(512)), NOW).unwrap();
        assert!(proof.header("DPoP").unwrap().len() <= MAX_PROOF_LEN);
    }

    #[test]
    fn tokens_and_nonces_are_checked() {
        let (key, action) = (key(), Action::parse("GET", "https://a/", None).unwrap());
        for (token, nonce) in [(Some(""), None), (Some("a b"), None), (None, Some("")), (None, Some("a\nb"))]
        {
            let refused = dpop_proof(&key, &action, token, nonce, NOW);
            assert!(matches!(refused, Err(Error::Value { .. })), "{token:?} {nonce:?}");
        }
    }
}

//! What a caller presents beside a token that it introspects: the proof or the certificate to which the token is bound.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

use super::error::InvalidRequest;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::mutex::lock;
use crate::verify::proof::{
    ActionUrl, DpopBinding, DpopExpectation, WptExpectation, p256_key_from_jwk, verify_dpop_proof, verify_wpt,
};
use crate::wire::agent::IntrospectionRequest;

/// How old a proof may be.
const MAX_AGE: Duration = Duration::from_secs(60);
/// How far the clock of the proof's maker may be ahead, which adds to its age too.
const LEEWAY: Duration = Duration::from_secs(10);
/// Proofs that are remembered until they are too old.
const MAX_REMEMBERED: usize = 65_536;
/// Characters of a certificate in PEM.
const MAX_PEM_LEN: usize = 16 * 1024;

/// The request to a local service, as that service received it with the token.
pub(super) enum Presented {
    /// A DPoP proof, with the method and the URL of the request.
    Dpop { proof: String, method: String, url: ActionUrl },
    /// A Workload Proof Token with the URL of the request, and with the Workload Identity Token unless that is the
    /// token itself.
    Wpt { proof: String, url: ActionUrl, wit: Option<String> },
    /// The client certificate of the connection: SHA-256 of its DER in base64url.
    Certificate(String),
}

/// Proofs that were presented, so that none counts twice.
#[derive(Debug, Default)]
pub(super) struct ProofReplays(Mutex<HashMap<[u8; 32], Timestamp>>);

impl Presented {
    /// What the request has beside the token; `None` if it has nothing.
    ///
    /// # Errors
    /// A part of it is missing or malformed.
    pub fn of(request: &mut IntrospectionRequest) -> Result<Option<Presented>, InvalidRequest> {
        let (proof, method, url) = (request.proof.take(), request.method.take(), request.url.take());
        let parsed = |url: String| ActionUrl::parse(&url).map_err(|e| InvalidRequest::new(e.to_string()));
        match (proof, method, url, request.wit.take(), request.certificate.take()) {
            (None, None, None, None, None) => Ok(None),
            (Some(proof), Some(method), Some(url), None, None) => {
                Ok(Some(Presented::Dpop { proof, method, url: parsed(url)? }))
            }
            (Some(proof), None, Some(url), wit, None) => {
                Ok(Some(Presented::Wpt { proof, url: parsed(url)?, wit }))
            }
            (None, None, None, None, Some(pem)) => {
                thumbprint(&pem).map(|x5t| Some(Presented::Certificate(x5t)))
            }
            _ => Err(InvalidRequest::new(
                "a DPoP proof has proof, method and url; a WPT has proof, url and, beside an access token, wit; \
                 certificate stands without them",
            )),
        }
    }

    /// Whether the token itself is a WIT.
    pub fn is_of_wit(&self) -> bool {
        matches!(self, Presented::Wpt { wit: None, .. })
    }

    /// The WIT beside an access token.
    pub fn wit(&self) -> Option<&str> {
        match self {
            Presented::Wpt { wit, .. } => wit.as_deref(),
            Presented::Dpop { .. } | Presented::Certificate(_) => None,
        }
    }

    /// Whether the token with these claims may be presented with it. `wit_claims` are those of the WIT beside it.
    ///
    /// # Errors
    /// The reason why not, for the audit log.
    pub fn check(
        &self,
        token: &str,
        claims: &Value,
        wit_claims: Option<&Value>,
        replays: &ProofReplays,
        now: Timestamp,
    ) -> Result<(), String> {
        match self {
            Presented::Dpop { proof, method, url } => {
                let Some(jkt) = claims["cnf"]["jkt"].as_str() else {
                    return Err("the token is not bound to a key, and a proof was presented".to_owned());
                };
                let expected = DpopExpectation {
                    method,
                    url,
                    binding: DpopBinding::AccessToken { token, jkt },
                    nonce: None,
                    now,
                    max_age: MAX_AGE,
                    leeway: LEEWAY,
                };
                let verified = verify_dpop_proof(proof, &expected).map_err(|e| e.to_string())?;
                replays.note(&verified.jkt, &verified.jti, verified.remember_until, now)
            }
            Presented::Wpt { proof, url, wit: text } => {
                let (wit, access_token) = match text {
                    Some(text) => (text.as_str(), Some(token)),
                    None => (token, None),
                };
                let identity = text.as_ref().map_or(Some(claims), |_| wit_claims);
                let identity = identity.ok_or("the WIT beside the token was not verified")?;
                if identity["sub"] != claims["sub"] {
                    return Err("the WIT is of another agent than the token".to_owned());
                }
                let key = p256_key_from_jwk(&identity["cnf"]["jwk"]).map_err(|e| e.to_string())?;
                check_binding(claims, &key.kid)?;
                let expected = WptExpectation {
                    url,
                    wit,
                    wit_key: &key,
                    access_token,
                    now,
                    max_lifetime: MAX_AGE,
                    leeway: LEEWAY,
                };
                let verified = verify_wpt(proof, &expected).map_err(|e| e.to_string())?;
                replays.note(&key.kid, &verified.jti, verified.remember_until, now)
            }
            Presented::Certificate(presented) => match claims["cnf"]["x5t#S256"].as_str() {
                Some(bound) if bound == presented => Ok(()),
                Some(_) => Err("the token is bound to another certificate".to_owned()),
                None => Err("the token is not bound to a certificate, and one was presented".to_owned()),
            },
        }
    }
}

/// An access token that is bound has to be bound to the key of the WIT.
fn check_binding(claims: &Value, jkt: &str) -> Result<(), String> {
    match (claims["cnf"]["jkt"].as_str(), claims["cnf"]["x5t#S256"].as_str()) {
        (None, None) => Ok(()),
        (Some(bound), None) if bound == jkt => Ok(()),
        (Some(_), _) => Err("the token is bound to another key than that of the WIT".to_owned()),
        (None, Some(_)) => Err("the token is bound to a certificate, and a WPT was presented".to_owned()),
    }
}

fn thumbprint(pem: &str) -> Result<String, InvalidRequest> {
    let parsed = match pem.len() {
        0..=MAX_PEM_LEN => CertificateDer::from_pem_slice(pem.as_bytes()).ok(),
        _ => None,
    };
    let der = parsed.ok_or_else(|| {
        InvalidRequest::new("certificate must be the client's certificate in PEM, of at most 16 KiB")
    })?;
    Ok(BASE64URL_NOPAD.encode(&sha256(&der)))
}

impl ProofReplays {
    fn note(&self, jkt: &str, jti: &str, remember_until: Timestamp, now: Timestamp) -> Result<(), String> {
        let id = sha256(format!("{jkt}.{jti}").as_bytes());
        let mut seen = lock(&self.0);
        if seen.get(&id).is_some_and(|until| now < *until) {
            return Err("the proof was presented before".to_owned());
        }
        if seen.len() >= MAX_REMEMBERED {
            seen.retain(|_, until| now < *until);
        }
        if seen.len() >= MAX_REMEMBERED {
            return Err("too many proofs were presented within a minute".to_owned());
        }
        seen.insert(id, remember_until);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_counts_once_until_it_is_too_old() {
        let replays = ProofReplays::default();
        let at = |secs: u64| Timestamp::from_secs(1_800_000_000 + secs);
        let note = |jti: &str, now: Timestamp| replays.note("key", jti, at(70), now);
        assert_eq!(note("a", at(0)), Ok(()));
        assert!(note("a", at(69)).is_err());
        assert_eq!(note("b", at(69)), Ok(()));
        for number in 2..MAX_REMEMBERED {
            note(&number.to_string(), at(1)).unwrap();
        }
        assert!(note("c", at(69)).is_err(), "those that count are kept");
        assert_eq!(note("c", at(70)), Ok(()), "those that are too old make room");
    }
}

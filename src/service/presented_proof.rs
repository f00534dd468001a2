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
use crate::verify::proof::{ActionUrl, DpopBinding, DpopExpectation, VerifiedDpop, verify_dpop_proof};
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
        let parts =
            (request.proof.take(), request.method.take(), request.url.take(), request.certificate.take());
        match parts {
            (None, None, None, None) => Ok(None),
            (Some(proof), Some(method), Some(url), None) => {
                let url = ActionUrl::parse(&url).map_err(|e| InvalidRequest::new(e.to_string()))?;
                Ok(Some(Presented::Dpop { proof, method, url }))
            }
            (None, None, None, Some(pem)) => thumbprint(&pem).map(|x5t| Some(Presented::Certificate(x5t))),
            _ => Err(InvalidRequest::new(
                "proof, method and url belong together, and certificate stands without them",
            )),
        }
    }

    /// Whether the token with these claims may be presented with it.
    ///
    /// # Errors
    /// The reason why not, for the audit log.
    pub fn check(
        &self,
        token: &str,
        claims: &Value,
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
                replays.note(&verified, now)
            }
            Presented::Certificate(presented) => match claims["cnf"]["x5t#S256"].as_str() {
                Some(bound) if bound == presented => Ok(()),
                Some(_) => Err("the token is bound to another certificate".to_owned()),
                None => Err("the token is not bound to a certificate, and one was presented".to_owned()),
            },
        }
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
    fn note(&self, proof: &VerifiedDpop, now: Timestamp) -> Result<(), String> {
        let id = sha256(format!("{}.{}", proof.jkt, proof.jti).as_bytes());
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
        seen.insert(id, proof.remember_until);
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
        let proof = |jti: &str| VerifiedDpop {
            jti: jti.to_owned(),
            jkt: "key".to_owned(),
            issued_at: at(0),
            remember_until: at(70),
        };
        assert_eq!(replays.note(&proof("a"), at(0)), Ok(()));
        assert!(replays.note(&proof("a"), at(69)).is_err());
        assert_eq!(replays.note(&proof("b"), at(69)), Ok(()));
        for number in 2..MAX_REMEMBERED {
            replays.note(&proof(&number.to_string()), at(1)).unwrap();
        }
        assert!(replays.note(&proof("c"), at(69)).is_err(), "those that count are kept");
        assert_eq!(replays.note(&proof("c"), at(70)), Ok(()), "those that are too old make room");
    }
}

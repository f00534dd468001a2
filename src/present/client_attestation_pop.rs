//! Proofs of a client whose key is attested (draft-ietf-oauth-attestation-based-client-auth).

use serde::Serialize;

use super::error::Error;
use super::jws::{KeyReference, new_id, sign_jwt};
use super::key::ProofKey;
use super::proof::{PROOF_TTL, Proof, ProofHeader};
use super::server::ServerIdentifier;
use super::values::check_nonce;
use crate::clock::Timestamp;

const TYP: &str = "oauth-client-attestation-pop+jwt";

#[derive(Serialize)]
struct Claims<'a> {
    /// The client. Earlier drafts require it, and servers of later ones ignore it.
    iss: &'a str,
    aud: &'a str,
    jti: &'a str,
    /// Seconds since 1970.
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<&'a str>,
}

/// Makes the header `OAuth-Client-Attestation-PoP` for one server. It stands beside
/// `OAuth-Client-Attestation`, whose `cnf.jwk` is the key.
///
/// `client_id` is the client's identifier at the server. `challenge` is what the server sent in `OAuth-Client-Attestation-Challenge`, or gave at its challenge
/// endpoint.
///
/// # Errors
///
/// [`Error::Value`] for a challenge that cannot be one; [`Error::Random`], [`Error::Json`],
/// [`Error::Signing`].
pub fn client_attestation_pop(
    key: &ProofKey,
    client_id: &str,
    server: &ServerIdentifier,
    challenge: Option<&str>,
    now: Timestamp,
) -> Result<Proof, Error> {
    challenge.map(|challenge| check_nonce("the challenge", challenge)).transpose()?;
    let jti = new_id()?;
    let claims = Claims { iss: client_id, aud: server.as_str(), jti: &jti, iat: now.as_secs(), challenge };
    let jwt = sign_jwt(key, TYP, KeyReference::None, &claims)?;
    let header = ProofHeader::new("OAuth-Client-Attestation-PoP", jwt);
    Ok(Proof::new(vec![header], Some(jti), now.after(PROOF_TTL)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64URL_NOPAD;
    use serde_json::{Value, json};

    fn decoded(key: &ProofKey, proof: &Proof) -> (Value, Value) {
        let text = proof.header("OAuth-Client-Attestation-PoP").unwrap();
        let parts: Vec<Vec<u8>> =
            text.split('.').map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).collect();
        let (input, _) = text.rsplit_once('.').unwrap();
        key.jwk().verify(input.as_bytes(), &parts[2]).unwrap();
        (serde_json::from_slice(&parts[0]).unwrap(), serde_json::from_slice(&parts[1]).unwrap())
    }

    #[test]
    fn proof_has_the_claims_of_the_draft() {
        let now = Timestamp::from_secs(1_790_000_000);
        let key = ProofKey::generate(now).unwrap();
        let server = ServerIdentifier::parse("https://as.example.com/").unwrap();
        for challenge in [None, Some("5c1a9e10-29ff-4c2b-ae73-57c0957c09c4")] {
            let proof = client_attestation_pop(&key, "client-1", &server, challenge, now).unwrap();
            let (header, claims) = decoded(&key, &proof);
            assert_eq!(header, json!({ "typ": TYP, "alg": "ES256" }));
            let mut expected = json!({ "iss": "client-1", "aud": "https://as.example.com/", "jti": proof.id(), "iat": 1_790_000_000_u64 });
            if let Some(challenge) = challenge {
                expected["challenge"] = challenge.into();
            }
            assert_eq!(claims, expected);
        }
        for challenge in ["", "a b", "\"", "a\r\n"] {
            let refused = client_attestation_pop(&key, "client-1", &server, Some(challenge), now);
            assert!(matches!(refused, Err(Error::Value { .. })), "{challenge:?}");
        }
    }
}

//! Proofs of possession and client assertions, each from a [`ProofPermit`] and for what it names.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::Error;
use super::issuer::IssuerState;
use super::jws::{SigningHeader, UnsignedJws, new_jti};
use super::wit_svid::{self, ConfirmationClaim};
use crate::clock::Timestamp;
use crate::policy::{ProofPermit, ProofTarget, Refusal};
use crate::present::{
    self, Action, PROOF_TTL, ProofKey, ProofKind, ServerIdentifier, SignedFields, check_nonce, check_token,
};

/// `typ` of a client assertion (RFC 7523bis).
const CLIENT_ASSERTION_TYP: &str = "client-authentication+jwt";
/// `typ` of a client attestation.
const CLIENT_ATTESTATION_TYP: &str = "oauth-client-attestation+jwt";
/// `client_assertion_type` (RFC 7523 section 2.2).
const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What a proof has besides its action.
#[derive(Clone, Default)]
pub struct ProofDetails {
    token: Option<String>,
    nonce: Option<String>,
    jkt: Option<String>,
}

impl ProofDetails {
    /// The token that the proof is for, and the nonce that the server gave.
    ///
    /// # Errors
    /// [`present::Error::Value`] for a text that cannot be one.
    pub fn new(token: Option<&str>, nonce: Option<&str>) -> Result<ProofDetails, present::Error> {
        token.map_or(Ok(()), |token| check_token("the token", token))?;
        nonce.map_or(Ok(()), |nonce| check_nonce("the nonce", nonce))?;
        let (token, nonce) = (token.map(str::to_owned), nonce.map(str::to_owned));
        Ok(ProofDetails { jkt: token.as_deref().and_then(bound_key), token, nonce })
    }

    /// The key to which the token is bound, as far as it says so: nothing is verified.
    pub fn jkt(&self) -> Option<&str> {
        self.jkt.as_deref()
    }
}

/// `cnf.jkt` of a JWT.
fn bound_key(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        cnf: Confirmation,
    }
    #[derive(Deserialize)]
    struct Confirmation {
        jkt: String,
    }
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    Some(claims.cnf.jkt)
}

/// A proof or assertion, with what the audit log needs of it. `Debug` does not show its text.
pub struct IssuedProof {
    permit: ProofPermit,
    made: Made,
    expires: Timestamp,
}

/// What is handed out.
struct Made {
    headers: Vec<(&'static str, Zeroizing<String>)>,
    parameters: Vec<(&'static str, String)>,
    id: Option<String>,
    kid: String,
    /// Whether the proof key made it, and not the issuing key.
    is_by_proof_key: bool,
}

impl IssuedProof {
    /// The decision from which it was made.
    pub fn permit(&self) -> &ProofPermit {
        &self.permit
    }

    /// Headers of the HTTP request.
    pub fn headers(&self) -> &[(&'static str, Zeroizing<String>)] {
        &self.made.headers
    }

    /// Parameters of a token request.
    pub fn parameters(&self) -> &[(&'static str, String)] {
        &self.made.parameters
    }

    /// The first header or the assertion: it is signed over what the proof is for.
    pub fn signed_text(&self) -> &str {
        let header = self.made.headers.first().map(|(_, value)| value.as_str());
        header.or(self.made.parameters.last().map(|(_, value)| value.as_str())).unwrap_or_default()
    }

    /// Its identifier: its `jti` or nonce, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.made.id.as_deref()
    }

    /// The key that signed it: the thumbprint of the proof key, or the `kid` of the issuing key.
    pub fn kid(&self) -> &str {
        &self.made.kid
    }

    /// The thumbprint of the proof key; `None` if the issuing key signed.
    pub fn jkt(&self) -> Option<&str> {
        self.made.is_by_proof_key.then_some(self.made.kid.as_str())
    }

    /// The end of its use.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// How long it can be used, from its making on.
    pub fn lifetime(&self) -> Duration {
        PROOF_TTL
    }
}

impl fmt::Debug for IssuedProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedProof").field("id", &self.made.id).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct ClientAssertionClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
}

impl IssuerState {
    /// Makes the permitted proof. A proof for an action is made by `key`, the proof key of the agent's invocation, and
    /// a client assertion by the issuing key.
    ///
    /// # Errors
    /// A refusal, if there is no key for it, a detail does not fit its kind, or signing fails.
    pub fn prove(
        &self,
        permit: ProofPermit,
        details: &ProofDetails,
        key: Option<&ProofKey>,
        now: Timestamp,
    ) -> Result<IssuedProof, Refusal> {
        let made = match (permit.target(), key) {
            (ProofTarget::Action(action), Some(key)) => self.prove_action(&permit, action, details, key, now),
            (ProofTarget::AuthorizationServer(server), Some(key)) => {
                self.client_attestation(&permit, server, details, key, now)
            }
            (ProofTarget::AuthorizationServer(server), None) => self.client_assertion(&permit, server, now),
            (ProofTarget::Action(_), None) => Err(Error::Unbound),
        };
        match made {
            Ok(made) => Ok(IssuedProof { permit, made, expires: now.after(PROOF_TTL) }),
            Err(error) => Err(Refusal::new(error.refusal_code(), error.to_string())
                .with_peer(permit.agent().peer())
                .with_agent(permit.agent().name())
                .with_audience(permit.audience())),
        }
    }

    fn prove_action(
        &self,
        permit: &ProofPermit,
        action: &Action,
        details: &ProofDetails,
        key: &ProofKey,
        now: Timestamp,
    ) -> Result<Made, Error> {
        let (token, nonce) = (details.token.as_deref(), details.nonce.as_deref());
        let (proof, wit) = match permit.kind() {
            ProofKind::Dpop => (present::dpop_proof(key, action, token, nonce, now)?, None),
            ProofKind::Wpt => {
                let wit = wit_svid::mint_for_proof(self, permit, key, now)?;
                (present::wpt(key, action, &wit, token, now)?, Some(wit))
            }
            ProofKind::HttpSignature => {
                let wit = wit_svid::mint_for_proof(self, permit, key, now)?;
                let authorization = token.map(|token| format!("Bearer {token}"));
                let fields = SignedFields {
                    workload_identity_token: &wit,
                    authorization: authorization.as_deref(),
                    content_type: None,
                };
                (present::http_signature(key, action, &fields, now)?, Some(wit))
            }
            ProofKind::ClientAssertion | ProofKind::ClientAttestation => return Err(Error::Unbound),
        };
        let mut headers: Vec<_> =
            proof.headers().iter().map(|header| (header.name, header.value.clone())).collect();
        headers.extend(wit.map(|wit| ("Workload-Identity-Token", Zeroizing::new(wit))));
        let id = proof.id().map(str::to_owned);
        Ok(Made { headers, parameters: Vec::new(), id, kid: key.jkt().to_owned(), is_by_proof_key: true })
    }

    /// RFC 7523 section 3: the authorization server knows the agent by its name on this host, as `client_id` of its
    /// tokens.
    fn client_assertion(&self, permit: &ProofPermit, audience: &str, now: Timestamp) -> Result<Made, Error> {
        let agent = permit.agent();
        let issuer = self.issuer_of(agent.entry().tenant.as_deref())?;
        let signing_key = issuer.issuing_key()?;
        let header = SigningHeader::for_memory_key(signing_key.jwk(), CLIENT_ASSERTION_TYP)?;
        let client_id = permit.client_id();
        let jti = new_jti()?;
        let claims = ClientAssertionClaims {
            iss: client_id,
            sub: client_id,
            aud: audience,
            iat: now.as_secs(),
            exp: now.after(PROOF_TTL).as_secs(),
            jti: &jti,
        };
        let assertion = UnsignedJws::of_claims(&header, &claims)?.sign(signing_key)?;
        let parameters = vec![
            ("client_id", client_id.to_owned()),
            ("client_assertion_type", CLIENT_ASSERTION_TYPE.to_owned()),
            ("client_assertion", assertion),
        ];
        let kid = header.kid().to_owned();
        Ok(Made { headers: Vec::new(), parameters, id: Some(jti), kid, is_by_proof_key: false })
    }
}

/// Claims of a client attestation: the authorization server knows its issuer by the host's key set.
#[derive(Serialize)]
struct ClientAttestationClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    cnf: ConfirmationClaim<'a>,
}

impl IssuerState {
    /// An attestation of the proof key by the issuing key, and a proof of it for one authorization server.
    fn client_attestation(
        &self,
        permit: &ProofPermit,
        server: &str,
        details: &ProofDetails,
        key: &ProofKey,
        now: Timestamp,
    ) -> Result<Made, Error> {
        let issuer = self.issuer_of(permit.agent().entry().tenant.as_deref())?;
        let signing_key = issuer.issuing_key()?;
        let header = SigningHeader::for_memory_key(signing_key.jwk(), CLIENT_ATTESTATION_TYP)?;
        let claims = ClientAttestationClaims {
            iss: issuer.issuer(),
            sub: permit.client_id(),
            iat: now.as_secs(),
            exp: now.after(PROOF_TTL).as_secs(),
            cnf: ConfirmationClaim::of(key)?,
        };
        let attestation = UnsignedJws::of_claims(&header, &claims)?.sign(signing_key)?;
        let server = ServerIdentifier::parse(server)?;
        let pop = present::client_attestation_pop(key, &server, details.nonce.as_deref(), now)?;
        let mut headers: Vec<_> =
            pop.headers().iter().map(|header| (header.name, header.value.clone())).collect();
        headers.push(("OAuth-Client-Attestation", Zeroizing::new(attestation)));
        let id = pop.id().map(str::to_owned);
        Ok(Made { headers, parameters: Vec::new(), id, kid: key.jkt().to_owned(), is_by_proof_key: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_token_is_that_which_it_names() {
        let token = |claims: &str| format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let jkt = |token: &str| ProofDetails::new(Some(token), None).unwrap().jkt().map(str::to_owned);
        assert_eq!(jkt(&token(r#"{"cnf":{"jkt":"abc"},"sub":"x"}"#)).as_deref(), Some("abc"));
        for other in [token("{}"), token(r#"{"cnf":{"x5t#S256":"abc"}}"#), "opaque".into(), "a.b.c".into()] {
            assert_eq!(jkt(&other), None, "{other}");
        }
    }
}

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
use crate::policy::{ProofPermit, ProofSource, ProofTarget, Refusal};
use crate::present::{
    self, AccessKey, Action, PROOF_TTL, ProofKey, ProofKind, SIGV4_TTL, ServerIdentifier, SigV4Scope,
    SignedFields, check_content_type, check_nonce, check_token,
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
    content_type: Option<String>,
    jkt: Option<String>,
}

/// What makes a proof.
#[derive(Clone, Copy, Debug)]
pub enum ProofSigner<'a> {
    /// The host's issuing key.
    IssuingKey,
    /// The proof key of the agent's invocation.
    ProofKey(&'a ProofKey),
    /// A sealed credential, and its version.
    AccessKey(&'a AccessKey, u64),
}

impl ProofDetails {
    /// The token that the proof is for, the nonce that the server gave, and the request's `Content-Type`.
    ///
    /// # Errors
    /// [`present::Error::Value`] for a text that cannot be one.
    pub fn new(
        token: Option<&str>,
        nonce: Option<&str>,
        content_type: Option<&str>,
    ) -> Result<ProofDetails, present::Error> {
        token.map_or(Ok(()), |token| check_token("the token", token))?;
        nonce.map_or(Ok(()), |nonce| check_nonce("the nonce", nonce))?;
        content_type.map_or(Ok(()), check_content_type)?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(ProofDetails {
            jkt: token.and_then(bound_key),
            token: owned(token),
            nonce: owned(nonce),
            content_type: owned(content_type),
        })
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
    maker: Maker,
}

/// Whose key made it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// The issuing key.
    Issuer,
    /// The proof key of the agent's invocation.
    Invocation,
    /// The access key in this version of the credential.
    Credential(u64),
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

    /// The key that signed it: the thumbprint of the proof key, the `kid` of the issuing key, or the identifier of the
    /// access key.
    pub fn kid(&self) -> &str {
        &self.made.kid
    }

    /// The thumbprint of the proof key; `None` if another key signed.
    pub fn jkt(&self) -> Option<&str> {
        (self.made.maker == Maker::Invocation).then_some(self.made.kid.as_str())
    }

    /// The version of the credential that signed it.
    pub fn credential_version(&self) -> Option<u64> {
        match self.made.maker {
            Maker::Credential(version) => Some(version),
            Maker::Issuer | Maker::Invocation => None,
        }
    }

    /// The end of its use.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// How long it can be used, from its making on.
    pub fn lifetime(&self) -> Duration {
        self.made.maker.lifetime()
    }
}

impl fmt::Debug for IssuedProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedProof").field("id", &self.made.id).finish_non_exhaustive()
    }
}

impl Maker {
    fn lifetime(self) -> Duration {
        match self {
            Maker::Issuer | Maker::Invocation => PROOF_TTL,
            Maker::Credential(_) => SIGV4_TTL,
        }
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
    /// Makes the permitted proof by `signer`.
    ///
    /// # Errors
    /// A refusal, if there is no key for it, a detail does not fit its kind, or signing fails.
    pub fn prove(
        &self,
        permit: ProofPermit,
        details: &ProofDetails,
        signer: ProofSigner<'_>,
        now: Timestamp,
    ) -> Result<IssuedProof, Refusal> {
        let made = match (permit.target(), signer) {
            (ProofTarget::Action(action), ProofSigner::ProofKey(key)) => {
                self.prove_action(&permit, action, details, key, now)
            }
            (ProofTarget::Action(action), ProofSigner::AccessKey(key, version)) => {
                sign_request(&permit, action, details, (key, version), now)
            }
            (ProofTarget::AuthorizationServer(server), ProofSigner::ProofKey(key)) => {
                self.client_attestation(&permit, server, details, key, now)
            }
            (ProofTarget::AuthorizationServer(server), ProofSigner::IssuingKey) => {
                self.client_assertion(&permit, server, now)
            }
            (ProofTarget::Action(_), ProofSigner::IssuingKey)
            | (ProofTarget::AuthorizationServer(_), ProofSigner::AccessKey(..)) => Err(Error::Unbound),
        };
        match made {
            Ok(made) => {
                let expires = now.after(made.maker.lifetime());
                Ok(IssuedProof { permit, made, expires })
            }
            Err(error) => {
                let refusal = Refusal::new(error.refusal_code(), error.to_string())
                    .with_peer(permit.agent().peer())
                    .with_agent(permit.agent().name());
                Err(permit.source().name_in(refusal))
            }
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
                    content_type: details.content_type.as_deref(),
                };
                (present::http_signature(key, action, &fields, now)?, Some(wit))
            }
            ProofKind::ClientAssertion | ProofKind::ClientAttestation | ProofKind::Sigv4 => {
                return Err(Error::Unbound);
            }
        };
        let mut headers: Vec<_> =
            proof.headers().iter().map(|header| (header.name, header.value.clone())).collect();
        headers.extend(wit.map(|wit| ("Workload-Identity-Token", Zeroizing::new(wit))));
        let id = proof.id().map(str::to_owned);
        Ok(Made { headers, parameters: Vec::new(), id, kid: key.jkt().to_owned(), maker: Maker::Invocation })
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
        Ok(Made { headers: Vec::new(), parameters, id: Some(jti), kid, maker: Maker::Issuer })
    }
}

/// A signature by an access key, which names the region and the service of its permission.
fn sign_request(
    permit: &ProofPermit,
    action: &Action,
    details: &ProofDetails,
    (key, version): (&AccessKey, u64),
    now: Timestamp,
) -> Result<Made, Error> {
    let (ProofSource::Credential { region, service, .. }, ProofKind::Sigv4) =
        (permit.source(), permit.kind())
    else {
        return Err(Error::Unbound);
    };
    let scope = SigV4Scope { region, service };
    let proof = present::sigv4(action, &scope, &key.credentials(), details.content_type.as_deref(), now)?;
    let headers = proof.headers().iter().map(|header| (header.name, header.value.clone())).collect();
    let maker = Maker::Credential(version);
    Ok(Made { headers, parameters: Vec::new(), id: None, kid: key.id().to_owned(), maker })
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
        let pop =
            present::client_attestation_pop(key, permit.client_id(), &server, details.nonce.as_deref(), now)?;
        let mut headers: Vec<_> =
            pop.headers().iter().map(|header| (header.name, header.value.clone())).collect();
        headers.push(("OAuth-Client-Attestation", Zeroizing::new(attestation)));
        let id = pop.id().map(str::to_owned);
        Ok(Made { headers, parameters: Vec::new(), id, kid: key.jkt().to_owned(), maker: Maker::Invocation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_token_is_that_which_it_names() {
        let token = |claims: &str| format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let jkt = |token: &str| ProofDetails::new(Some(token), None, None).unwrap().jkt().map(str::to_owned);
        assert_eq!(jkt(&token(r#"{"cnf":{"jkt":"abc"},"sub":"x"}"#)).as_deref(), Some("abc"));
        for other in [token("{}"), token(r#"{"cnf":{"x5t#S256":"abc"}}"#), "opaque".into(), "a.b.c".into()] {
            assert_eq!(jkt(&other), None, "{other}");
        }
    }
}

//! Access tokens (RFC 9068).

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::{Error, HostIdentity, IssuerState, IssuingKey};
use crate::agents::AuthenticatedAgent;
use crate::clock::Timestamp;
use crate::peer::Sha256Digest;
use crate::policy::Permit;
use crate::posture::Posture;
use crate::verify::Jwk;

/// A minted token, with what the record needs of it. Its text is not shown by `Debug`.
pub struct AccessToken {
    text: String,
    permit: Permit,
    kid: String,
    jti: String,
    expires: Timestamp,
}

impl AccessToken {
    /// The compact JWS: a bearer secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub fn jti(&self) -> &str {
        &self.jti
    }

    pub fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("jti", &self.jti).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct JoseHeader<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'static str,
}

#[derive(Serialize)]
struct AccessTokenClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    client_id: &'a str,
    aud: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
    hostbadge: HostbadgeClaim<'a>,
}

/// The one private claim: where, by whom and under what circumstances the token was asked for.
#[derive(Serialize)]
pub(super) struct HostbadgeClaim<'a> {
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_sha256: Option<Sha256Digest>,
    peer: &'static str,
    tpm: &'static str,
    key: &'static str,
    posture: Posture,
}

impl<'a> HostbadgeClaim<'a> {
    /// `guard` is how the key is kept that signs.
    pub fn new(
        host: &'a HostIdentity,
        agent: &'a AuthenticatedAgent,
        posture: Posture,
        key_protection: &'static str,
    ) -> HostbadgeClaim<'a> {
        let peer = agent.peer();
        HostbadgeClaim {
            host: &host.id,
            tenant: agent.entry().tenant.as_deref(),
            unit: peer.unit.as_deref(),
            invocation: peer.invocation.as_deref(),
            exe_sha256: agent.exe_sha256(),
            peer: if peer.pinned { "pinned" } else { "unpinned" },
            tpm: host.tpm_kind(),
            key: key_protection,
            posture,
        }
    }
}

/// The first part of every token of one key, dot included, with the key's name.
#[derive(Clone, Debug)]
pub(super) struct SigningHeader {
    pub(super) encoded: String,
    pub(super) kid: String,
    /// `hostbadge.key` of its tokens.
    pub(super) key_protection: &'static str,
}

impl SigningHeader {
    /// Of a key that signs in memory.
    pub fn for_memory_key(key: &Jwk) -> Result<SigningHeader, Error> {
        SigningHeader::new(key, "sealed", "at+jwt")
    }

    /// Of a key that signs in the TPM.
    pub fn for_tpm_key(key: &Jwk) -> Result<SigningHeader, Error> {
        SigningHeader::new(key, "tpm", "at+jwt")
    }

    /// Of the key that signs JWT-SVIDs, in memory.
    pub fn for_jwt_svid(key: &Jwk) -> Result<SigningHeader, Error> {
        SigningHeader::new(key, "sealed", "JWT")
    }

    /// Of the key that signs WIT-SVIDs, in memory.
    pub fn for_wit_svid(key: &Jwk) -> Result<SigningHeader, Error> {
        SigningHeader::with_kid(wit_kid(&key.kid), key, "sealed", "wit+jwt")
    }

    fn new(key: &Jwk, key_protection: &'static str, typ: &'static str) -> Result<SigningHeader, Error> {
        SigningHeader::with_kid(key.kid.clone(), key, key_protection, typ)
    }

    fn with_kid(
        kid: String,
        key: &Jwk,
        key_protection: &'static str,
        typ: &'static str,
    ) -> Result<SigningHeader, Error> {
        let header = serde_json::to_vec(&JoseHeader { alg: &key.alg, kid: &kid, typ })
            .map_err(|e| Error::Key(e.to_string()))?;
        Ok(SigningHeader { encoded: BASE64URL_NOPAD.encode(&header) + ".", kid, key_protection })
    }
}

/// The name of an issuing key where it signs WIT-SVIDs: a name is to be a bundle's only one of any use.
pub(super) fn wit_kid(kid: &str) -> String {
    format!("wit-{kid}")
}

/// A token that only its signature is missing from.
pub(super) struct UnsignedToken {
    /// RFC 7515 section 5.1: the signing input.
    signing_input: String,
    permit: Permit,
    kid: String,
    jti: String,
    expires: Timestamp,
}

impl UnsignedToken {
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// SHA-256 of the signing input, as ES256 and RS256 both take it.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(
            ring::digest::digest(&ring::digest::SHA256, self.signing_input.as_bytes()).as_ref(),
        );
        digest
    }

    /// With the signature as JWA wants it (RFC 7518 sections 3.3 and 3.4).
    pub fn with_signature(mut self, signature: &[u8]) -> AccessToken {
        self.signing_input.push('.');
        BASE64URL_NOPAD.encode_append(signature, &mut self.signing_input);
        let UnsignedToken { signing_input: text, permit, kid, jti, expires } = self;
        AccessToken { text, permit, kid, jti, expires }
    }

    /// Signed in memory.
    pub fn sign(self, key: &IssuingKey) -> Result<AccessToken, Error> {
        let signature = key.sign(self.signing_input.as_bytes())?;
        Ok(self.with_signature(signature.as_ref()))
    }
}

/// Writes what was permitted, for the key that the grant has it signed by.
pub(super) fn build(
    issuer_state: &IssuerState,
    permit: Permit,
    now: Timestamp,
) -> Result<UnsignedToken, Error> {
    let header = issuer_state.signing_header(permit.signer())?;
    let agent = permit.agent();
    let host = issuer_state.host();
    let mut jti_bytes = [0; 16];
    SystemRandom::new().fill(&mut jti_bytes).map_err(|_| Error::Random)?;
    let jti = BASE64URL_NOPAD.encode(&jti_bytes);
    let expires = Timestamp::from_secs(now.as_secs() + permit.ttl().as_secs());

    let claims = AccessTokenClaims {
        iss: &host.issuer,
        sub: &host.spiffe_id(agent.entry()),
        client_id: agent.name().as_str(),
        aud: permit.audience(),
        iat: now.as_secs(),
        nbf: now.as_secs(),
        exp: expires.as_secs(),
        jti: &jti,
        scope: permit.scope(),
        hostbadge: HostbadgeClaim::new(host, agent, permit.posture(), header.key_protection),
    };
    let claims = serde_json::to_vec(&claims).map_err(|e| Error::Key(e.to_string()))?;
    // With room for the longest signature, RSA's.
    let mut signing_input = String::with_capacity(header.encoded.len() + claims.len() * 4 / 3 + 352);
    signing_input.push_str(&header.encoded);
    BASE64URL_NOPAD.encode_append(&claims, &mut signing_input);
    Ok(UnsignedToken { signing_input, kid: header.kid.clone(), jti, expires, permit })
}

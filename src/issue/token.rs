//! Access tokens (RFC 9068).

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::{Error, Host, IssuingKey, Standing};
use crate::agents::Agent;
use crate::clock::Timestamp;
use crate::peer::Digest;
use crate::policy::Permit;
use crate::posture::Posture;
use crate::verify::Jwk;

/// A minted token, with what the record needs of it. Its text is not shown by `Debug`.
pub struct Token {
    text: String,
    permit: Permit,
    kid: String,
    jti: String,
    expires: Timestamp,
}

impl Token {
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

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("jti", &self.jti).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'static str,
}

#[derive(Serialize)]
struct Claims<'a> {
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
    hostbadge: Private<'a>,
}

/// The one private claim: where, by whom and under what circumstances the token was asked for.
#[derive(Serialize)]
pub(super) struct Private<'a> {
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_sha256: Option<Digest>,
    peer: &'static str,
    tpm: &'static str,
    key: &'static str,
    posture: Posture,
}

impl<'a> Private<'a> {
    /// `guard` is how the key is kept that signs.
    pub fn of(host: &'a Host, agent: &'a Agent, posture: Posture, guard: &'static str) -> Private<'a> {
        let peer = agent.peer();
        Private {
            host: &host.id,
            tenant: agent.entry().tenant.as_deref(),
            unit: peer.unit.as_deref(),
            invocation: peer.invocation.as_deref(),
            exe_sha256: agent.exe_sha256(),
            peer: if peer.pinned { "pinned" } else { "unpinned" },
            tpm: host.tpm(),
            key: guard,
            posture,
        }
    }
}

/// The first part of every token of one key, dot included, with the key's name.
#[derive(Clone, Debug)]
pub(super) struct Seal {
    pub(super) header: String,
    pub(super) kid: String,
    /// `hostbadge.key` of its tokens.
    pub(super) guard: &'static str,
}

impl Seal {
    /// Of a key that signs in memory.
    pub fn in_memory(key: &Jwk) -> Result<Seal, Error> {
        Seal::of(key, "sealed", "at+jwt")
    }

    /// Of a key that signs in the TPM.
    pub fn in_tpm(key: &Jwk) -> Result<Seal, Error> {
        Seal::of(key, "tpm", "at+jwt")
    }

    /// Of the key that signs JWT-SVIDs, in memory.
    pub fn of_svids(key: &Jwk) -> Result<Seal, Error> {
        Seal::of(key, "sealed", "JWT")
    }

    /// Of the key that signs WIT-SVIDs, in memory.
    pub fn of_wits(key: &Jwk) -> Result<Seal, Error> {
        Seal::named(wit_kid(&key.kid), key, "sealed", "wit+jwt")
    }

    fn of(key: &Jwk, guard: &'static str, typ: &'static str) -> Result<Seal, Error> {
        Seal::named(key.kid.clone(), key, guard, typ)
    }

    fn named(kid: String, key: &Jwk, guard: &'static str, typ: &'static str) -> Result<Seal, Error> {
        let header = serde_json::to_vec(&Header { alg: &key.alg, kid: &kid, typ })
            .map_err(|e| Error::Key(e.to_string()))?;
        Ok(Seal { header: BASE64URL_NOPAD.encode(&header) + ".", kid, guard })
    }
}

/// The name of an issuing key where it signs WIT-SVIDs: a name is to be a bundle's only one of any use.
pub(super) fn wit_kid(kid: &str) -> String {
    format!("wit-{kid}")
}

/// A token that only its signature is missing from.
pub(super) struct Unsigned {
    /// RFC 7515 section 5.1: the signing input.
    input: String,
    permit: Permit,
    kid: String,
    jti: String,
    expires: Timestamp,
}

impl Unsigned {
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// SHA-256 of the signing input, as ES256 and RS256 both take it.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, self.input.as_bytes()).as_ref());
        digest
    }

    /// With the signature as JWA wants it (RFC 7518 sections 3.3 and 3.4).
    pub fn signed(mut self, signature: &[u8]) -> Token {
        self.input.push('.');
        BASE64URL_NOPAD.encode_append(signature, &mut self.input);
        let Unsigned { input: text, permit, kid, jti, expires } = self;
        Token { text, permit, kid, jti, expires }
    }

    /// Signed in memory.
    pub fn sign(self, key: &IssuingKey) -> Result<Token, Error> {
        let signature = key.sign(self.input.as_bytes())?;
        Ok(self.signed(signature.as_ref()))
    }
}

/// Writes what was permitted, for the key that the grant has it signed by.
pub(super) fn write(standing: &Standing, permit: Permit, now: Timestamp) -> Result<Unsigned, Error> {
    let seal = standing.seal(permit.signer())?;
    let agent = permit.agent();
    let host = standing.host();
    let mut id = [0; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| Error::Random)?;
    let jti = BASE64URL_NOPAD.encode(&id);
    let expires = Timestamp::from_secs(now.secs() + permit.ttl().as_secs());

    let claims = Claims {
        iss: &host.issuer,
        sub: &host.spiffe_id(agent.entry()),
        client_id: agent.name().as_str(),
        aud: permit.audience(),
        iat: now.secs(),
        nbf: now.secs(),
        exp: expires.secs(),
        jti: &jti,
        scope: permit.scope(),
        hostbadge: Private::of(host, agent, permit.posture(), seal.guard),
    };
    let claims = serde_json::to_vec(&claims).map_err(|e| Error::Key(e.to_string()))?;
    // With room for the longest signature, RSA's.
    let mut input = String::with_capacity(seal.header.len() + claims.len() * 4 / 3 + 352);
    input.push_str(&seal.header);
    BASE64URL_NOPAD.encode_append(&claims, &mut input);
    Ok(Unsigned { input, kid: seal.kid.clone(), jti, expires, permit })
}

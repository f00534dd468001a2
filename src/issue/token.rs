//! Access tokens (RFC 9068).

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::{Error, Standing};
use crate::clock::Timestamp;
use crate::peer::Digest;
use crate::policy::Permit;
use crate::posture::Posture;

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
    alg: &'static str,
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
struct Private<'a> {
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

/// The first part of every token of one key, dot included.
pub(super) fn encoded_header(kid: &str) -> Result<String, Error> {
    let header = serde_json::to_vec(&Header { alg: "ES256", kid, typ: "at+jwt" })
        .map_err(|e| Error::Key(e.to_string()))?;
    Ok(BASE64URL_NOPAD.encode(&header) + ".")
}

/// Mints what was permitted.
pub(super) fn mint(standing: &Standing, permit: Permit, now: Timestamp) -> Result<Token, Error> {
    let agent = permit.agent();
    let peer = agent.peer();
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
        hostbadge: Private {
            host: &host.id,
            tenant: agent.entry().tenant.as_deref(),
            unit: peer.unit.as_deref(),
            invocation: peer.invocation.as_deref(),
            exe_sha256: agent.exe_sha256(),
            peer: if peer.pinned { "pinned" } else { "unpinned" },
            tpm: host.tpm(),
            key: "sealed",
            posture: permit.posture(),
        },
    };
    let claims = serde_json::to_vec(&claims).map_err(|e| Error::Key(e.to_string()))?;
    let mut input = String::with_capacity(standing.header().len() + claims.len() * 4 / 3 + 96);
    input.push_str(standing.header());
    BASE64URL_NOPAD.encode_append(&claims, &mut input);
    let text = standing.key().sign(input)?;
    Ok(Token { text, kid: standing.key().kid().to_owned(), jti, expires, permit })
}

//! JWT-SVIDs: tokens as SPIFFE's Workload API gives them.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::token::Private;
use super::{Error, Standing};
use crate::clock::Timestamp;
use crate::policy::SvidPermit;

/// A minted JWT-SVID, with what the record needs of it. Its text is not shown by `Debug`.
pub struct JwtSvid {
    text: String,
    spiffe_id: String,
    permit: SvidPermit,
    kid: String,
    jti: String,
    expires: Timestamp,
}

impl JwtSvid {
    /// The compact JWS: a bearer secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }

    pub fn permit(&self) -> &SvidPermit {
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

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("jti", &self.jti).finish_non_exhaustive()
    }
}

/// `sub`, `aud` and `exp` are what JWT-SVID (section 3) wants; the others are what our other tokens have too.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    client_id: &'a str,
    aud: &'a [String],
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    hostbadge: Private<'a>,
}

/// Mints what was permitted.
pub(super) fn mint(standing: &Standing, permit: SvidPermit, now: Timestamp) -> Result<JwtSvid, Error> {
    let agent = permit.agent();
    let (host, seal) = (standing.host(), standing.svid_seal());
    let mut id = [0; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| Error::Random)?;
    let jti = BASE64URL_NOPAD.encode(&id);
    let expires = Timestamp::from_secs(now.secs() + permit.ttl().as_secs());
    let spiffe_id = host.spiffe_id(agent.entry());
    let claims = Claims {
        iss: &host.issuer,
        sub: &spiffe_id,
        client_id: agent.name().as_str(),
        aud: permit.audiences(),
        iat: now.secs(),
        nbf: now.secs(),
        exp: expires.secs(),
        jti: &jti,
        hostbadge: Private::of(host, agent, permit.posture(), seal.guard),
    };
    let claims = serde_json::to_vec(&claims).map_err(|e| Error::Key(e.to_string()))?;
    let mut text = String::with_capacity(seal.header.len() + claims.len() * 4 / 3 + 96);
    text.push_str(&seal.header);
    BASE64URL_NOPAD.encode_append(&claims, &mut text);
    let signature = standing.key().sign(text.as_bytes())?;
    text.push('.');
    BASE64URL_NOPAD.encode_append(signature.as_ref(), &mut text);
    Ok(JwtSvid { text, spiffe_id, kid: seal.kid.clone(), jti, expires, permit })
}

//! JWT-SVIDs: tokens as SPIFFE's Workload API gives them.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::access_token::HostbadgeClaim;
use super::{Error, IssuerState};
use crate::clock::Timestamp;
use crate::policy::JwtSvidPermit;

/// A minted JWT-SVID, with what the record needs of it. Its text is not shown by `Debug`.
pub struct JwtSvid {
    text: String,
    spiffe_id: String,
    permit: JwtSvidPermit,
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

    pub fn permit(&self) -> &JwtSvidPermit {
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
struct JwtSvidClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    client_id: &'a str,
    aud: &'a [String],
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    hostbadge: HostbadgeClaim<'a>,
}

/// Mints what was permitted.
pub(super) fn mint(
    issuer_state: &IssuerState,
    permit: JwtSvidPermit,
    now: Timestamp,
) -> Result<JwtSvid, Error> {
    let agent = permit.agent();
    let (host, header) = (issuer_state.host(), issuer_state.jwt_svid_header());
    let mut jti_bytes = [0; 16];
    SystemRandom::new().fill(&mut jti_bytes).map_err(|_| Error::Random)?;
    let jti = BASE64URL_NOPAD.encode(&jti_bytes);
    let expires = Timestamp::from_secs(now.as_secs() + permit.ttl().as_secs());
    let spiffe_id = host.spiffe_id(agent.entry());
    let claims = JwtSvidClaims {
        iss: &host.issuer,
        sub: &spiffe_id,
        client_id: agent.name().as_str(),
        aud: permit.audiences(),
        iat: now.as_secs(),
        nbf: now.as_secs(),
        exp: expires.as_secs(),
        jti: &jti,
        hostbadge: HostbadgeClaim::new(host, agent, permit.posture(), header.key_protection),
    };
    let claims = serde_json::to_vec(&claims).map_err(|e| Error::Key(e.to_string()))?;
    let mut text = String::with_capacity(header.encoded.len() + claims.len() * 4 / 3 + 96);
    text.push_str(&header.encoded);
    BASE64URL_NOPAD.encode_append(&claims, &mut text);
    let signature = issuer_state.issuing_key().sign(text.as_bytes())?;
    text.push('.');
    BASE64URL_NOPAD.encode_append(signature.as_ref(), &mut text);
    Ok(JwtSvid { text, spiffe_id, kid: header.kid.clone(), jti, expires, permit })
}

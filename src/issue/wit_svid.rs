//! WIT-SVIDs: tokens that say who an agent is and are bound to a key, which has to be shown with them.
//!
//! No audience is in them, for they are no bearer tokens: whoever has one without its key has nothing.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use zeroize::Zeroizing;

use super::access_token::HostbadgeClaim;
use super::{Error, IssuerState, IssuingKey};
use crate::clock::Timestamp;
use crate::policy::IdentityPermit;

/// A minted WIT-SVID with its key, and what the record needs of it. Neither is shown by `Debug`.
pub struct WitSvid {
    text: String,
    key: Zeroizing<String>,
    spiffe_id: String,
    permit: IdentityPermit,
    kid: String,
    jti: String,
    expires: Timestamp,
}

impl WitSvid {
    /// The compact JWS.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The private key to which it is bound, as a JWK (RFC 7517).
    pub fn key(&self) -> &Zeroizing<String> {
        &self.key
    }

    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }

    pub fn permit(&self) -> &IdentityPermit {
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

impl fmt::Debug for WitSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitSvid").field("jti", &self.jti).finish_non_exhaustive()
    }
}

/// `sub`, `exp` and `cnf` are what WIT-SVID wants; `aud` it forbids.
#[derive(Serialize)]
struct WitSvidClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    cnf: ConfirmationClaim<'a>,
    hostbadge: HostbadgeClaim<'a>,
}

/// RFC 7800, section 3.2.
#[derive(Serialize)]
struct ConfirmationClaim<'a> {
    jwk: EcJwk<'a>,
}

/// A P-256 key (RFC 7518, section 6.2), with its private half where there is a `d`.
#[derive(Serialize)]
struct EcJwk<'a> {
    kty: &'static str,
    crv: &'static str,
    x: &'a str,
    y: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a str>,
    alg: &'static str,
}

/// Mints what was permitted, with a fresh key.
pub(super) fn mint(
    issuer_state: &IssuerState,
    permit: IdentityPermit,
    ttl: Duration,
    now: Timestamp,
) -> Result<WitSvid, Error> {
    let json_error = |e: serde_json::Error| Error::Key(e.to_string());
    let agent = permit.agent();
    let (host, header) = (issuer_state.host(), issuer_state.wit_svid_header());
    let pkcs8 = IssuingKey::generate()?;
    let (d, x, y) = split_pkcs8(&pkcs8).ok_or_else(|| Error::Key("a new key is no P-256 key".into()))?;
    let public_jwk = EcJwk { kty: "EC", crv: "P-256", x: &x, y: &y, d: None, alg: "ES256" };
    let mut jti_bytes = [0; 16];
    SystemRandom::new().fill(&mut jti_bytes).map_err(|_| Error::Random)?;
    let jti = BASE64URL_NOPAD.encode(&jti_bytes);
    let expires = Timestamp::from_secs(now.as_secs() + ttl.as_secs());
    let spiffe_id = host.spiffe_id(agent.entry());
    let claims = WitSvidClaims {
        iss: &host.issuer,
        sub: &spiffe_id,
        iat: now.as_secs(),
        exp: expires.as_secs(),
        jti: &jti,
        cnf: ConfirmationClaim { jwk: public_jwk },
        hostbadge: HostbadgeClaim::new(host, agent, permit.posture(), header.key_protection),
    };
    let claims = serde_json::to_vec(&claims).map_err(json_error)?;
    let mut text = String::with_capacity(header.encoded.len() + claims.len() * 4 / 3 + 96);
    text.push_str(&header.encoded);
    BASE64URL_NOPAD.encode_append(&claims, &mut text);
    let signature = issuer_state.issuing_key().sign(text.as_bytes())?;
    text.push('.');
    BASE64URL_NOPAD.encode_append(signature.as_ref(), &mut text);
    let private_jwk = EcJwk { kty: "EC", crv: "P-256", x: &x, y: &y, d: Some(&d), alg: "ES256" };
    let key = Zeroizing::new(serde_json::to_string(&private_jwk).map_err(json_error)?);
    Ok(WitSvid { text, key, spiffe_id, kid: header.kid.clone(), jti, expires, permit })
}

/// `d`, `x` and `y` of a P-256 key in PKCS#8 with its public key (RFC 5958, RFC 5915): the private number is the first
/// string of 32 bytes in it, and the point is its end.
fn split_pkcs8(pkcs8: &[u8]) -> Option<(Zeroizing<String>, String, String)> {
    const PRIVATE_KEY_OFFSET: usize = 36;
    let point = pkcs8.last_chunk::<65>().filter(|point| point[0] == 4)?;
    let private_key = pkcs8
        .get(PRIVATE_KEY_OFFSET..PRIVATE_KEY_OFFSET + 32)
        .filter(|_| pkcs8[..PRIVATE_KEY_OFFSET].ends_with(&[0x04, 32]))?;
    let base64url = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    Some((Zeroizing::new(base64url(private_key)), base64url(&point[1..33]), base64url(&point[33..])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

    #[test]
    fn split_pkcs8_returns_a_matching_key_pair() {
        let pkcs8 = IssuingKey::generate().unwrap();
        let (d, x, y) = split_pkcs8(&pkcs8).unwrap();
        let bytes = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        let point = [vec![4], bytes(&x), bytes(&y)].concat();
        // ring takes no pair whose halves do not fit.
        EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &bytes(&d),
            &point,
            &SystemRandom::new(),
        )
        .unwrap();
        assert!(split_pkcs8(&pkcs8[1..]).is_none());
    }
}

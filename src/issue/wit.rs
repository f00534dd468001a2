//! WIT-SVIDs: tokens that say who an agent is and are bound to a key, which has to be shown with them.
//!
//! No audience is in them, for they are no bearer tokens: whoever has one without its key has nothing.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use zeroize::Zeroizing;

use super::token::Private;
use super::{Error, IssuingKey, Standing};
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
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    cnf: Confirmation<'a>,
    hostbadge: Private<'a>,
}

/// RFC 7800, section 3.2.
#[derive(Serialize)]
struct Confirmation<'a> {
    jwk: Key<'a>,
}

/// A P-256 key (RFC 7518, section 6.2), with its private half where there is a `d`.
#[derive(Serialize)]
struct Key<'a> {
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
    standing: &Standing,
    permit: IdentityPermit,
    ttl: Duration,
    now: Timestamp,
) -> Result<WitSvid, Error> {
    let broken = |e: serde_json::Error| Error::Key(e.to_string());
    let agent = permit.agent();
    let (host, seal) = (standing.host(), standing.wit_seal());
    let pkcs8 = IssuingKey::generate()?;
    let (d, x, y) = halves(&pkcs8).ok_or_else(|| Error::Key("a new key is no P-256 key".into()))?;
    let public = Key { kty: "EC", crv: "P-256", x: &x, y: &y, d: None, alg: "ES256" };
    let mut id = [0; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| Error::Random)?;
    let jti = BASE64URL_NOPAD.encode(&id);
    let expires = Timestamp::from_secs(now.secs() + ttl.as_secs());
    let spiffe_id = host.spiffe_id(agent.entry());
    let claims = Claims {
        iss: &host.issuer,
        sub: &spiffe_id,
        iat: now.secs(),
        exp: expires.secs(),
        jti: &jti,
        cnf: Confirmation { jwk: public },
        hostbadge: Private::of(host, agent, permit.posture(), seal.guard),
    };
    let claims = serde_json::to_vec(&claims).map_err(broken)?;
    let mut text = String::with_capacity(seal.header.len() + claims.len() * 4 / 3 + 96);
    text.push_str(&seal.header);
    BASE64URL_NOPAD.encode_append(&claims, &mut text);
    let signature = standing.key().sign(text.as_bytes())?;
    text.push('.');
    BASE64URL_NOPAD.encode_append(signature.as_ref(), &mut text);
    let key = Key { kty: "EC", crv: "P-256", x: &x, y: &y, d: Some(&d), alg: "ES256" };
    let key = Zeroizing::new(serde_json::to_string(&key).map_err(broken)?);
    Ok(WitSvid { text, key, spiffe_id, kid: seal.kid.clone(), jti, expires, permit })
}

/// `d`, `x` and `y` of a P-256 key in PKCS#8 with its public key (RFC 5958, RFC 5915): the private number is the first
/// string of 32 bytes in it, and the point is its end.
fn halves(pkcs8: &[u8]) -> Option<(Zeroizing<String>, String, String)> {
    const BEFORE: usize = 36;
    let point = pkcs8.last_chunk::<65>().filter(|point| point[0] == 4)?;
    let number = pkcs8.get(BEFORE..BEFORE + 32).filter(|_| pkcs8[..BEFORE].ends_with(&[0x04, 32]))?;
    let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    Some((Zeroizing::new(text(number)), text(&point[1..33]), text(&point[33..])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

    #[test]
    fn the_halves_of_a_key_are_one_key() {
        let pkcs8 = IssuingKey::generate().unwrap();
        let (d, x, y) = halves(&pkcs8).unwrap();
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
        assert!(halves(&pkcs8[1..]).is_none());
    }
}

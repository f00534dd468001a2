//! WIT-SVIDs (SPIFFE WIT-SVID specification): tokens that name an agent and are bound to a key.
//!
//! The holder proves possession of the key when it presents the token, so the token has no audience and is of
//! no use without the key.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::error::Error;
use super::hostbadge_claim::HostbadgeClaim;
use super::issuer::IssuerState;
use super::jws::{UnsignedJws, new_jti};
use super::key::IssuingKey;
use super::token_period::TokenPeriod;
use crate::agents::AuthenticatedAgent;
use crate::clock::Timestamp;
use crate::policy::{IdentityPermit, PolicySetId, ProofPermit, Refusal};
use crate::posture::Posture;
use crate::present::{PROOF_TTL, ProofKey};
use crate::verify::KeyParams;

/// A signed WIT-SVID with its private key, and what the audit log needs of it. `Debug` shows neither.
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

    /// The private key to which the token is bound, as a JWK (RFC 7517) in JSON.
    pub fn key(&self) -> &Zeroizing<String> {
        &self.key
    }

    /// `sub`.
    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }

    /// The decision from which the token was issued.
    pub fn permit(&self) -> &IdentityPermit {
        &self.permit
    }

    /// The key that signed it, by its name in the WIT bundle.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its identifier (RFC 7519 section 4.1.7).
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// `exp`, in whole seconds.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl fmt::Debug for WitSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitSvid").field("jti", &self.jti).finish_non_exhaustive()
    }
}

impl IssuerState {
    /// Issues a WIT-SVID for a new key; the issuing key signs it, in memory. It is valid for `ttl`, and never
    /// longer than an access token: the key that signed it is published for no longer than that once it is
    /// retired.
    ///
    /// # Errors
    /// A refusal, if the key cannot be made, signing fails, or the tenant's keys are not made yet.
    pub fn mint_wit_svid(
        &self,
        permit: IdentityPermit,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<WitSvid, Refusal> {
        let agent = permit.agent().clone();
        let ttl = agent.cap(ttl, now);
        mint(self, permit, ttl, now).map_err(|error| {
            Refusal::new(error.refusal_code(), error.to_string())
                .with_peer(agent.peer())
                .with_agent(agent.name())
        })
    }
}

/// WIT-SVID requires `sub`, `exp` and `cnf`, and forbids `aud`.
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

/// RFC 7800 section 3.2.
#[derive(Serialize)]
pub(super) struct ConfirmationClaim<'a> {
    jwk: EcJwk<'a>,
}

impl<'a> ConfirmationClaim<'a> {
    /// That of a proof key.
    pub(super) fn of(key: &'a ProofKey) -> Result<ConfirmationClaim<'a>, Error> {
        let KeyParams::Ec { x, y, .. } = &key.jwk().params else { return Err(Error::NotP256) };
        Ok(ConfirmationClaim { jwk: EcJwk { kty: "EC", crv: "P-256", x, y, d: None, alg: "ES256" } })
    }
}

/// A P-256 key (RFC 7518 section 6.2); a private key if it has a `d`.
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

/// A WIT for a proof key, which goes with one proof: its text. The relying party has it and the proof at once, so it
/// is valid as long as a proof.
///
/// # Errors
/// As [`IssuerState::mint_wit_svid`].
pub(super) fn mint_for_proof(
    issuer_state: &IssuerState,
    permit: &ProofPermit,
    key: &ProofKey,
    now: Timestamp,
) -> Result<String, Error> {
    let (agent, posture) = (permit.agent(), permit.posture());
    let decided = Decided { agent, posture, policy: permit.policy(), epoch: permit.epoch() };
    Ok(sign(issuer_state, &decided, ConfirmationClaim::of(key)?, PROOF_TTL, now)?.text)
}

fn mint(
    issuer_state: &IssuerState,
    permit: IdentityPermit,
    ttl: Duration,
    now: Timestamp,
) -> Result<WitSvid, Error> {
    let pkcs8 = IssuingKey::generate()?;
    let (d, x, y) = split_pkcs8(&pkcs8).ok_or(Error::NotP256)?;
    let public_jwk = EcJwk { kty: "EC", crv: "P-256", x: &x, y: &y, d: None, alg: "ES256" };
    let (agent, posture) = (permit.agent(), permit.posture());
    let decided = Decided { agent, posture, policy: permit.policy(), epoch: permit.epoch() };
    let signed = sign(issuer_state, &decided, ConfirmationClaim { jwk: public_jwk }, ttl, now)?;
    let private_jwk = EcJwk { kty: "EC", crv: "P-256", x: &x, y: &y, d: Some(&d), alg: "ES256" };
    let key = Zeroizing::new(serde_json::to_string(&private_jwk)?);
    let SignedWit { text, spiffe_id, kid, jti, expires } = signed;
    Ok(WitSvid { text, key, spiffe_id, kid, jti, expires, permit })
}

/// What a decision on an identity document or a proof says about the agent.
struct Decided<'a> {
    agent: &'a AuthenticatedAgent,
    posture: Posture,
    policy: Option<PolicySetId>,
    epoch: u64,
}

struct SignedWit {
    text: String,
    spiffe_id: String,
    kid: String,
    jti: String,
    expires: Timestamp,
}

fn sign(
    issuer_state: &IssuerState,
    decided: &Decided<'_>,
    cnf: ConfirmationClaim<'_>,
    ttl: Duration,
    now: Timestamp,
) -> Result<SignedWit, Error> {
    let Decided { agent, posture, policy, epoch } = *decided;
    let issuer = issuer_state.issuer_of(agent.entry().tenant.as_deref())?;
    let (host, header) = (issuer_state.host(), issuer.wit_svid_header());
    let jti = new_jti()?;
    let TokenPeriod { not_before, expires, .. } = TokenPeriod::new(now, ttl);
    let spiffe_id = host.spiffe_id(agent.entry());
    let (clock_sync, protection) = (issuer_state.clock_sync(), header.key_protection());
    let claims = WitSvidClaims {
        iss: issuer.issuer(),
        sub: &spiffe_id,
        iat: not_before,
        exp: expires.as_secs(),
        jti: &jti,
        cnf,
        hostbadge: HostbadgeClaim::new(host, agent, posture, clock_sync, protection, policy, epoch),
    };
    let text = UnsignedJws::of_claims(header, &claims)?.sign(issuer.issuing_key()?)?;
    Ok(SignedWit { text, spiffe_id, kid: header.kid().to_owned(), jti, expires })
}

/// `d`, `x` and `y` in base64url of a P-256 key in PKCS#8 with its public key (RFC 5958, RFC 5915). ring
/// writes the private number as the first string of 32 bytes, at offset 36, and the public point at the end.
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
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

    #[test]
    fn split_pkcs8_returns_a_matching_key_pair() {
        let pkcs8 = IssuingKey::generate().unwrap();
        let (d, x, y) = split_pkcs8(&pkcs8).unwrap();
        let bytes = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        let point = [vec![4], bytes(&x), bytes(&y)].concat();
        // ring rejects a pair whose halves do not match.
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

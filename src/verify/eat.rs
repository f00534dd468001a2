//! Evidence as an Entity Attestation Token (RFC 9711): a JWT that the host key signed.
//!
//! The token says nothing that the evidence in it does not prove: its claims put the evidence into a shape that verifiers of
//! other makes take in, and its signature is by the host key, which the same evidence certifies.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::evidence::{self, CheckResult, Evidence};
use super::{Error, Jws};

/// RFC 9782 section 4.1.
pub const EAT_TYP: &str = "eat+jwt";
/// RFC 9711 section 4.3.2: what a token of this kind has, and how it is checked.
pub const EAT_PROFILE: &str = "urn:hostbadge:eat:1";
/// With logs in base64 twice.
pub const MAX_EAT_SIZE: usize = evidence::MAX_EVIDENCE_SIZE / 3 * 4 + 4096;
/// RFC 9711 section 4.2.1.1: what follows is 256 bits of a digest of what identifies the entity.
const UEID_TYPE_RAND: u8 = 0x01;

/// What is signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EatClaims {
    /// The verifier's nonce, base64url (section 4.1).
    pub eat_nonce: String,
    /// Base64url (section 4.2.1). See [`ueid`].
    pub ueid: String,
    pub eat_profile: String,
    pub iat: u64,
    /// The name and version of what made this (sections 4.2.6 and 4.2.7).
    pub swname: String,
    pub swversion: Vec<String>,
    /// All that proves something.
    pub hostbadge_evidence: Evidence,
}

/// A host's UEID: type RAND, and SHA-256 over the EK's Name. The host's id is its bytes 1 to 16.
pub fn ueid(ek_digest: &[u8; 32]) -> String {
    BASE64URL_NOPAD.encode(&[&[UEID_TYPE_RAND], &ek_digest[..]].concat())
}

/// A token that is well formed. Nothing in it is certain before its findings hold.
#[derive(Debug)]
pub struct Eat<'a> {
    jws: Jws<'a>,
    claims: EatClaims,
}

impl<'a> Eat<'a> {
    pub fn parse(text: &'a str) -> Result<Eat<'a>, Error> {
        let jws = Jws::parse_with_limit(text, MAX_EAT_SIZE)?;
        if jws.typ() != EAT_TYP {
            return Err(Error::Malformed(format!("type \"{}\" is not {EAT_TYP}", jws.typ().escape_debug())));
        }
        let fault = |e: serde_json::Error| Error::InvalidClaim(format!("this is no EAT of a hostbadge: {e}"));
        let claims: EatClaims = serde_json::from_slice(jws.unverified_payload()).map_err(fault)?;
        claims.hostbadge_evidence.check_version()?;
        if claims.eat_profile != EAT_PROFILE {
            let profile = claims.eat_profile.escape_debug();
            return Err(Error::InvalidClaim(format!("profile \"{profile}\" is not {EAT_PROFILE}")));
        }
        Ok(Eat { jws, claims })
    }

    pub fn evidence(&self) -> &Evidence {
        &self.claims.hostbadge_evidence
    }

    /// What holds of the token itself; the evidence in it has findings of its own.
    pub fn check(&self, nonce: &[u8]) -> Vec<CheckResult> {
        vec![
            CheckResult::from_result("EAT's signature", self.check_signature().map_err(|e| e.to_string())),
            CheckResult::from_result("EAT's nonce", self.check_nonce(nonce)),
            CheckResult::from_result("EAT's UEID", self.check_ueid().map_err(|e| e.to_string())),
        ]
    }

    fn check_signature(&self) -> Result<String, Error> {
        let key = self.evidence().host_key()?;
        if self.jws.kid() != key.kid {
            return Err(Error::Evidence("it names another key than the host key in its evidence".into()));
        }
        self.jws.verify(&key)?;
        Ok("by the host key".to_owned())
    }

    fn check_nonce(&self, nonce: &[u8]) -> Result<String, String> {
        match self.claims.eat_nonce == BASE64URL_NOPAD.encode(nonce) {
            true => Ok("is in the token".to_owned()),
            false => Err("the token was made for another nonce".to_owned()),
        }
    }

    fn check_ueid(&self) -> Result<String, Error> {
        match self.claims.ueid == ueid(&self.evidence().ek_digest()?) {
            true => Ok(format!("{} is the EK's", self.claims.ueid)),
            false => Err(Error::Evidence("it is not that of the EK in its evidence".into())),
        }
    }
}

//! Evidence in an Entity Attestation Token (EAT, RFC 9711): a JWT that the host key signed.
//!
//! The token proves no more than the evidence in it. Its claims give verifiers of other vendors a standard
//! form, and the host key that signs it is certified by the same evidence. Sections are those of RFC 9711
//! unless another document is named.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::evidence::{CheckResult, Evidence, MAX_EVIDENCE_SIZE};
use super::jws::Jws;
use crate::json;

/// The `typ` of an EAT (RFC 9782 section 4.1).
pub const EAT_TYP: &str = "eat+jwt";
/// The profile (section 4.3.2): the claims that a token has, and how they are checked.
pub const EAT_PROFILE: &str = "urn:hostbadge:eat:1";
/// The largest token that is accepted, in bytes: the largest evidence, in base64url.
pub const MAX_EAT_SIZE: usize = MAX_EVIDENCE_SIZE / 3 * 4 + 4096;
/// The type byte of a UEID that is a digest (section 4.2.1.1).
const UEID_TYPE_RAND: u8 = 0x01;

/// The claims of an EAT.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EatClaims {
    /// The verifier's nonce, base64url (section 4.1).
    pub eat_nonce: String,
    /// The host's Universal Entity ID, base64url (section 4.2.1). See [`ueid`].
    pub ueid: String,
    /// [`EAT_PROFILE`].
    pub eat_profile: String,
    /// When the token was made, in seconds since 1970.
    pub iat: u64,
    /// The name of the software that made the token (section 4.2.6).
    pub swname: String,
    /// The version of that software (section 4.2.7).
    pub swversion: Vec<String>,
    /// The evidence, which proves the other claims.
    pub hostbadge_evidence: Evidence,
}

/// The UEID of a host, base64url: the type RAND in one byte, then SHA-256 over the EK's Name. The host's id
/// is its bytes 1 to 16.
pub fn ueid(ek_digest: &[u8; 32]) -> String {
    BASE64URL_NOPAD.encode(&[&[UEID_TYPE_RAND], &ek_digest[..]].concat())
}

/// A well-formed token. Its content is proven only if the checks of the token and of its evidence pass.
#[derive(Debug)]
pub struct Eat<'a> {
    jws: Jws<'a>,
    claims: EatClaims,
}

impl<'a> Eat<'a> {
    /// Parses a token with the type and the profile of hostbadge.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`], [`Error::InvalidClaim`], or [`Error::Evidence`] for evidence of an unsupported
    /// format.
    pub fn parse(text: &'a str) -> Result<Eat<'a>, Error> {
        let jws = Jws::parse_with_limit(text, MAX_EAT_SIZE)?;
        jws.expect_typ(EAT_TYP)?;
        let claims: EatClaims = json::from_object(jws.unverified_payload())
            .map_err(|e| Error::InvalidClaim(format!("not an EAT of a hostbadge: {e}")))?;
        claims.hostbadge_evidence.check_version()?;
        if claims.eat_profile != EAT_PROFILE {
            let profile = claims.eat_profile.escape_debug();
            return Err(Error::InvalidClaim(format!("profile \"{profile}\" is not {EAT_PROFILE}")));
        }
        Ok(Eat { jws, claims })
    }

    /// The evidence in the token.
    pub fn evidence(&self) -> &Evidence {
        &self.claims.hostbadge_evidence
    }

    /// Checks the token itself. The evidence in it has checks of its own, [`Evidence::check`].
    pub fn check(&self, nonce: &[u8]) -> Vec<CheckResult> {
        vec![
            CheckResult::from_result("EAT's signature", self.check_signature()),
            CheckResult::from_result("EAT's nonce", self.check_nonce(nonce)),
            CheckResult::from_result("EAT's UEID", self.check_ueid()),
        ]
    }

    fn check_signature(&self) -> Result<String, Error> {
        let key = self.evidence().host_key()?;
        if self.jws.kid() != key.kid {
            return Err(Error::Evidence("its \"kid\" is not that of the host key in its evidence".into()));
        }
        self.jws.verify(&key)?;
        Ok("by the host key".to_owned())
    }

    fn check_nonce(&self, nonce: &[u8]) -> Result<String, Error> {
        if self.claims.eat_nonce != BASE64URL_NOPAD.encode(nonce) {
            return Err(Error::Evidence("the token was made for another nonce".into()));
        }
        Ok("is in the token".to_owned())
    }

    fn check_ueid(&self) -> Result<String, Error> {
        if self.claims.ueid != ueid(&self.evidence().ek_digest()?) {
            return Err(Error::Evidence("it is not that of the EK in its evidence".into()));
        }
        Ok(format!("{} is the EK's", self.claims.ueid))
    }
}

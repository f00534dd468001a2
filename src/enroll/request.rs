//! The request: what a host says of itself, all of it bound together by a quote.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};

use super::certificate::{check_csr, csr_info};
use super::{ENROLLMENT_VERSION, Error, parse_document};
use crate::clock::Timestamp;
use crate::verify::HostSan;
use crate::verify::evidence::{CheckResult, EndorsementKeys, Evidence, MAX_EVIDENCE_SIZE};

/// The document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentRequest {
    pub version: u64,
    /// 128 random bits in hexadecimal.
    pub id: String,
    /// When it was made, by the host's clock.
    pub made: u64,
    /// The trust domain that the host means to be in.
    pub trust_domain: String,
    /// PKCS#10 for the host key, signed by it, DER in base64.
    pub csr: String,
    /// For the digest of the above as its nonce.
    pub evidence: Evidence,
}

impl EnrollmentRequest {
    pub fn parse(text: &[u8]) -> Result<EnrollmentRequest, Error> {
        parse_document("request", text, MAX_EVIDENCE_SIZE)
    }

    /// What the quote's nonce is: SHA-256 over all members but the evidence.
    pub fn quote_nonce(id: &str, made: u64, trust_domain: &str, csr: &str) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(b"hostbadge enrollment request 1");
        for part in [id, &made.to_string(), trust_domain, csr] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut nonce = [0; 32];
        nonce.copy_from_slice(context.finish().as_ref());
        nonce
    }

    /// What challenges and answers know the request by: SHA-256 over the document without spaces, in hexadecimal.
    pub fn digest(&self) -> Result<String, Error> {
        let text = serde_json::to_vec(self).map_err(|e| Error::Request(e.to_string()))?;
        Ok(HEXLOWER.encode(digest(&SHA256, &text).as_ref()))
    }

    /// Checks all that can be checked before a challenge: what a verifier of evidence would, and the CSR.
    ///
    /// Not that the AK is in the TPM of the EKs: that is what the challenge is for.
    pub fn check(&self) -> Result<VerifiedRequest, Error> {
        let invalid = |why: String| Error::Request(why);
        let unverified = |e: crate::verify::Error| Error::Request(e.to_string());
        if self.version != ENROLLMENT_VERSION {
            return Err(invalid(format!("it is of format {}", self.version)));
        }
        let nonce = EnrollmentRequest::quote_nonce(&self.id, self.made, &self.trust_domain, &self.csr);
        let checks = self.evidence.check(&nonce);
        if let Some(failed) = checks.iter().find(|check| check.failed()) {
            return Err(invalid(format!("{}: {}", failed.name, failed.detail)));
        }
        if self.evidence.nonce != BASE64URL_NOPAD.encode(&nonce) {
            return Err(invalid("nonce: it is not the digest of the request".into()));
        }
        let endorsement_keys = self.evidence.endorsement_keys().map_err(unverified)?;
        let verified = VerifiedRequest {
            host: self.evidence.host.clone(),
            trust_domain: self.trust_domain.clone(),
            ak_name: self.evidence.ak_name().map_err(unverified)?,
            host_key: self.evidence.host_key_point().map_err(unverified)?,
            created_at: Timestamp::from_secs(self.made),
            digest: self.digest()?,
            csr: BASE64.decode(self.csr.as_bytes()).map_err(|e| invalid(format!("CSR: {e}")))?,
            endorsement_keys,
            checks,
        };
        check_trust_domain(&self.trust_domain)?;
        let info = csr_info(&verified.san(), &verified.host_key);
        check_csr(&verified.csr, &info, &verified.host_key)?;
        Ok(verified)
    }
}

/// A request all of which holds, as far as no challenge is needed.
#[derive(Clone, Debug)]
pub struct VerifiedRequest {
    pub host: String,
    pub trust_domain: String,
    pub ak_name: Vec<u8>,
    pub host_key: [u8; 65],
    pub created_at: Timestamp,
    pub digest: String,
    /// DER
    pub csr: Vec<u8>,
    pub endorsement_keys: EndorsementKeys,
    pub checks: Vec<CheckResult>,
}

impl VerifiedRequest {
    /// What the host's certificate is to name.
    pub fn san(&self) -> HostSan<'_> {
        HostSan {
            trust_domain: &self.trust_domain,
            host: &self.host,
            ek_name: &self.endorsement_keys.p256.0.name,
            ek_certificates: self.endorsement_keys.certificates(),
            ak_name: &self.ak_name,
        }
    }
}

/// SPIFFE ID, section 2.1: what a trust domain's name is made of.
fn check_trust_domain(name: &str) -> Result<(), Error> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    match (1..=255).contains(&name.len()) && name.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err(Error::Request("its trust domain is none".into())),
    }
}

//! The request: a host's statement of its keys and names, bound together by a quote.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::certificate::{check_csr, csr_info};
use super::document::{ENROLLMENT_VERSION, parse_document};
use super::error::{Error, RequestError};
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::verify::evidence::{CheckResult, EndorsementKeys, Evidence, MAX_EVIDENCE_SIZE};
use crate::verify::{HostSan, is_trust_domain};

/// The file that `hostbadge enroll request` writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentRequest {
    /// The format, [`ENROLLMENT_VERSION`].
    pub version: u64,
    /// 128 random bits in hexadecimal.
    pub id: String,
    /// When the request was created, by the host's clock: seconds since the epoch.
    #[serde(rename = "made")]
    pub created_at: u64,
    /// The trust domain that the host is configured with.
    pub trust_domain: String,
    /// PKCS#10 for the host key, signed by it: DER in base64.
    pub csr: String,
    /// Evidence whose nonce is the digest of the members above.
    pub evidence: Evidence,
}

impl EnrollmentRequest {
    /// Parses a file of at most `MAX_EVIDENCE_SIZE` bytes. The content is not checked.
    ///
    /// # Errors
    ///
    /// If it is too large, not the JSON of a request, or of another format.
    pub fn parse(text: &[u8]) -> Result<EnrollmentRequest, Error> {
        parse_document("enrollment request", text, MAX_EVIDENCE_SIZE)
    }

    /// The nonce of the quote: SHA-256 over all members but the evidence.
    pub fn quote_nonce(id: &str, created_at: u64, trust_domain: &str, csr: &str) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(b"hostbadge enrollment request 1");
        for part in [id, &created_at.to_string(), trust_domain, csr] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut nonce = [0; 32];
        nonce.copy_from_slice(context.finish().as_ref());
        nonce
    }

    /// The digest by which challenges and answers name the request: SHA-256 in hexadecimal over the document
    /// without whitespace.
    ///
    /// # Errors
    ///
    /// If the document cannot be written as JSON.
    pub fn digest(&self) -> Result<String, Error> {
        let text = serde_json::to_vec(self).map_err(Error::Json)?;
        Ok(HEXLOWER.encode(&sha256(&text)))
    }

    /// Checks all that does not need a challenge: the evidence, as a verifier does, and the CSR. That the AK
    /// is in the TPM of the EKs is not checked: the challenge shows it.
    ///
    /// # Errors
    ///
    /// [`RequestError`] with the check that failed.
    pub fn check(&self) -> Result<VerifiedRequest, Error> {
        if self.version != ENROLLMENT_VERSION {
            return Err(RequestError::UnknownVersion(self.version).into());
        }
        let nonce = EnrollmentRequest::quote_nonce(&self.id, self.created_at, &self.trust_domain, &self.csr);
        let checks = self.evidence.check(&nonce);
        if let Some(failed) = checks.iter().find(|check| !check.is_acceptable()) {
            let (name, detail) = (failed.name.to_string(), failed.detail.clone());
            return Err(RequestError::Check { name, detail }.into());
        }
        if self.evidence.nonce != BASE64URL_NOPAD.encode(&nonce) {
            return Err(RequestError::Nonce.into());
        }
        let verified = VerifiedRequest {
            endorsement_keys: self.evidence.endorsement_keys().map_err(RequestError::Evidence)?,
            host: self.evidence.host.clone(),
            trust_domain: self.trust_domain.clone(),
            ak_name: self.evidence.ak_name().map_err(RequestError::Evidence)?,
            host_key: self.evidence.host_key_point().map_err(RequestError::Evidence)?,
            created_at: Timestamp::from_secs(self.created_at),
            digest: self.digest()?,
            csr: BASE64.decode(self.csr.as_bytes()).map_err(RequestError::CsrBase64)?,
            checks,
        };
        if !is_trust_domain(&self.trust_domain) {
            return Err(RequestError::TrustDomain.into());
        }
        let info = csr_info(&verified.san(), &verified.host_key)?;
        check_csr(&verified.csr, &info, &verified.host_key).map_err(RequestError::Csr)?;
        Ok(verified)
    }
}

/// A request that passed all checks that do not need a challenge.
#[derive(Clone, Debug)]
pub struct VerifiedRequest {
    /// The host's id.
    pub host: String,
    /// The trust domain that the host is configured with.
    pub trust_domain: String,
    /// The Name of the AK.
    pub ak_name: Vec<u8>,
    /// The host key: an uncompressed P-256 point.
    pub host_key: [u8; 65],
    /// When the request was created, by the host's clock.
    pub created_at: Timestamp,
    /// [`EnrollmentRequest::digest`].
    pub digest: String,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
    /// The EKs and their certificates.
    pub endorsement_keys: EndorsementKeys,
    /// The checks of the evidence: all passed, or skipped and optional.
    pub checks: Vec<CheckResult>,
}

impl VerifiedRequest {
    /// The names for the host's certificate.
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

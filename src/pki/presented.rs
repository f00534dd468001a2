//! Recognizes a certificate that a caller presents as one that this host issued to an agent.

use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::certificate_issuer::CertificateIssuer;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::verify::parse_certificate;

/// Characters of a certificate with its chain in PEM.
const MAX_PEM_LEN: usize = 16 * 1024;
/// Certificates in it.
const MAX_CHAIN_LEN: usize = 4;

/// Why a certificate is not one of the agent's. The texts go to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOwnCertificate {
    /// Not PEM, too long, or not a certificate.
    #[error(
        "certificate: it must be a certificate in PEM, with at most {MAX_CHAIN_LEN} certificates and 16 KiB"
    )]
    Malformed,
    /// Not signed by a CA of this host, or not valid now.
    #[error("certificate: it does not lead to the root of this host, or is not valid now")]
    Foreign,
    /// Of another agent, revoked, or of a key that was revoked.
    #[error("certificate: it is not one that this host issued to the agent, or it is revoked")]
    NotIssued,
}

impl CertificateIssuer {
    /// The thumbprint of a certificate that this host issued to the agent with this SPIFFE ID: SHA-256 of its DER in
    /// base64url (RFC 8705 section 3.1). Of a chain, the first certificate counts.
    ///
    /// # Errors
    /// [`NotOwnCertificate`].
    pub fn thumbprint_of_own(
        &self,
        pem: &str,
        spiffe_id: &str,
        now: Timestamp,
    ) -> Result<String, NotOwnCertificate> {
        if pem.len() > MAX_PEM_LEN {
            return Err(NotOwnCertificate::Malformed);
        }
        let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .take(MAX_CHAIN_LEN + 1)
            .collect::<Result<_, _>>()
            .map_err(|_| NotOwnCertificate::Malformed)?;
        let (leaf, given) = match chain.split_first() {
            Some((leaf, given)) if given.len() < MAX_CHAIN_LEN => (leaf, given),
            _ => return Err(NotOwnCertificate::Malformed),
        };
        self.verify_path(leaf, given, now)?;
        let parsed = parse_certificate(leaf).map_err(|_| NotOwnCertificate::Malformed)?;
        // Records have 16 bytes; the DER of a number has a zero before a leading one bit, and no others.
        let digits = HEXLOWER.encode(parsed.tbs_certificate().serial_number().as_bytes());
        let serial = format!("{:0>32}", digits.trim_start_matches("00"));
        match self.is_recorded(spiffe_id, &serial) {
            true => Ok(BASE64URL_NOPAD.encode(&sha256(leaf))),
            false => Err(NotOwnCertificate::NotIssued),
        }
    }

    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        given: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<(), NotOwnCertificate> {
        let roots: Vec<CertificateDer<'_>> = self.bundle().into_iter().map(CertificateDer::from).collect();
        let anchors: Vec<_> = roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
        // A leaf may be presented without its chain.
        let own: Vec<CertificateDer<'_>> =
            self.intermediates().into_iter().map(CertificateDer::from).collect();
        let intermediates: Vec<CertificateDer<'_>> = given.iter().cloned().chain(own).collect();
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| NotOwnCertificate::Malformed)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &intermediates,
                now,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map(drop)
            .map_err(|_| NotOwnCertificate::Foreign)
    }
}

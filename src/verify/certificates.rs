//! Verifies an organization's certificates for its hosts. [`super::ek_chain`] verifies those of TPM
//! manufacturers.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use der::Decode;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::error::Error;
use super::host_san::{ak_identifier, ek_certificate_identifier};
use super::x509::p256_spki;
use crate::clock::Timestamp;

/// Bytes read of one file of certificates: 1 MiB.
const MAX_CERTIFICATE_FILE_SIZE: u64 = 1024 * 1024;
/// Certificates in one file of roots.
const MAX_CERTIFICATES: usize = 2000;
/// Certificates in a chain: an end entity's and those that lead from it to a root.
pub const MAX_CHAIN_LEN: usize = 16;
/// Bytes of one certificate: 16 KiB.
pub(super) const MAX_CERTIFICATE_SIZE: usize = 16 * 1024;

/// Accepts every extended key usage: what else an organization allows its hosts' certificates for is its own
/// decision.
struct AnyExtendedKeyUsage;

impl ExtendedKeyUsageValidator for AnyExtendedKeyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// The CA certificates of an organization, all trusted as roots.
#[derive(Debug, Default)]
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    /// Reads one PEM or DER file and trusts every certificate in it.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or holds no certificate or a malformed one.
    pub fn read_file(path: &Path) -> Result<Roots, Error> {
        let mut roots = Roots::default();
        for certificate in read_certificates(path)? {
            roots.add_anchor(&certificate).map_err(|e| file_error(path, &e))?;
        }
        Ok(roots)
    }

    fn add_anchor(&mut self, certificate: &CertificateDer<'_>) -> Result<(), webpki::Error> {
        self.anchors.push(anchor_from_trusted_cert(certificate)?.to_owned());
        Ok(())
    }

    fn verify_path(&self, certificate: &[u8], chain: &[Vec<u8>], now: Timestamp) -> Result<(), Error> {
        let certificate = CertificateDer::from(certificate);
        let leaf = EndEntityCert::try_from(&certificate)
            .map_err(|e| Error::Certificate(format!("the certificate: {e}")))?;
        let intermediates: Vec<CertificateDer<'_>> =
            chain.iter().take(MAX_CHAIN_LEN).map(|der| CertificateDer::from(der.as_slice())).collect();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs()));
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &self.anchors, &intermediates, now, AnyExtendedKeyUsage, None, None)
            .map(drop)
            .map_err(|e| Error::Certificate(format!("the certificate does not lead to a trusted root: {e}")))
    }
}

/// When a certificate becomes valid.
pub(crate) fn not_before(certificate: &Certificate) -> Timestamp {
    Timestamp::from_secs(certificate.tbs_certificate().validity().not_before.to_unix_duration().as_secs())
}

/// When a certificate expires.
pub(crate) fn not_after(certificate: &Certificate) -> Timestamp {
    Timestamp::from_secs(certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
}

/// An organization's certificate for a host key, with those that lead to its root.
#[derive(Clone, Debug)]
pub struct HostCertificate {
    chain: Vec<Vec<u8>>,
    leaf: Certificate,
}

impl HostCertificate {
    /// Parses PEM, the host's own certificate first.
    ///
    /// # Errors
    ///
    /// If there is no certificate, if one is malformed or larger than 16 KiB, or if there are more than 16.
    pub fn from_pem(text: &[u8]) -> Result<HostCertificate, Error> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).take(MAX_CHAIN_LEN + 1).collect();
        let chain = chain.map_err(|e| Error::Certificate(format!("not a PEM file of certificates: {e}")))?;
        HostCertificate::from_der(chain.iter().map(|one| one.to_vec()).collect())
    }

    /// Parses DER certificates, the host's own first.
    ///
    /// # Errors
    ///
    /// As of [`HostCertificate::from_pem`].
    pub fn from_der(chain: Vec<Vec<u8>>) -> Result<HostCertificate, Error> {
        if chain.len() > MAX_CHAIN_LEN {
            return Err(Error::Certificate(format!("more than {MAX_CHAIN_LEN} certificates")));
        }
        let mut parsed = chain.iter().map(|der| parse_certificate(der)).collect::<Result<Vec<_>, _>>()?;
        if parsed.is_empty() {
            return Err(Error::Certificate("there is no certificate in it".into()));
        }
        Ok(HostCertificate { leaf: parsed.swap_remove(0), chain })
    }

    /// DER certificates, the host's own first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The subject, as an RFC 4514 string.
    pub fn subject(&self) -> String {
        self.leaf.tbs_certificate().subject().to_string()
    }

    /// The issuer, as an RFC 4514 string.
    pub fn issuer(&self) -> String {
        self.leaf.tbs_certificate().issuer().to_string()
    }

    /// When the certificate becomes valid.
    pub fn not_before(&self) -> Timestamp {
        not_before(&self.leaf)
    }

    /// When the certificate expires.
    pub fn not_after(&self) -> Timestamp {
        not_after(&self.leaf)
    }

    /// Whether the certificate is for this P-256 key, an uncompressed point.
    pub fn is_for_key(&self, point: &[u8; 65]) -> bool {
        p256_spki(point).is_ok_and(|spki| self.leaf.tbs_certificate().subject_public_key_info() == &spki)
    }

    /// Checks that the certificate leads to a trusted root and is valid at `now`.
    ///
    /// # Errors
    ///
    /// If it does not, with webpki's reason.
    pub fn verify_path(&self, roots: &Roots, now: Timestamp) -> Result<(), Error> {
        roots.verify_path(&self.chain[0], &self.chain[1..], now)
    }

    /// Whether the subjectAltName has the AK of this Name.
    pub fn san_contains_ak(&self, ak_name: &[u8]) -> bool {
        ak_identifier(ak_name).is_ok_and(|name| self.general_names().contains(&name))
    }

    /// Whether the subjectAltName has the TPM of this EK certificate (DER).
    pub fn san_contains_ek_certificate(&self, certificate: &[u8]) -> bool {
        ek_certificate_identifier(certificate).is_ok_and(|name| self.general_names().contains(&name))
    }

    /// Whether the subjectAltName has the SPIFFE ID of the host of this id, in any trust domain.
    pub fn san_contains_host(&self, host: &str) -> bool {
        let suffix = format!("/host/{host}");
        self.general_names().iter().any(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => uri
                .as_str()
                .strip_prefix("spiffe://")
                .and_then(|rest| rest.strip_suffix(&suffix))
                .is_some_and(|domain| !domain.is_empty() && !domain.contains('/')),
            _ => false,
        })
    }

    fn general_names(&self) -> Vec<GeneralName> {
        let names = self.leaf.tbs_certificate().get_extension::<SubjectAltName>();
        names.ok().flatten().map(|(_, names)| names.0).unwrap_or_default()
    }
}

/// Parses one certificate (DER).
///
/// # Errors
///
/// If it is malformed or larger than 16 KiB.
pub fn parse_certificate(certificate: &[u8]) -> Result<Certificate, Error> {
    if certificate.len() > MAX_CERTIFICATE_SIZE {
        return Err(Error::Certificate(format!("a certificate is larger than {MAX_CERTIFICATE_SIZE} bytes")));
    }
    Certificate::from_der(certificate).map_err(|e| Error::Certificate(format!("not a certificate: {e}")))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_CERTIFICATE_FILE_SIZE).read_to_end(&mut bytes));
    read.map_err(|e| file_error(path, &e))?;
    // DER begins with the tag of a SEQUENCE, PEM with text.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).take(MAX_CERTIFICATES).collect();
    match all {
        Ok(all) if all.is_empty() => Err(file_error(path, &"there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(e) => Err(file_error(path, &e)),
    }
}

pub(super) fn file_error(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Certificate(format!("{}: {reason}", path.display()))
}

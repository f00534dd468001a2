//! `certificate.json`: the installed host certificate.

use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::delegated_ca::DelegatedCa;
use super::enrollment_file::VERSION;
use super::error::{CertificateFileError, EnrollmentError, Error};
use crate::clock::Timestamp;
use crate::enroll;
use crate::store;
use crate::verify::HostCertificate;

pub(super) const FILE_NAME: &str = "certificate.json";

/// `certificate.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateFile {
    /// DER in base64, the host's own first.
    chain: Vec<String>,
}

/// The installed host certificate, for administrators.
#[derive(Clone, Debug)]
pub struct CertificateReport {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// SHA-256 of the root below which the organization lets the host sign, in hexadecimal; `None` if it does
    /// not.
    pub signing_root_sha256: Option<String>,
}

impl CertificateFile {
    pub(super) fn new(certificate: &HostCertificate) -> CertificateFile {
        CertificateFile { chain: certificate.chain().iter().map(|der| BASE64.encode(der)).collect() }
    }
}

impl CertificateReport {
    pub(super) fn new(
        certificate: &HostCertificate,
        delegated_ca: Option<&DelegatedCa>,
    ) -> CertificateReport {
        CertificateReport {
            subject: certificate.subject(),
            issuer: certificate.issuer(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            signing_root_sha256: delegated_ca.map(|ca| enroll::certificate_sha256(ca.root())),
        }
    }
}

/// Reads `certificate.json`; `None` if there is none.
pub(super) fn read_certificate(state_dir: &Path) -> Result<Option<HostCertificate>, Error> {
    let path = state_dir.join(FILE_NAME);
    let Some(file) = store::read::<CertificateFile>(&path, VERSION)? else { return Ok(None) };
    let invalid = |source: CertificateFileError| EnrollmentError::InvalidFile { path: path.clone(), source };
    let chain: Result<Vec<_>, _> = file.chain.iter().map(|text| BASE64.decode(text.as_bytes())).collect();
    let chain = chain.map_err(|error| invalid(error.into()))?;
    let certificate = HostCertificate::from_der(chain).map_err(|error| invalid(error.into()))?;
    Ok(Some(certificate))
}

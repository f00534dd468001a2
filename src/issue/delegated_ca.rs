//! The CA certificate with which an organization lets the host key sign certificates of its trust domain.

use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::error::{CertificateFileError, EnrollmentError, Error};
use crate::clock::Timestamp;
use crate::enroll::SigningChain;
use crate::store;
use crate::verify::{not_after, parse_certificate};

pub(super) const FILE_NAME: &str = "signing.json";
const VERSION: u64 = 1;

/// A CA certificate for the host key, with its chain to the organization's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegatedCa {
    /// DER: the host's CA certificate, the intermediates, the root.
    chain: Vec<Vec<u8>>,
    /// When it was installed.
    pub installed_at: Timestamp,
    /// When the host's CA certificate expires.
    pub not_after: Timestamp,
}

/// `signing.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DelegatedCaFile {
    /// DER in base64. Empty after a certificate without a CA certificate was installed, which revokes the
    /// delegation.
    chain: Vec<String>,
    /// Seconds since the epoch.
    since: u64,
}

impl DelegatedCa {
    /// Reads `signing.json`; `None` if there is no CA certificate.
    pub(super) fn read(dir: &Path) -> Result<Option<DelegatedCa>, Error> {
        let Some(file) = store::read::<DelegatedCaFile>(&dir.join(FILE_NAME), VERSION)? else {
            return Ok(None);
        };
        if file.chain.is_empty() {
            return Ok(None);
        }
        let invalid =
            |source: CertificateFileError| EnrollmentError::InvalidFile { path: dir.join(FILE_NAME), source };
        let chain: Result<Vec<_>, _> = file.chain.iter().map(|text| BASE64.decode(text.as_bytes())).collect();
        let chain = chain.map_err(|error| invalid(error.into()))?;
        let first = parse_certificate(&chain[0]).map_err(|error| invalid(error.into()))?;
        Ok(Some(DelegatedCa {
            not_after: not_after(&first),
            chain,
            installed_at: Timestamp::from_secs(file.since),
        }))
    }

    pub(super) fn to_file(delegated_ca: Option<&DelegatedCa>) -> DelegatedCaFile {
        let chain = delegated_ca.map_or(&[][..], |delegated_ca| &delegated_ca.chain);
        DelegatedCaFile {
            chain: chain.iter().map(|der| BASE64.encode(der)).collect(),
            since: delegated_ca.map_or(0, |delegated_ca| delegated_ca.installed_at.as_secs()),
        }
    }

    /// The host's CA certificate, in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.chain[0]
    }

    /// The host's CA certificate and the intermediates, in DER.
    pub fn chain_without_root(&self) -> &[Vec<u8>] {
        &self.chain[..self.chain.len() - 1]
    }

    /// The organization's root certificate, in DER.
    pub fn root(&self) -> &[u8] {
        &self.chain[self.chain.len() - 1]
    }

    /// The CA certificate of a verified chain.
    ///
    /// # Errors
    /// [`EnrollmentError::DelegatedCa`] if a certificate is malformed.
    pub(super) fn from_chain(chain: &SigningChain, now: Timestamp) -> Result<DelegatedCa, EnrollmentError> {
        Ok(DelegatedCa {
            not_after: chain.not_after().map_err(EnrollmentError::DelegatedCa)?,
            chain: chain.certificates().to_vec(),
            installed_at: Timestamp::from_secs(now.as_secs()),
        })
    }
}

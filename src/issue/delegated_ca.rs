//! The CA certificate with which an organization lets the host key sign certificates of its trust domain.

use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use x509_cert::Certificate;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};

use super::error::{CertificateFileError, DelegatedCaFault, EnrollmentError, Error};
use crate::clock::Timestamp;
use crate::enroll;
use crate::store;
use crate::verify::parse_certificate;
use crate::verify::x509::p256_spki;

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

    /// Splits the output of `hostbadge enroll certify --signing` into the chain of the host's certificate and
    /// the chain of its CA certificate. A bundle without a CA certificate is the former alone.
    ///
    /// # Errors
    /// [`EnrollmentError::Certificate`], [`EnrollmentError::DelegatedCa`]
    pub(super) fn from_install_bundle(
        bundle: &[Vec<u8>],
        host_key: &[u8; 65],
        trust_domain: &str,
        now: Timestamp,
    ) -> Result<(Vec<Vec<u8>>, Option<DelegatedCa>), EnrollmentError> {
        let certificates = bundle.iter().map(|der| parse_certificate(der)).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(EnrollmentError::Certificate)?;
        let host_spki = p256_spki(host_key).map_err(enroll::Error::Encode)?;
        let has_host_key =
            |certificate: &Certificate| *certificate.tbs_certificate().subject_public_key_info() == host_spki;
        let Some(index) = (1..certificates.len()).find(|at| has_host_key(&certificates[*at])) else {
            return Ok((bundle.to_vec(), None));
        };
        let ca_certificate = &certificates[index];
        check_ca_certificate(ca_certificate, trust_domain).map_err(EnrollmentError::DelegatedCa)?;
        if not_after(ca_certificate) <= now {
            return Err(EnrollmentError::DelegatedCa(DelegatedCaFault::Expired(not_after(ca_certificate))));
        }
        // Both certificates have the same issuer, so their intermediates are the same.
        let chain: Vec<usize> =
            std::iter::once(index).chain(1..index).chain(index + 1..certificates.len()).collect();
        let issuer = |at: usize| certificates[at].tbs_certificate().issuer();
        let linked =
            chain.windows(2).all(|two| issuer(two[0]) == certificates[two[1]].tbs_certificate().subject());
        let last = chain[chain.len() - 1];
        if !linked || issuer(last) != certificates[last].tbs_certificate().subject() {
            return Err(EnrollmentError::DelegatedCa(DelegatedCaFault::NoPathToRoot));
        }
        let delegated_ca = DelegatedCa {
            chain: chain.into_iter().map(|at| bundle[at].clone()).collect(),
            installed_at: Timestamp::from_secs(now.as_secs()),
            not_after: not_after(ca_certificate),
        };
        Ok((bundle[..index].to_vec(), Some(delegated_ca)))
    }
}

fn not_after(certificate: &Certificate) -> Timestamp {
    Timestamp::from_secs(certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
}

fn check_ca_certificate(certificate: &Certificate, trust_domain: &str) -> Result<(), DelegatedCaFault> {
    let tbs = certificate.tbs_certificate();
    let constraints = tbs.get_extension::<BasicConstraints>().ok().flatten();
    let is_ca = constraints.is_some_and(|(_, constraints)| {
        constraints.ca && constraints.path_len_constraint.is_none_or(|length| length >= 1)
    });
    let usage = tbs.get_extension::<KeyUsage>().ok().flatten();
    if !is_ca || !usage.is_some_and(|(_, usage)| usage.key_cert_sign() && usage.crl_sign()) {
        return Err(DelegatedCaFault::NotACa);
    }
    let uri = format!("spiffe://{trust_domain}");
    let names = tbs.get_extension::<SubjectAltName>().ok().flatten();
    let has_trust_domain = names.is_some_and(|(_, names)| {
        names.0.iter().any(
            |name| matches!(name, GeneralName::UniformResourceIdentifier(value) if value.as_str() == uri),
        )
    });
    if has_trust_domain { Ok(()) } else { Err(DelegatedCaFault::TrustDomain(uri)) }
}

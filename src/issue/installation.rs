//! The certificates that an administrator installs for the host key.

use std::sync::Arc;

use tokio::sync::MutexGuard;

use super::certificate_file::{self, CertificateFile, CertificateReport};
use super::delegated_ca::{self, DelegatedCa};
use super::enrollment::Enrollment;
use super::error::{EnrollmentError, Error};
use crate::clock::Timestamp;
use crate::enroll::{InstallBundle, SigningChain};
use crate::tpm::Tpm;
use crate::verify::HostCertificate;

/// Certificates for the host key that were verified and are not installed yet. While it exists, no other step
/// of enrollment is taken.
pub struct VerifiedBundle<'e> {
    enrollment: &'e Enrollment,
    certificate: HostCertificate,
    delegated_ca: Option<DelegatedCa>,
    report: CertificateReport,
    _guard: MutexGuard<'e, ()>,
}

impl Enrollment {
    /// Verifies a certificate for the host key. `pem` may also have a CA certificate for the host key. Every
    /// signature is verified up to the last certificate given, which may be a root.
    ///
    /// A CA certificate makes its root a root of the host's trust bundle. It is accepted only if
    /// `root_sha256` is that root's digest (see [`crate::enroll::certificate_sha256`]), so that the
    /// administrator knows which root that is.
    ///
    /// # Errors
    /// An [`EnrollmentError`] that says why the certificate is rejected; a TPM that is not available.
    pub async fn verify_bundle(
        &self,
        tpm: &Tpm,
        pem: &[u8],
        root_sha256: Option<&str>,
        trust_domain: &str,
        now: Timestamp,
    ) -> Result<VerifiedBundle<'_>, Error> {
        let guard = self.0.lock.lock().await;
        let certificate = HostCertificate::from_pem(pem).map_err(EnrollmentError::Certificate)?;
        let host_key = tpm.info().await?.host_key.ok_or(EnrollmentError::NoHostKey)?;
        if !certificate.is_for_key(&host_key) {
            return Err(EnrollmentError::OtherKey.into());
        }
        if certificate.not_after() <= now {
            return Err(EnrollmentError::Expired(certificate.not_after()).into());
        }
        let bundle = InstallBundle::split(certificate.chain()).map_err(EnrollmentError::DelegatedCa)?;
        let delegated_ca = match &bundle.signing_chain {
            Some(chain) => Some(verify_signing_chain(chain, root_sha256, trust_domain, now)?),
            None => None,
        };
        bundle.verify_host_chain(now).map_err(EnrollmentError::Certificate)?;
        let certificate =
            HostCertificate::from_der(bundle.host_chain).map_err(EnrollmentError::Certificate)?;
        let report = CertificateReport::new(&certificate, delegated_ca.as_ref());
        Ok(VerifiedBundle { enrollment: self, certificate, delegated_ca, report, _guard: guard })
    }
}

impl VerifiedBundle<'_> {
    /// What is to be installed.
    pub fn report(&self) -> &CertificateReport {
        &self.report
    }

    /// Installs the certificate in place of an earlier one, and the CA certificate too. Without a CA
    /// certificate, an earlier one is withdrawn.
    ///
    /// The two are in two files. A CA certificate is withdrawn before and installed after the host
    /// certificate is, so that a failure between leaves the host with no more power to sign than it had, and
    /// none that was to be withdrawn. The same command completes it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub async fn install(self) -> Result<CertificateReport, Error> {
        let VerifiedBundle { enrollment, certificate, delegated_ca, report, _guard } = self;
        if delegated_ca.is_none() && enrollment.0.delegated_ca.borrow().is_some() {
            enrollment.set_delegated_ca(None).await?;
        }
        enrollment.write_file(certificate_file::FILE_NAME, &CertificateFile::new(&certificate)).await?;
        enrollment.0.certificate.store(Some(Arc::new(certificate)));
        if let Some(delegated_ca) = delegated_ca {
            enrollment.set_delegated_ca(Some(delegated_ca)).await?;
        }
        Ok(report)
    }
}

impl Enrollment {
    async fn set_delegated_ca(&self, delegated_ca: Option<DelegatedCa>) -> Result<(), Error> {
        self.write_file(delegated_ca::FILE_NAME, &DelegatedCa::to_file(delegated_ca.as_ref())).await?;
        self.0.delegated_ca.send_replace(delegated_ca.map(Arc::new));
        Ok(())
    }
}

/// Verifies a chain that lets the host sign, and that the administrator named its root.
fn verify_signing_chain(
    chain: &SigningChain,
    root_sha256: Option<&str>,
    trust_domain: &str,
    now: Timestamp,
) -> Result<DelegatedCa, EnrollmentError> {
    chain.verify(trust_domain, now).map_err(EnrollmentError::DelegatedCa)?;
    let found = chain.root_sha256();
    match root_sha256 {
        None => Err(EnrollmentError::RootNotNamed { found }),
        Some(named) if !named.eq_ignore_ascii_case(&found) => Err(EnrollmentError::OtherRoot { found }),
        Some(_) => DelegatedCa::from_chain(chain, now),
    }
}

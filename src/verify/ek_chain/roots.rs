//! The certificates of TPM manufacturers that a verifier trusts.

use std::path::Path;

use super::certificate::ManufacturerCertificate;
use super::files;
use super::files::PassedOver;
use super::key::check_certificate_key;
use super::path::verify_path;
use crate::clock::Timestamp;
use crate::verify::certificates::{MAX_CHAIN_LEN, file_error};
use crate::verify::ek::Ek;
use crate::verify::error::Error;

/// Root certificates of TPM manufacturers, and intermediates that lead to them.
#[derive(Debug)]
pub struct ManufacturerRoots {
    roots: Vec<ManufacturerCertificate>,
    intermediates: Vec<ManufacturerCertificate>,
    passed_over: Vec<PassedOver>,
}

impl ManufacturerRoots {
    /// Reads the PEM and DER files in a directory: `.pem`, `.crt`, `.cer` and `.der`. Certificates whose
    /// subject is their issuer become trusted roots, the others intermediates. Files and certificates that
    /// cannot be used are passed over.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read, if no root is found, or if there are more than 2000 certificates.
    pub fn read_dir(dir: &Path) -> Result<ManufacturerRoots, Error> {
        let (certificates, passed_over) = files::read_dir(dir)?;
        let (mut roots, mut intermediates) = (Vec::new(), Vec::new());
        for certificate in certificates {
            let list = if certificate.is_self_issued() { &mut roots } else { &mut intermediates };
            if !list.contains(&certificate) {
                list.push(certificate);
            }
        }
        if roots.is_empty() {
            let mut reason = "there is no root certificate in .pem, .crt, .cer or .der files".to_owned();
            if let Some(first) = passed_over.first() {
                reason += &format!("; passed over {} of them, the first is {first}", passed_over.len());
            }
            return Err(file_error(dir, &reason));
        }
        Ok(ManufacturerRoots { roots, intermediates, passed_over })
    }

    /// What was passed over when the directory was read.
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    /// Checks that an EK certificate (DER) is for `ek` and leads to a root, by way of `chain` (DER each, of
    /// which malformed ones are ignored) and the intermediates. Returns the certificate's issuer, as an
    /// RFC 4514 string.
    ///
    /// # Errors
    ///
    /// If the certificate is for another key, or does not lead to a root at `now`.
    pub fn verify_ek(
        &self,
        ek: &Ek,
        certificate: &[u8],
        chain: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<String, Error> {
        let leaf = ManufacturerCertificate::parse(certificate)?;
        check_certificate_key(&leaf, ek)?;
        let presented: Vec<ManufacturerCertificate> = chain
            .iter()
            .take(MAX_CHAIN_LEN)
            .filter_map(|der| ManufacturerCertificate::parse(der).ok())
            .collect();
        let intermediates: Vec<&ManufacturerCertificate> =
            presented.iter().chain(&self.intermediates).collect();
        verify_path(&leaf, &intermediates, &self.roots, now)
            .map_err(|fault| Error::Certificate(format!("it does not lead to a trusted root: {fault}")))?;
        Ok(leaf.issuer.to_string())
    }
}

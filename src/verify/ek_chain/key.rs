//! Whether a certificate is for an endorsement key.

use der::Encode;

use super::certificate::ManufacturerCertificate;
use crate::verify::ek::{Ek, EkKey};
use crate::verify::error::Error;
use crate::verify::x509::RsaPublicKey;

/// Checks that a certificate (DER) is for this endorsement key.
///
/// # Errors
///
/// If it is malformed or for another key.
pub(in crate::verify) fn check_certificate_is_for_ek(certificate: &[u8], ek: &Ek) -> Result<(), Error> {
    check_certificate_key(&ManufacturerCertificate::parse(certificate)?, ek)
}

/// The same for an EK's public area (TPM2B_PUBLIC), which is checked as well.
///
/// # Errors
///
/// If either is malformed, or the certificate is for another key.
pub(crate) fn check_ek_certificate(public: &[u8], certificate: &[u8]) -> Result<(), Error> {
    check_certificate_is_for_ek(certificate, &Ek::parse(public)?)
}

pub(super) fn check_certificate_key(certificate: &ManufacturerCertificate, ek: &Ek) -> Result<(), Error> {
    let key = &certificate.public_key.subject_public_key;
    let expected = subject_public_key(&ek.key).ok();
    if expected.is_none() || key.as_bytes() != expected.as_deref() {
        return Err(Error::Certificate("the certificate is for another key".into()));
    }
    Ok(())
}

/// The content of subjectPublicKey for an EK: an uncompressed point, or an RSAPublicKey in DER.
fn subject_public_key(key: &EkKey) -> der::Result<Vec<u8>> {
    match key {
        EkKey::P256(point) => Ok(point.to_vec()),
        EkKey::Rsa(modulus) => RsaPublicKey::new(&modulus[..], &[1, 0, 1])?.to_der(),
    }
}

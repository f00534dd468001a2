//! The certificates of endorsement keys, in the TPM's NV memory.
//!
//! Manufacturers, firmwares and hypervisors leave these indices in many conditions. An index that does not
//! give the certificate of its EK never keeps the daemon from working: the TPM then has no certificate for
//! that EK, and the cause is logged once.

use super::activate::EkKind;
use super::connection::TpmConnection;
use super::error::Error;
use super::nv_index;
use super::nv_index::NvReadFault;
use crate::verify;

/// NV index of the certificate of the template L-2 EK, ECC P-256 (EK Credential Profile, section 2.2.1.4: low
/// range).
pub(super) const P256_EK_CERTIFICATE_INDEX: u32 = 0x01C0_000A;

/// NV index of the certificate of the template L-1 EK, RSA-2048.
const RSA_EK_CERTIFICATE_INDEX: u32 = 0x01C0_0002;

/// NV indices for the issuers' certificates, in DER one after the other (section 2.2.1.5.2); some
/// manufacturers use them.
const EK_CHAIN_INDICES: std::ops::RangeInclusive<u32> = 0x01C0_0100..=0x01C0_01FF;

/// Bounds on the chain, well above those in use.
const MAX_CHAIN_CERTIFICATES: usize = 16;
const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// Why an NV index does not give the certificate of an EK.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("NV index {index:#x}, for the certificate of the {ek} EK: {cause}")]
pub struct EkCertificateFault {
    /// The EK.
    pub ek: EkKind,
    /// The NV index.
    pub index: u32,
    /// What is wrong with the index or its content.
    #[source]
    pub cause: EkCertificateFaultCause,
}

/// What is wrong with the NV index of an EK certificate, or with its content.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EkCertificateFaultCause {
    /// The index cannot be read.
    #[error(transparent)]
    Read(#[from] NvReadFault),
    /// Every byte is 0x00, or every byte is 0xFF.
    #[error("it holds padding alone")]
    Padding,
    /// The content does not begin as a certificate does.
    #[error("it does not hold a certificate")]
    NoCertificate,
    /// The certificate is longer than the index.
    #[error("the certificate in it is not complete")]
    Incomplete,
    /// It holds a certificate that is malformed, or for another key.
    #[error("{0}")]
    Certificate(#[source] verify::Error),
    /// The TPM does not derive the EK of the certificate; the text is its response.
    #[error("the TPM does not derive that EK ({0})")]
    NoKey(String),
}

impl EkCertificateFault {
    pub(super) fn new(ek: EkKind, cause: impl Into<EkCertificateFaultCause>) -> EkCertificateFault {
        EkCertificateFault { ek, index: certificate_index(ek), cause: cause.into() }
    }

    /// Whether the index may be readable later.
    pub(super) fn is_temporary(&self) -> bool {
        self.cause == EkCertificateFaultCause::Read(NvReadFault::LockedOut)
    }

    /// Logs the fault, unless the TPM's state reports its cause. Callers keep the result of the read, so that
    /// each fault is logged once.
    pub(super) fn log(&self) {
        if !self.is_temporary() {
            tracing::warn!(
                event = "tpm-ek-certificate",
                "{self}; the daemon goes on without this certificate"
            );
        }
    }
}

/// Reads the certificate of an EK; `None` if its NV index is not defined. The certificate is that of some
/// key: see [`check_key`].
///
/// # Errors
/// Faults of the connection, and of a TPM that cannot execute a command now. What is wrong with the index is
/// the inner error.
pub(super) fn read(
    connection: &mut TpmConnection,
    ek: EkKind,
) -> Result<Result<Option<Vec<u8>>, EkCertificateFault>, Error> {
    // An index is often larger than its certificate.
    let needed = |size: usize, start: &[u8]| der_length(start).unwrap_or(start.len()).min(size);
    let read = nv_index::read(connection, certificate_index(ek), needed)?;
    let certificate = match read {
        None => return Ok(Ok(None)),
        Some(Ok(bytes)) => take_certificate(bytes),
        Some(Err(fault)) => Err(fault.into()),
    };
    Ok(certificate.map(Some).map_err(|cause| EkCertificateFault::new(ek, cause)))
}

/// Checks that a certificate is for the EK with this public area (TPM2B_PUBLIC), as verifiers of evidence do.
pub(super) fn check_key(ek: EkKind, public: &[u8], certificate: &[u8]) -> Result<(), EkCertificateFault> {
    verify::check_ek_certificate(public, certificate)
        .map_err(|error| EkCertificateFault::new(ek, EkCertificateFaultCause::Certificate(error)))
}

/// Reads the issuers' certificates. One may span two indices, so all indices are read before the bytes are
/// split. The first index that cannot be read ends the chain.
pub(super) fn read_chain(connection: &mut TpmConnection) -> Result<Vec<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    for index in connection.nv_indices(*EK_CHAIN_INDICES.start())? {
        if !EK_CHAIN_INDICES.contains(&index) || bytes.len() >= MAX_CHAIN_BYTES {
            break;
        }
        match nv_index::read(connection, index, |size, _| size)? {
            None => {}
            Some(Ok(part)) => bytes.extend(part),
            Some(Err(fault)) => {
                tracing::warn!(
                    event = "tpm-ek-certificate",
                    "NV index {index:#x}, for certificates of the EKs' issuers: {fault}; the daemon goes on \
                     without it"
                );
                break;
            }
        }
    }
    Ok(split_certificates(&bytes))
}

fn certificate_index(ek: EkKind) -> u32 {
    match ek {
        EkKind::P256 => P256_EK_CERTIFICATE_INDEX,
        EkKind::Rsa => RSA_EK_CERTIFICATE_INDEX,
    }
}

/// The certificate at the start of an index.
fn take_certificate(mut bytes: Vec<u8>) -> Result<Vec<u8>, EkCertificateFaultCause> {
    let Some(length) = der_length(&bytes) else {
        let is_padding = |byte: u8| bytes.iter().all(|it| *it == byte);
        return Err(if is_padding(0) || is_padding(0xFF) {
            EkCertificateFaultCause::Padding
        } else {
            EkCertificateFaultCause::NoCertificate
        });
    };
    if length > bytes.len() {
        return Err(EkCertificateFaultCause::Incomplete);
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Splits concatenated certificates, up to the first bytes that are not a certificate.
fn split_certificates(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(length) = der_length(bytes).filter(|_| all.len() < MAX_CHAIN_CERTIFICATES) {
        let Some((one, rest)) = bytes.split_at_checked(length) else { break };
        all.push(one.to_vec());
        bytes = rest;
    }
    all
}

/// The length of the DER SEQUENCE that begins here, which may be longer than the bytes. `None` if none of at
/// most 64 KiB begins here.
fn der_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0x30, length @ 0..=0x7F, ..] => Some(2 + usize::from(*length)),
        [0x30, 0x81, length, ..] => Some(3 + usize::from(*length)),
        [0x30, 0x82, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_certificates_are_split() {
        let row = [&[0x30, 1, 0][..], &[0x30, 2, 0, 0], &[0xFF, 0xFF]].concat();
        assert_eq!(split_certificates(&row), [vec![0x30, 1, 0], vec![0x30, 2, 0, 0]]);
        assert_eq!(split_certificates(&[0x30, 0].repeat(100)).len(), MAX_CHAIN_CERTIFICATES);
        assert!(split_certificates(&[0x30, 5, 0]).is_empty());
        assert!(split_certificates(&[]).is_empty());
    }

    #[test]
    fn a_certificate_ends_before_padding() {
        let take = |bytes: &[u8]| take_certificate(bytes.to_vec());
        assert_eq!(take(&[0x30, 1, 0, 0xFF]), Ok(vec![0x30, 1, 0]));
        assert_eq!(take(&[0x30, 0x82, 0, 1, 9, 0, 0]), Ok(vec![0x30, 0x82, 0, 1, 9]));
        assert_eq!(take(&[0x30, 0x82, 1, 0]), Err(EkCertificateFaultCause::Incomplete));
        assert_eq!(take(&[0xFF; 8]), Err(EkCertificateFaultCause::Padding));
        assert_eq!(take(&[0; 8]), Err(EkCertificateFaultCause::Padding));
        assert_eq!(take(&[1; 8]), Err(EkCertificateFaultCause::NoCertificate));
    }
}

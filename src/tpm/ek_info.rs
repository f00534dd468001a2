//! Endorsement keys and their certificates, as the TPM's manufacturer provisioned them.

use tss_esapi::handles::NvIndexHandle;
use tss_esapi::handles::NvIndexTpmHandle;
use tss_esapi::handles::ObjectHandle;
use tss_esapi::handles::TpmHandle;
use tss_esapi::interface_types::resource_handles::NvAuth;

use super::connection::TpmConnection;
use super::error::Error;
use super::error::FaultClass;
use super::error::command_failed;
use super::error::is_unknown_handle;
use super::objects::write_public;
use super::templates;

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

/// Bytes for each NV read and write: no TPM has a smaller NV_BUFFER_MAX.
pub(super) const NV_CHUNK_SIZE: usize = 512;

/// An endorsement key with its certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndorsementKey {
    /// TPM2B_PUBLIC.
    pub public: Vec<u8>,
    /// The certificate in DER, if the TPM has one.
    pub certificate: Option<Vec<u8>>,
}

/// The endorsement keys of a TPM, with the certificates of its manufacturer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EkInfo {
    /// ECC P-256, template L-2; the host's id is derived from its Name.
    pub p256: EndorsementKey,
    /// RSA-2048, template L-1; only if the TPM has a certificate for it.
    pub rsa: Option<EndorsementKey>,
    /// Issuers' certificates, each in DER, 16 at most.
    pub chain: Vec<Vec<u8>>,
}

/// Reads the endorsement keys, and whether they are complete.
///
/// Deriving the RSA EK takes a TPM up to seconds and needs the endorsement hierarchy's authorization. If that
/// has a password, the result has the P-256 EK alone, which was derived when connecting, and is incomplete.
pub(super) fn read(connection: &mut TpmConnection) -> Result<(EkInfo, bool), Error> {
    let public = connection.identity().ek_public.clone();
    let p256 =
        EndorsementKey { public, certificate: read_certificate(connection, P256_EK_CERTIFICATE_INDEX)? };
    let (rsa, complete) = match read_certificate(connection, RSA_EK_CERTIFICATE_INDEX)? {
        None => (None, true),
        Some(certificate) => {
            let derived = connection.with_primary(templates::ek_rsa()?, |_, _, public| write_public(public));
            match derived {
                Ok(public) => (Some(EndorsementKey { public, certificate: Some(certificate) }), true),
                Err(error) if error.fault_class() == FaultClass::Authorization => (None, false),
                Err(error) => return Err(error),
            }
        }
    };
    Ok((EkInfo { p256, rsa, chain: read_chain(connection)? }, complete))
}

/// The certificate in an NV index; `None` if the index is not defined or does not hold a certificate.
pub(super) fn read_certificate(connection: &mut TpmConnection, index: u32) -> Result<Option<Vec<u8>>, Error> {
    let Some(mut certificate) = read_nv_index(connection, index)? else { return Ok(None) };
    let Some(length) = der_length(&certificate) else {
        tracing::warn!(
            event = "tpm-ek-certificate",
            "the TPM's NV index for an EK certificate does not hold a certificate; ignored"
        );
        return Ok(None);
    };
    certificate.truncate(length);
    Ok(Some(certificate))
}

/// Reads the issuers' certificates. One may span two indices, so all indices are read before the bytes are
/// split.
fn read_chain(connection: &mut TpmConnection) -> Result<Vec<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    for index in connection.nv_indices(*EK_CHAIN_INDICES.start())? {
        if EK_CHAIN_INDICES.contains(&index) && bytes.len() < MAX_CHAIN_BYTES {
            bytes.extend(read_nv_index(connection, index)?.unwrap_or_default());
        }
    }
    Ok(split_certificates(&bytes))
}

/// Splits concatenated certificates, up to the first bytes that are not a certificate.
fn split_certificates(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(length) = der_length(bytes).filter(|_| all.len() < MAX_CHAIN_CERTIFICATES) {
        let (one, rest) = bytes.split_at(length);
        all.push(one.to_vec());
        bytes = rest;
    }
    all
}

fn read_nv_index(connection: &mut TpmConnection, index: u32) -> Result<Option<Vec<u8>>, Error> {
    let index = NvIndexTpmHandle::new(index).map_err(command_failed("reading the EK certificate"))?;
    let opened =
        connection.run("TPM2_NV_ReadPublic", |context| context.tr_from_tpm_public(TpmHandle::from(index)));
    let object = match opened {
        Err(error) if is_unknown_handle(&error) => return Ok(None),
        outcome => outcome?,
    };
    let outcome = read_opened_index(connection, object.into());
    let closed = connection.run_without_session("closing an NV index", |context| {
        context.tr_close(&mut ObjectHandle::clone(&object))
    });
    let bytes = outcome?;
    closed?;
    Ok(Some(bytes))
}

fn read_opened_index(connection: &mut TpmConnection, index: NvIndexHandle) -> Result<Vec<u8>, Error> {
    let (public, _) = connection.run("TPM2_NV_ReadPublic", |context| context.nv_read_public(index))?;
    let size = public.data_size();
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let (offset, length) = (bytes.len() as u16, NV_CHUNK_SIZE.min(size - bytes.len()) as u16);
        let chunk = connection
            .run("TPM2_NV_Read", |context| context.nv_read(NvAuth::NvIndex(index), index, length, offset))?;
        bytes.extend_from_slice(chunk.value());
        if chunk.value().is_empty() {
            break;
        }
    }
    Ok(bytes)
}

/// The length of the DER SEQUENCE at the start of the bytes; an NV index is often larger than its content.
fn der_length(bytes: &[u8]) -> Option<usize> {
    let (header, content) = match bytes {
        [0x30, length @ 0..=0x7F, ..] => (2, usize::from(*length)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return None,
    };
    (header + content <= bytes.len()).then_some(header + content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_certificates_are_split() {
        let row = [&[0x30, 1, 0][..], &[0x30, 2, 0, 0], &[0xFF, 0xFF]].concat();
        assert_eq!(split_certificates(&row), [vec![0x30, 1, 0], vec![0x30, 2, 0, 0]]);
        assert_eq!(split_certificates(&[0x30, 0].repeat(100)).len(), MAX_CHAIN_CERTIFICATES);
        assert!(split_certificates(&[]).is_empty());
    }

    #[test]
    fn der_length_excludes_padding() {
        assert_eq!(der_length(&[0x30, 1, 0, 0xFF]), Some(3));
        assert_eq!(der_length(&[0x30, 0x82, 0, 1, 9, 0, 0]), Some(5));
        assert_eq!(der_length(&[0x30, 0x82, 1, 0]), None);
        assert_eq!(der_length(&[0xFF; 8]), None);
        assert_eq!(der_length(&[]), None);
    }
}

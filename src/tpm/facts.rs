//! What kind of TPM this is and which host it makes.

use data_encoding::BASE32_NOPAD;
use data_encoding::HEXLOWER;
use ring::digest;
use tss_esapi::handles::NvIndexHandle;
use tss_esapi::handles::NvIndexTpmHandle;
use tss_esapi::handles::ObjectHandle;
use tss_esapi::handles::TpmHandle;
use tss_esapi::interface_types::resource_handles::NvAuth;

use super::connection::Connection;
use super::error::Error;
use super::error::no_such_handle;
use super::error::tpm;
use super::objects::Objects;

/// What the TPM says about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// The host's id: the first 128 bits of SHA-256 over the EK's Name in lower-case base32, 26 characters.
    pub host_id: String,
    /// In hexadecimal.
    pub ek_name: String,
    /// In hexadecimal.
    pub srk_name: String,
    /// Such as `IFX`, `STM`, `IBM` (TCG TPM Vendor ID Registry).
    pub manufacturer: String,
    /// The vendor's own text.
    pub vendor: String,
    /// The firmware's version as four numbers, such as `7.85.4555.0`.
    pub firmware: String,
    /// Whether this TPM is a program.
    pub software: bool,
    /// The certificate of the ECC P-256 EK (DER) from the TPM, where it has one.
    pub ek_certificate: Option<Vec<u8>>,
    /// The AK's Name in hexadecimal, as long as the host key is known.
    pub ak_name: Option<String>,
    /// The host key as an uncompressed P-256 point, once provisioned and while this is the TPM that has it.
    pub host_key: Option<[u8; 65]>,
}

/// Reads the facts; `objects` are those that this TPM serves.
pub(super) fn read(connection: &mut Connection, objects: Option<&Objects>) -> Result<Facts, Error> {
    let properties = connection.properties(PT_MANUFACTURER, 8)?;
    let property = |tag| properties.iter().find(|(found, _)| *found == tag).map_or(0, |(_, value)| *value);
    let manufacturer = text([property(PT_MANUFACTURER)]);
    let vendor = text([1, 2, 3, 4].map(|part| property(PT_MANUFACTURER + part)));
    let firmware = [property(PT_FIRMWARE_1), property(PT_FIRMWARE_2)];
    let firmware = firmware.map(|half| format!("{}.{}", half >> 16, half & 0xFFFF)).join(".");
    let ek_certificate = ek_certificate(connection)?;
    let identity = connection.identity();
    Ok(Facts {
        host_id: host_id(&identity.ek_name),
        ek_name: HEXLOWER.encode(&identity.ek_name),
        srk_name: HEXLOWER.encode(&identity.srk_name),
        software: connection.is_emulator() || is_program(&manufacturer, &vendor),
        manufacturer,
        vendor,
        firmware,
        ek_certificate,
        ak_name: objects.map(Objects::ak_name).transpose()?.map(|name| HEXLOWER.encode(&name)),
        host_key: objects.map(Objects::host_key_point).transpose()?,
    })
}

/// TPM 2.0 Part 2, section 6.13 (TPM_PT)
const PT_MANUFACTURER: u32 = 0x105;
const PT_FIRMWARE_1: u32 = 0x10B;
const PT_FIRMWARE_2: u32 = 0x10C;

/// A host's id from its EK's Name.
pub(super) fn host_id(ek_name: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, ek_name);
    BASE32_NOPAD.encode(&digest.as_ref()[..16]).to_ascii_lowercase()
}

/// libtpms, which is behind swtpm and every virtual machine's TPM of QEMU, says so in its vendor text.
fn is_program(manufacturer: &str, vendor: &str) -> bool {
    manufacturer == "IBM" && vendor.starts_with("SW")
}

/// Properties that hold four characters each; what is not printable is left out.
fn text<const N: usize>(values: [u32; N]) -> String {
    let characters = values.iter().flat_map(|value| value.to_be_bytes()).map(char::from);
    let printable: String = characters.filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    printable.trim().to_owned()
}

/// The certificate of the ECC P-256 EK (EK Credential Profile, section 2.2.1.4: low range).
fn ek_certificate(connection: &mut Connection) -> Result<Option<Vec<u8>>, Error> {
    let index = NvIndexTpmHandle::new(EK_CERTIFICATE_INDEX).map_err(tpm("reading the EK certificate"))?;
    let opened =
        connection.run("TPM2_NV_ReadPublic", |context| context.tr_from_tpm_public(TpmHandle::from(index)));
    let object = match opened {
        Err(error) if no_such_handle(&error) => return Ok(None),
        outcome => outcome?,
    };
    let outcome = read_index(connection, object.into());
    let closed = connection
        .run_bare("closing an NV index", |context| context.tr_close(&mut ObjectHandle::clone(&object)));
    let mut certificate = outcome?;
    closed?;
    let Some(length) = der_length(&certificate) else {
        tracing::warn!(
            event = "tpm-ek-certificate",
            "what the TPM holds as its EK certificate is none; ignored"
        );
        return Ok(None);
    };
    certificate.truncate(length);
    Ok(Some(certificate))
}

pub(super) const EK_CERTIFICATE_INDEX: u32 = 0x01C0_000A;

/// No TPM reads more than its NV_BUFFER_MAX at once, and none has less than this.
pub(super) const NV_CHUNK: usize = 512;

fn read_index(connection: &mut Connection, index: NvIndexHandle) -> Result<Vec<u8>, Error> {
    let (public, _) = connection.run("TPM2_NV_ReadPublic", |context| context.nv_read_public(index))?;
    let size = public.data_size();
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let (offset, want) = (bytes.len() as u16, NV_CHUNK.min(size - bytes.len()) as u16);
        let chunk = connection
            .run("TPM2_NV_Read", |context| context.nv_read(NvAuth::NvIndex(index), index, want, offset))?;
        bytes.extend_from_slice(chunk.value());
        if chunk.value().is_empty() {
            break;
        }
    }
    Ok(bytes)
}

/// The length of the DER SEQUENCE that the bytes begin with; an NV index is often larger than what it holds.
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
    fn a_host_id_has_26_characters() {
        // From Python's hashlib and base64.
        assert_eq!(host_id(&[0; 34]), "5mkcwdfobovhfj3h5paiepi35e");
    }

    #[test]
    fn texts_lose_their_padding() {
        assert_eq!(text([0x4942_4D00]), "IBM");
        assert_eq!(text([0x5357_2020, 0x2054_504D]), "SW   TPM");
        assert!(is_program("IBM", "SW   TPM"));
        assert!(!is_program("IFX", "SLB9670"));
    }

    #[test]
    fn padding_after_a_certificate_is_cut() {
        assert_eq!(der_length(&[0x30, 1, 0, 0xFF]), Some(3));
        assert_eq!(der_length(&[0x30, 0x82, 0, 1, 9, 0, 0]), Some(5));
        assert_eq!(der_length(&[0x30, 0x82, 1, 0]), None);
        assert_eq!(der_length(&[0xFF; 8]), None);
        assert_eq!(der_length(&[]), None);
    }
}

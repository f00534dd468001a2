//! Facts about the TPM: manufacturer, firmware, and the host id derived from its EK.

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use ring::digest;

use super::connection::TpmConnection;
use super::ek_certificate::EkCertificateFault;
use super::ek_info::EkCache;
use super::error::Error;
use super::objects::TpmObjects;

/// Facts about the TPM, read once for each connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TpmInfo {
    /// The host's id: the first 128 bits of SHA-256 over the EK's Name in lower-case base32, 26 characters.
    pub host_id: String,
    /// The Name of the ECC P-256 EK in hexadecimal.
    pub ek_name: String,
    /// The Name of the SRK in hexadecimal.
    pub srk_name: String,
    /// Manufacturer id such as `IFX`, `STM`, `IBM` (TCG TPM Vendor ID Registry).
    pub manufacturer: String,
    /// The vendor string, 16 characters at most.
    pub vendor: String,
    /// The firmware version as four numbers, such as `7.85.4555.0`.
    pub firmware: String,
    /// Whether this is a software TPM: an emulator, or a virtual machine's TPM by libtpms.
    pub software: bool,
    /// The certificate of the ECC P-256 EK in DER, if the TPM has one.
    pub ek_certificate: Option<Vec<u8>>,
    /// Why the NV index for that certificate does not give one, if the TPM has the index.
    pub ek_certificate_fault: Option<EkCertificateFault>,
    /// The AK's Name in hexadecimal, if provisioned and this is the TPM that has the AK.
    pub ak_name: Option<String>,
    /// The host key as an uncompressed P-256 point, if provisioned and this is the TPM that has it.
    pub host_key: Option<[u8; 65]>,
}

/// Reads the facts; `objects` are the host's, if they are this TPM's.
pub(super) fn read(
    connection: &mut TpmConnection,
    ek_cache: &mut EkCache,
    objects: Option<&TpmObjects>,
) -> Result<TpmInfo, Error> {
    let properties = connection.properties(PT_MANUFACTURER, 8)?;
    let property = |tag| properties.iter().find(|(id, _)| *id == tag).map_or(0, |(_, value)| *value);
    let manufacturer = property_text([property(PT_MANUFACTURER)]);
    let vendor = property_text([1, 2, 3, 4].map(|part| property(PT_MANUFACTURER + part)));
    let firmware = [property(PT_FIRMWARE_1), property(PT_FIRMWARE_2)];
    let firmware = firmware.map(|half| format!("{}.{}", half >> 16, half & 0xFFFF)).join(".");
    let (ek_certificate, ek_certificate_fault) = match ek_cache.p256_certificate(connection)? {
        Ok(certificate) => (certificate, None),
        Err(fault) => (None, Some(fault)),
    };
    let identity = connection.identity();
    Ok(TpmInfo {
        host_id: host_id(&identity.ek_name),
        ek_name: HEXLOWER.encode(&identity.ek_name),
        srk_name: HEXLOWER.encode(&identity.srk_name),
        software: connection.is_emulator() || is_software_tpm(&manufacturer, &vendor),
        manufacturer,
        vendor,
        firmware,
        ek_certificate,
        ek_certificate_fault,
        ak_name: objects.map(TpmObjects::ak_name).transpose()?.map(|name| HEXLOWER.encode(&name)),
        host_key: objects.map(TpmObjects::host_key_point).transpose()?,
    })
}

/// TPM 2.0 Part 2, section 6.13 (TPM_PT)
const PT_MANUFACTURER: u32 = 0x105;
const PT_FIRMWARE_1: u32 = 0x10B;
const PT_FIRMWARE_2: u32 = 0x10C;

/// The id of a host from its EK's Name.
pub(super) fn host_id(ek_name: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, ek_name);
    BASE32_NOPAD.encode(&digest.as_ref()[..16]).to_ascii_lowercase()
}

/// Whether this is libtpms, which swtpm and QEMU's TPM devices use, by its vendor string.
fn is_software_tpm(manufacturer: &str, vendor: &str) -> bool {
    manufacturer == "IBM" && vendor.starts_with("SW")
}

/// The text in properties of four characters each, without unprintable characters.
fn property_text<const N: usize>(values: [u32; N]) -> String {
    let characters = values.iter().flat_map(|value| value.to_be_bytes()).map(char::from);
    let printable: String = characters.filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    printable.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_id_has_26_characters() {
        // From Python's hashlib and base64.
        assert_eq!(host_id(&[0; 34]), "5mkcwdfobovhfj3h5paiepi35e");
    }

    #[test]
    fn property_text_is_trimmed() {
        assert_eq!(property_text([0x4942_4D00]), "IBM");
        assert_eq!(property_text([0x5357_2020, 0x2054_504D]), "SW   TPM");
        assert!(is_software_tpm("IBM", "SW   TPM"));
        assert!(!is_software_tpm("IFX", "SLB9670"));
    }
}

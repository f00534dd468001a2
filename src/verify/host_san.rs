//! The subjectAltName of a host certificate: SPIFFE ID, TPM and attestation key.

use data_encoding::HEXLOWER;
use der::asn1::{Any, OctetString, Utf8StringRef};
use der::oid::ObjectIdentifier;
use der::oid::db::tcgtpm;
use der::{EncodeValue, Sequence};
use ring::digest::{SHA256, digest};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::{GeneralName, HardwareModuleName, OtherName};

use super::x509::uri_name;

/// id-on-permanentIdentifier (RFC 4043, section 2).
const ID_ON_PERMANENT_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.3");
/// tcg-on-ekPermIdSha256, of the TCG.
const TCG_ON_EK_PERM_ID_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.12.1");

/// What a host certificate names: the host's SPIFFE ID, its TPM and its attestation key.
#[derive(Clone, Debug)]
pub struct HostSan<'a> {
    /// The trust domain of the host, without `spiffe://`.
    pub trust_domain: &'a str,
    /// The host's id: 26 characters of lower-case base32.
    pub host: &'a str,
    /// The Name of the P-256 EK.
    pub ek_name: &'a [u8],
    /// The certificates of the TPM's EKs, DER.
    pub ek_certificates: Vec<&'a [u8]>,
    /// The Name of the AK.
    pub ak_name: &'a [u8],
}

impl HostSan<'_> {
    /// The extension, as TCG's "TPM 2.0 Keys for Device Identity and Attestation" lays it out: a hardwareModuleName
    /// (RFC 4108) of type tcg-tpm20, whose serial number is the digest in the EK's Name, and a permanentIdentifier
    /// (RFC 4043) with the SHA-256 of each EK certificate, assigned by tcg-on-ekPermIdSha256. The AK's Name is one more
    /// permanentIdentifier. It has no assigner: RFC 4043 leaves its meaning to the issuer and its relying parties.
    ///
    /// # Errors
    ///
    /// If `trust_domain` or `host` is not ASCII.
    pub fn to_subject_alt_name(&self) -> der::Result<SubjectAltName> {
        let digest_in_name = &self.ek_name[self.ek_name.len().saturating_sub(32)..];
        let tpm = HardwareModuleName {
            hw_type: tcgtpm::TCG_SV_TPM_20,
            hw_serial_num: OctetString::new(digest_in_name)?,
        };
        let mut names = vec![
            uri_name(&format!("spiffe://{}/host/{}", self.trust_domain, self.host))?,
            GeneralName::OtherName(OtherName::try_from(&tpm)?),
        ];
        for certificate in &self.ek_certificates {
            names.push(ek_certificate_identifier(certificate)?);
        }
        names.push(ak_identifier(self.ak_name)?);
        Ok(SubjectAltName(names))
    }
}

/// The permanentIdentifier of an AK's Name.
pub(super) fn ak_identifier(ak_name: &[u8]) -> der::Result<GeneralName> {
    permanent_identifier(&HEXLOWER.encode(ak_name), None)
}

/// The permanentIdentifier of an EK certificate (DER).
pub(super) fn ek_certificate_identifier(certificate: &[u8]) -> der::Result<GeneralName> {
    let digest = HEXLOWER.encode(digest(&SHA256, certificate).as_ref());
    permanent_identifier(&digest, Some(TCG_ON_EK_PERM_ID_SHA256))
}

fn permanent_identifier(value: &str, assigner: Option<ObjectIdentifier>) -> der::Result<GeneralName> {
    let identifier = PermanentIdentifier { identifier_value: Utf8StringRef::new(value)?, assigner };
    Ok(GeneralName::OtherName(OtherName {
        type_id: ID_ON_PERMANENT_IDENTIFIER,
        value: Any::encode_from(&identifier)?,
    }))
}

/// PermanentIdentifier (RFC 4043, section 2).
#[derive(EncodeValue)]
struct PermanentIdentifier<'a> {
    identifier_value: Utf8StringRef<'a>,
    assigner: Option<ObjectIdentifier>,
}

impl Sequence<'_> for PermanentIdentifier<'_> {}

#[cfg(test)]
mod tests {
    use der::Encode;

    use super::super::x509::tests::{HOST, golden};
    use super::*;

    #[test]
    fn subject_alt_name_keeps_its_bytes() {
        let san = HostSan {
            trust_domain: "example.org",
            host: HOST,
            ek_name: &[7; 34],
            ek_certificates: vec![b"an EK certificate", b"another one"],
            ak_name: &[8; 34],
        };
        assert_eq!(san.to_subject_alt_name().unwrap().to_der().unwrap(), golden("san"));
    }
}

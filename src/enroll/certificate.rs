//! A host's certificates and its certificate signing request (RFC 5280, RFC 2986).

use der::Encode;
use der::asn1::SetOfVec;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_cert::attr::Attribute;
use x509_cert::ext::ToExtension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::name::Name;
use x509_cert::request::{CertReqInfo, ExtensionReq, Version};

use super::error::{CsrMismatch, Error, OrganizationCaError};
use super::organization_ca::OrganizationCa;
use crate::clock::Timestamp;
use crate::verify::HostSan;
use crate::verify::x509::{
    CertificateFields, CertificateProfile, assemble_p256_signed, assemble_signed, common_name,
    ecdsa_with_sha256, key_id, organization_and_common_name, p256_spki, split_signed, uri_name,
};

/// Certificates are valid from this many seconds before they were issued, because clocks differ.
const BACKDATE_SECS: u64 = 300;

/// What an organization certifies of a host.
#[derive(Debug)]
pub struct CertificateTemplate<'a> {
    /// The names in the host's certificate.
    pub san: HostSan<'a>,
    /// The host key: an uncompressed P-256 point.
    pub host_key: &'a [u8; 65],
    /// The time of issue.
    pub now: Timestamp,
    /// Lifetime in days; it ends no later than the CA's own certificate.
    pub days: u32,
    /// 16 random bytes, of which 126 bits become the serial number.
    pub serial: [u8; 16],
}

impl CertificateTemplate<'_> {
    /// The host's certificate, DER. It is an end entity's: it does not let the host sign certificates.
    ///
    /// # Errors
    ///
    /// If the CA has expired, `days` is 0, or signing fails.
    pub fn issue_host_certificate(&self, ca: &OrganizationCa) -> Result<Vec<u8>, Error> {
        let (subject, alt_names) = (common_name(self.san.host)?, self.san.to_subject_alt_name()?);
        self.issue(ca, CertificateProfile::EndEntity, &subject, &alt_names)
    }

    /// The certificate that makes the host key a CA of the host's trust domain with path length 1, DER.
    ///
    /// # Errors
    ///
    /// If the CA may not have two CAs below it, has expired, `days` is 0, or signing fails.
    pub fn issue_signing_certificate(&self, ca: &OrganizationCa) -> Result<Vec<u8>, Error> {
        ca.check_can_certify_ca()?;
        let alt_names = SubjectAltName(vec![uri_name(&format!("spiffe://{}", self.san.trust_domain))?]);
        let profile = CertificateProfile::Ca { path_length: 1 };
        self.issue(ca, profile, &host_ca_name(self.san.host)?, &alt_names)
    }

    fn issue(
        &self,
        ca: &OrganizationCa,
        profile: CertificateProfile,
        subject: &Name,
        alt_names: &SubjectAltName,
    ) -> Result<Vec<u8>, Error> {
        let not_after = self.now.as_secs() + u64::from(self.days) * 24 * 3600;
        // A certificate that outlives its issuer's does not verify, although its own dates are good.
        let not_after = Timestamp::from_secs(not_after.min(ca.not_after().as_secs()));
        if not_after <= self.now {
            return Err(OrganizationCaError::Expired.into());
        }
        let mut serial = self.serial;
        // Positive, and always 16 bytes long.
        serial[0] = serial[0] & 0x7F | 0x40;
        let fields = CertificateFields {
            profile,
            serial,
            algorithm: ca.signature_algorithm(),
            issuer: ca.subject(),
            issuer_key_id: ca.key_id(),
            not_before: Timestamp::from_secs(self.now.as_secs().saturating_sub(BACKDATE_SECS)),
            not_after,
            subject,
            public_key: &p256_spki(self.host_key)?,
            key_id: key_id(self.host_key),
            alt_names,
        };
        let tbs = fields.to_tbs_der()?;
        Ok(assemble_signed(&tbs, ca.signature_algorithm(), &ca.sign(&tbs)?)?)
    }
}

/// The CertificationRequestInfo (DER) of a host: what the host key signs to request a certificate.
///
/// # Errors
///
/// If a name in `san` cannot be encoded.
pub(crate) fn csr_info(san: &HostSan<'_>, host_key: &[u8; 65]) -> Result<Vec<u8>, Error> {
    let subject = common_name(san.host)?;
    let extension = san.to_subject_alt_name()?.to_extension(&subject, &[])?;
    let extension_request = Attribute::try_from(ExtensionReq(vec![extension]))?;
    let info = CertReqInfo {
        version: Version::V1,
        subject,
        public_key: p256_spki(host_key)?,
        attributes: SetOfVec::try_from(vec![extension_request])?,
    };
    Ok(info.to_der()?)
}

/// The CSR (DER) of a CertificationRequestInfo and its signature: r and s, 32 bytes each.
///
/// # Errors
///
/// If `info` is not DER.
pub(crate) fn build_csr(info: &[u8], signature: &[u8; 64]) -> Result<Vec<u8>, Error> {
    Ok(assemble_p256_signed(info, signature)?)
}

/// Checks that a CSR has exactly this CertificationRequestInfo, and that the host key signed it.
pub(super) fn check_csr(csr: &[u8], info: &[u8], host_key: &[u8; 65]) -> Result<(), CsrMismatch> {
    let (content, algorithm, signature) = split_signed(csr).map_err(|_| CsrMismatch::Content)?;
    let signature = signature.as_bytes().ok_or(CsrMismatch::Content)?;
    if content != info || algorithm != ecdsa_with_sha256() {
        return Err(CsrMismatch::Content);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, host_key)
        .verify(info, signature)
        .map_err(|_| CsrMismatch::Signature)
}

/// The subject of a host as a CA, in its self-signed root and in its organization's certificate alike: a
/// chain from what it signs leads to both.
///
/// # Errors
///
/// If the name cannot be encoded.
pub(crate) fn host_ca_name(host: &str) -> der::Result<Name> {
    organization_and_common_name("hostbadge", &format!("{host} host CA"))
}

#[cfg(test)]
mod tests {
    use der::oid::db::rfc5912;
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    };

    use super::super::pem::pem;
    use super::*;
    use crate::verify::x509::tests::{HOST, POINT, golden};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn san() -> HostSan<'static> {
        HostSan {
            trust_domain: "example.org",
            host: HOST,
            ek_name: &[7; 34],
            ek_certificates: vec![b"an EK certificate", b"another one"],
            ak_name: &[8; 34],
        }
    }

    /// O=Example,CN=Test root, of a new key.
    fn organization_ca() -> OrganizationCa {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let name = organization_and_common_name("Example", "Test root").unwrap();
        let fields = CertificateFields {
            profile: CertificateProfile::Ca { path_length: 2 },
            serial: [1; 16],
            algorithm: &ecdsa_with_sha256(),
            issuer: &name,
            issuer_key_id: None,
            not_before: NOW,
            not_after: Timestamp::from_secs(NOW.as_secs() + 366 * 24 * 3600),
            subject: &name,
            public_key: &p256_spki(key.public_key().as_ref().try_into().unwrap()).unwrap(),
            key_id: [0xAB; 20],
            alt_names: &SubjectAltName(vec![uri_name("https://example.org").unwrap()]),
        };
        let tbs = fields.to_tbs_der().unwrap();
        let signature = key.sign(&random, &tbs).unwrap();
        let certificate = assemble_signed(&tbs, &ecdsa_with_sha256(), signature.as_ref()).unwrap();
        let certificate = pem("CERTIFICATE", &certificate).unwrap();
        let key = pem("PRIVATE KEY", pkcs8.as_ref()).unwrap();
        OrganizationCa::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap()
    }

    #[test]
    fn certificates_of_an_organization_keep_their_bytes() {
        let ca = organization_ca();
        let template =
            CertificateTemplate { san: san(), host_key: &POINT, now: NOW, days: 30, serial: [0xF1; 16] };
        let host = template.issue_host_certificate(&ca).unwrap();
        let (content, algorithm, _) = split_signed(&host).unwrap();
        assert_eq!((content, algorithm.oid), (&golden("host")[..], rfc5912::ECDSA_WITH_SHA_256));
        let signing = template.issue_signing_certificate(&ca).unwrap();
        assert_eq!(split_signed(&signing).unwrap().0, golden("signing"));
        // The certificate expires with its issuer's.
        let template = CertificateTemplate { days: 3650, ..template };
        let long = template.issue_host_certificate(&ca).unwrap();
        let long = crate::verify::HostCertificate::from_der(vec![long]).unwrap();
        assert_eq!(long.not_after(), ca.not_after());
    }

    #[test]
    fn csrs_keep_their_bytes() {
        let mut signature = [0x7F; 64];
        (signature[0], signature[32]) = (0, 0x80);
        let info = csr_info(&san(), &POINT).unwrap();
        assert_eq!(info, golden("csr-info"));
        assert_eq!(build_csr(&info, &signature).unwrap(), golden("csr"));
    }

    #[test]
    fn csr_is_accepted_only_with_the_expected_content_and_signature() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let point: [u8; 65] = key.public_key().as_ref().try_into().unwrap();
        let info = csr_info(&san(), &point).unwrap();
        let signature = key.sign(&random, &info).unwrap().as_ref().try_into().unwrap();
        let csr = build_csr(&info, &signature).unwrap();
        check_csr(&csr, &info, &point).unwrap();
        let other = csr_info(&HostSan { ak_name: &[9; 34], ..san() }, &point).unwrap();
        assert_eq!(check_csr(&csr, &other, &point), Err(CsrMismatch::Content));
        let forged = build_csr(&info, &[0x11; 64]).unwrap();
        assert_eq!(check_csr(&forged, &info, &point), Err(CsrMismatch::Signature));
        assert_eq!(check_csr(&[&csr[..], &[0]].concat(), &info, &point), Err(CsrMismatch::Content));
        assert_eq!(check_csr(&csr[1..], &info, &point), Err(CsrMismatch::Content));
    }
}

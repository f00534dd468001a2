//! Certificates: those of TPM makers for endorsement keys, and an organisation's for its hosts.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, anchor_from_trusted_cert,
};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::ek::Ek;
use super::{Error, der};
use crate::clock::Timestamp;

/// Larger files and directories are no trusted certificates.
const MAX_CERTIFICATE_FILE_SIZE: u64 = 1024 * 1024;
const MAX_CERTIFICATES: usize = 2000;
/// A certificate and those that lead from it to a root.
pub const MAX_CHAIN_LEN: usize = 16;
pub const MAX_CERTIFICATE_SIZE: usize = 16 * 1024;

/// tcg-kp-EKCertificate, 2.23.133.8.1: what an EK's certificate is for, where it says so.
const TCG_KP_EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

/// Whatever else an organisation lets its hosts' certificates be used for.
struct AnyExtendedKeyUsage;

impl ExtendedKeyUsageValidator for AnyExtendedKeyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Certificates that are believed, and others that lead to them.
#[derive(Debug, Default)]
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads a directory of PEM and DER files: `.pem`, `.crt`, `.cer` and `.der`. Those that are their own issuers are
    /// believed, the others help to reach them.
    pub fn read_dir(dir: &Path) -> Result<Roots, Error> {
        let failed = |e: std::io::Error| Error::Certificate(format!("{}: {e}", dir.display()));
        let mut files = Vec::new();
        for item in std::fs::read_dir(dir).map_err(failed)? {
            let path = item.map_err(failed)?.path();
            let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
            if ending.is_some_and(|ending| ["pem", "crt", "cer", "der"].iter().any(|known| ending == *known))
            {
                files.push(path);
            }
        }
        files.sort();
        let mut roots = Roots::default();
        for path in &files {
            for certificate in read_certificates(path)? {
                let fault = |why: &dyn std::fmt::Display| file_error(path, why);
                let parsed = parse(&certificate).map_err(|e| fault(&e))?;
                match parsed.tbs_certificate().issuer() == parsed.tbs_certificate().subject() {
                    true => roots.add_anchor(&certificate).map_err(|e| fault(&e))?,
                    false => roots.intermediates.push(certificate),
                }
                if roots.anchors.len() + roots.intermediates.len() > MAX_CERTIFICATES {
                    return Err(file_error(dir, &format!("more than {MAX_CERTIFICATES} certificates")));
                }
            }
        }
        match roots.anchors.is_empty() {
            true => Err(file_error(dir, &"there is no root certificate in .pem, .crt, .cer or .der files")),
            false => Ok(roots),
        }
    }

    /// Reads one file, all of whose certificates are believed.
    pub fn read_file(path: &Path) -> Result<Roots, Error> {
        let mut roots = Roots::default();
        for certificate in read_certificates(path)? {
            roots.add_anchor(&certificate).map_err(|e| file_error(path, &e))?;
        }
        Ok(roots)
    }

    fn add_anchor(&mut self, certificate: &CertificateDer<'_>) -> Result<(), webpki::Error> {
        self.anchors.push(anchor_from_trusted_cert(certificate)?.to_owned());
        Ok(())
    }

    /// Whether the EK's certificate is for this key and leads to a root. Says whose it is.
    pub fn verify_ek(
        &self,
        ek: &Ek,
        certificate: &[u8],
        chain: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<String, String> {
        let parsed = parse(certificate).map_err(|e| e.to_string())?;
        check_certificate_key(&parsed, ek)?;
        self.verify_path(certificate, chain, KeyUsage::required_if_present(TCG_KP_EK_CERTIFICATE), now)?;
        Ok(parsed.tbs_certificate().issuer().to_string())
    }

    fn verify_path(
        &self,
        certificate: &[u8],
        chain: &[Vec<u8>],
        purpose: impl ExtendedKeyUsageValidator,
        now: Timestamp,
    ) -> Result<(), String> {
        let certificate = CertificateDer::from(certificate);
        let leaf = EndEntityCert::try_from(&certificate).map_err(|e| format!("the certificate: {e}"))?;
        let presented = chain.iter().take(MAX_CHAIN_LEN).map(|der| CertificateDer::from(der.as_slice()));
        let intermediates: Vec<CertificateDer<'_>> =
            presented.chain(self.intermediates.iter().cloned()).collect();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs()));
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &self.anchors, &intermediates, now, purpose, None, None)
            .map(drop)
            .map_err(|e| format!("the certificate does not lead to a root that is believed: {e}"))
    }
}

/// Whether a certificate is for this endorsement key.
pub fn check_certificate_is_for_ek(certificate: &[u8], ek: &Ek) -> Result<(), String> {
    check_certificate_key(&parse(certificate).map_err(|e| e.to_string())?, ek)
}

fn check_certificate_key(certificate: &Certificate, ek: &Ek) -> Result<(), String> {
    let key = &certificate.tbs_certificate().subject_public_key_info().subject_public_key;
    match key.as_bytes() == Some(&ek.subject_public_key()) {
        true => Ok(()),
        false => Err("the certificate is for another key".into()),
    }
}

/// A certificate that an organisation gave a host's key, with those that lead to its root.
#[derive(Clone, Debug)]
pub struct HostCertificate {
    chain: Vec<Vec<u8>>,
    leaf: Certificate,
}

impl HostCertificate {
    /// From PEM, the host's own certificate first.
    pub fn from_pem(text: &[u8]) -> Result<HostCertificate, Error> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).take(MAX_CHAIN_LEN + 1).collect();
        let chain = chain.map_err(|e| Error::Certificate(format!("this is no PEM of certificates: {e}")))?;
        HostCertificate::from_der(chain.iter().map(|one| one.to_vec()).collect())
    }

    /// From DER each, the host's own certificate first.
    pub fn from_der(chain: Vec<Vec<u8>>) -> Result<HostCertificate, Error> {
        if chain.len() > MAX_CHAIN_LEN {
            return Err(Error::Certificate(format!("more than {MAX_CHAIN_LEN} certificates")));
        }
        let mut read = chain.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
        if read.is_empty() {
            return Err(Error::Certificate("there is no certificate in it".into()));
        }
        Ok(HostCertificate { leaf: read.swap_remove(0), chain })
    }

    /// DER each, the host's own first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    pub fn subject(&self) -> String {
        self.leaf.tbs_certificate().subject().to_string()
    }

    pub fn issuer(&self) -> String {
        self.leaf.tbs_certificate().issuer().to_string()
    }

    pub fn not_before(&self) -> Timestamp {
        Timestamp::from_secs(self.leaf.tbs_certificate().validity().not_before.to_unix_duration().as_secs())
    }

    pub fn not_after(&self) -> Timestamp {
        Timestamp::from_secs(self.leaf.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
    }

    /// Whether it is for this P-256 key.
    pub fn is_for_key(&self, point: &[u8; 65]) -> bool {
        let spki = self.leaf.tbs_certificate().subject_public_key_info().to_der();
        spki.is_ok_and(|info| info == der::p256_spki(point))
    }

    /// Whether it leads to a certificate that is believed, at this time.
    pub fn verify_path(&self, roots: &Roots, now: Timestamp) -> Result<(), String> {
        roots.verify_path(&self.chain[0], &self.chain[1..], AnyExtendedKeyUsage, now)
    }

    /// Whether it says that the host's attestation key is the one of this Name.
    pub fn san_contains_ak(&self, ak_name: &[u8]) -> bool {
        self.has_general_name(&HostSan::permanent_identifier(&HEXLOWER.encode(ak_name), None))
    }

    /// Whether it says that the TPM is the one with this EK certificate.
    pub fn san_contains_ek_certificate(&self, certificate: &[u8]) -> bool {
        self.has_general_name(&HostSan::ek_certificate_identifier(certificate))
    }

    /// Whether it is for the host of this id, in whichever trust domain.
    pub fn san_contains_host(&self, host: &str) -> bool {
        let suffix = format!("/host/{host}");
        self.general_names().iter().any(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => uri
                .as_str()
                .strip_prefix("spiffe://")
                .and_then(|rest| rest.strip_suffix(&suffix))
                .is_some_and(|domain| !domain.is_empty() && !domain.contains('/')),
            _ => false,
        })
    }

    fn has_general_name(&self, der: &[u8]) -> bool {
        self.general_names().iter().any(|name| name.to_der().is_ok_and(|name| name == der))
    }

    fn general_names(&self) -> Vec<GeneralName> {
        let names = self.leaf.tbs_certificate().get_extension::<SubjectAltName>();
        names.ok().flatten().map(|(_, names)| names.0).unwrap_or_default()
    }
}

/// What a host's certificate names: the SPIFFE ID, the TPM, the attestation key.
#[derive(Clone, Debug)]
pub struct HostSan<'a> {
    pub trust_domain: &'a str,
    pub host: &'a str,
    /// Name of the P-256 EK.
    pub ek_name: &'a [u8],
    /// The certificates of the TPM's endorsement keys.
    pub ek_certificates: Vec<&'a [u8]>,
    pub ak_name: &'a [u8],
}

impl HostSan<'_> {
    /// The GeneralNames of the extension subjectAltName, as TCG's "TPM 2.0 Keys for Device Identity and Attestation"
    /// has them: hardwareModuleName (RFC 4108) of type tcg-tpm20, whose serial number is the digest in the EK's Name;
    /// permanentIdentifier (RFC 4043) with the digest of each EK certificate, assigned by it. The AK's Name is one more
    /// permanentIdentifier, with no assigner, which RFC 4043 lets mean something to the issuer and its verifiers alone.
    pub fn to_der(&self) -> Vec<u8> {
        let uri = format!("spiffe://{}/host/{}", self.trust_domain, self.host);
        let serial = der::tlv(der::OCTET_STRING, &[&self.ek_name[self.ek_name.len().saturating_sub(32)..]]);
        let hardware_module = der::sequence(&[&der::oid(TCG_TPM20), &serial]);
        let certificates: Vec<u8> =
            self.ek_certificates.iter().flat_map(|der| HostSan::ek_certificate_identifier(der)).collect();
        der::sequence(&[
            &der::tlv(0x86, &[uri.as_bytes()]),
            &other_name(HARDWARE_MODULE_NAME, &hardware_module),
            &certificates,
            &HostSan::permanent_identifier(&HEXLOWER.encode(self.ak_name), None),
        ])
    }

    fn ek_certificate_identifier(certificate: &[u8]) -> Vec<u8> {
        let digest = HEXLOWER.encode(digest(&SHA256, certificate).as_ref());
        HostSan::permanent_identifier(&digest, Some(EK_PERM_ID_SHA256))
    }

    fn permanent_identifier(value: &str, assigner: Option<&[u8]>) -> Vec<u8> {
        let assigner = assigner.map(der::oid).unwrap_or_default();
        other_name(
            PERMANENT_IDENTIFIER,
            &der::sequence(&[&der::tlv(der::UTF8_STRING, &[value.as_bytes()]), &assigner]),
        )
    }
}

/// id-on-permanentIdentifier 1.3.6.1.5.5.7.8.3, id-on-hardwareModuleName 1.3.6.1.5.5.7.8.4.
const PERMANENT_IDENTIFIER: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x03];
const HARDWARE_MODULE_NAME: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x04];
/// tcg-tpm20 2.23.133.1.2, tcg-on-ekPermIdSha256 2.23.133.12.1.
const TCG_TPM20: &[u8] = &[0x67, 0x81, 0x05, 0x01, 0x02];
const EK_PERM_ID_SHA256: &[u8] = &[0x67, 0x81, 0x05, 0x0C, 0x01];

/// An otherName.
fn other_name(type_id: &[u8], value: &[u8]) -> Vec<u8> {
    der::tlv(0xA0, &[&der::oid(type_id), &der::tlv(0xA0, &[value])])
}

/// Reads one certificate.
pub fn parse(certificate: &[u8]) -> Result<Certificate, Error> {
    if certificate.len() > MAX_CERTIFICATE_SIZE {
        return Err(Error::Certificate(format!("a certificate is larger than {MAX_CERTIFICATE_SIZE} bytes")));
    }
    Certificate::from_der(certificate).map_err(|e| Error::Certificate(format!("this is no certificate: {e}")))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_CERTIFICATE_FILE_SIZE).read_to_end(&mut bytes));
    read.map_err(|e| file_error(path, &e))?;
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).take(MAX_CERTIFICATES).collect();
    match all {
        Ok(all) if all.is_empty() => Err(file_error(path, &"there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(e) => Err(file_error(path, &e)),
    }
}

fn file_error(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Certificate(format!("{}: {reason}", path.display()))
}

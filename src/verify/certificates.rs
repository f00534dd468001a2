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
const LARGEST_FILE: u64 = 1024 * 1024;
const MOST: usize = 2000;
/// A certificate and those that lead from it to a root.
pub const LONGEST_CHAIN: usize = 16;
pub const LARGEST_CERTIFICATE: usize = 16 * 1024;

/// tcg-kp-EKCertificate, 2.23.133.8.1: what an EK's certificate is for, where it says so.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

/// Whatever else an organisation lets its hosts' certificates be used for.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Certificates that are believed, and others that lead to them.
#[derive(Debug, Default)]
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    others: Vec<CertificateDer<'static>>,
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
            for certificate in read_file(path)? {
                let fault = |why: &dyn std::fmt::Display| in_file(path, why);
                let read = parse(&certificate).map_err(|e| fault(&e))?;
                match read.tbs_certificate().issuer() == read.tbs_certificate().subject() {
                    true => roots.believe(&certificate).map_err(|e| fault(&e))?,
                    false => roots.others.push(certificate),
                }
                if roots.anchors.len() + roots.others.len() > MOST {
                    return Err(in_file(dir, &format!("more than {MOST} certificates")));
                }
            }
        }
        match roots.anchors.is_empty() {
            true => Err(in_file(dir, &"there is no root certificate in .pem, .crt, .cer or .der files")),
            false => Ok(roots),
        }
    }

    /// Reads one file, all of whose certificates are believed.
    pub fn read_file(path: &Path) -> Result<Roots, Error> {
        let mut roots = Roots::default();
        for certificate in read_file(path)? {
            roots.believe(&certificate).map_err(|e| in_file(path, &e))?;
        }
        Ok(roots)
    }

    fn believe(&mut self, certificate: &CertificateDer<'_>) -> Result<(), webpki::Error> {
        self.anchors.push(anchor_from_trusted_cert(certificate)?.to_owned());
        Ok(())
    }

    /// Whether the EK's certificate is for this key and leads to a root. Says whose it is.
    pub fn vouch(
        &self,
        ek: &Ek,
        certificate: &[u8],
        chain: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<String, String> {
        let read = parse(certificate).map_err(|e| e.to_string())?;
        is_for(&read, ek)?;
        self.reach(certificate, chain, KeyUsage::required_if_present(EK_CERTIFICATE), now)?;
        Ok(read.tbs_certificate().issuer().to_string())
    }

    fn reach(
        &self,
        certificate: &[u8],
        chain: &[Vec<u8>],
        purpose: impl ExtendedKeyUsageValidator,
        now: Timestamp,
    ) -> Result<(), String> {
        let certificate = CertificateDer::from(certificate);
        let leaf = EndEntityCert::try_from(&certificate).map_err(|e| format!("the certificate: {e}"))?;
        let given = chain.iter().take(LONGEST_CHAIN).map(|der| CertificateDer::from(der.as_slice()));
        let between: Vec<CertificateDer<'_>> = given.chain(self.others.iter().cloned()).collect();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.secs()));
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &self.anchors, &between, now, purpose, None, None)
            .map(drop)
            .map_err(|e| format!("the certificate does not lead to a root that is believed: {e}"))
    }
}

/// Whether a certificate is for this endorsement key.
pub fn is_certificate_of(certificate: &[u8], ek: &Ek) -> Result<(), String> {
    is_for(&parse(certificate).map_err(|e| e.to_string())?, ek)
}

fn is_for(certificate: &Certificate, ek: &Ek) -> Result<(), String> {
    let key = &certificate.tbs_certificate().subject_public_key_info().subject_public_key;
    match key.as_bytes() == Some(&ek.certified_form()) {
        true => Ok(()),
        false => Err("the certificate is for another key".into()),
    }
}

/// A certificate that an organisation gave a host's key, with those that lead to its root.
#[derive(Clone, Debug)]
pub struct HostCertificate {
    chain: Vec<Vec<u8>>,
    first: Certificate,
}

impl HostCertificate {
    /// From PEM, the host's own certificate first.
    pub fn from_pem(text: &[u8]) -> Result<HostCertificate, Error> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).take(LONGEST_CHAIN + 1).collect();
        let chain = chain.map_err(|e| Error::Certificate(format!("this is no PEM of certificates: {e}")))?;
        HostCertificate::from_der(chain.iter().map(|one| one.to_vec()).collect())
    }

    /// From DER each, the host's own certificate first.
    pub fn from_der(chain: Vec<Vec<u8>>) -> Result<HostCertificate, Error> {
        if chain.len() > LONGEST_CHAIN {
            return Err(Error::Certificate(format!("more than {LONGEST_CHAIN} certificates")));
        }
        let mut read = chain.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
        if read.is_empty() {
            return Err(Error::Certificate("there is no certificate in it".into()));
        }
        Ok(HostCertificate { first: read.swap_remove(0), chain })
    }

    /// DER each, the host's own first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    pub fn subject(&self) -> String {
        self.first.tbs_certificate().subject().to_string()
    }

    pub fn issuer(&self) -> String {
        self.first.tbs_certificate().issuer().to_string()
    }

    pub fn not_before(&self) -> Timestamp {
        Timestamp::from_secs(self.first.tbs_certificate().validity().not_before.to_unix_duration().as_secs())
    }

    pub fn not_after(&self) -> Timestamp {
        Timestamp::from_secs(self.first.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
    }

    /// Whether it is for this P-256 key.
    pub fn is_for(&self, point: &[u8; 65]) -> bool {
        let info = self.first.tbs_certificate().subject_public_key_info().to_der();
        info.is_ok_and(|info| info == der::p256_key(point))
    }

    /// Whether it leads to a certificate that is believed, at this time.
    pub fn reaches(&self, roots: &Roots, now: Timestamp) -> Result<(), String> {
        roots.reach(&self.chain[0], &self.chain[1..], AnyPurpose, now)
    }

    /// Whether it says that the host's attestation key is the one of this Name.
    pub fn names_ak(&self, ak_name: &[u8]) -> bool {
        self.has_name(&Names::permanent(&HEXLOWER.encode(ak_name), None))
    }

    /// Whether it says that the TPM is the one with this EK certificate.
    pub fn names_ek_certificate(&self, certificate: &[u8]) -> bool {
        self.has_name(&Names::ek_certificate(certificate))
    }

    /// Whether it is for the host of this id, in whichever trust domain.
    pub fn names_host(&self, host: &str) -> bool {
        let suffix = format!("/host/{host}");
        self.names().iter().any(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => uri
                .as_str()
                .strip_prefix("spiffe://")
                .and_then(|rest| rest.strip_suffix(&suffix))
                .is_some_and(|domain| !domain.is_empty() && !domain.contains('/')),
            _ => false,
        })
    }

    fn has_name(&self, der: &[u8]) -> bool {
        self.names().iter().any(|name| name.to_der().is_ok_and(|name| name == der))
    }

    fn names(&self) -> Vec<GeneralName> {
        let names = self.first.tbs_certificate().get_extension::<SubjectAltName>();
        names.ok().flatten().map(|(_, names)| names.0).unwrap_or_default()
    }
}

/// What a host's certificate names: the SPIFFE ID, the TPM, the attestation key.
#[derive(Clone, Debug)]
pub struct Names<'a> {
    pub trust_domain: &'a str,
    pub host: &'a str,
    /// Name of the P-256 EK.
    pub ek_name: &'a [u8],
    /// The certificates of the TPM's endorsement keys.
    pub ek_certificates: Vec<&'a [u8]>,
    pub ak_name: &'a [u8],
}

impl Names<'_> {
    /// The GeneralNames of the extension subjectAltName, as TCG's "TPM 2.0 Keys for Device Identity and Attestation"
    /// has them: hardwareModuleName (RFC 4108) of type tcg-tpm20, whose serial number is the digest in the EK's Name;
    /// permanentIdentifier (RFC 4043) with the digest of each EK certificate, assigned by it. The AK's Name is one more
    /// permanentIdentifier, with no assigner, which RFC 4043 lets mean something to the issuer and its verifiers alone.
    pub fn der(&self) -> Vec<u8> {
        let uri = format!("spiffe://{}/host/{}", self.trust_domain, self.host);
        let serial = der::tlv(der::OCTET_STRING, &[&self.ek_name[self.ek_name.len().saturating_sub(32)..]]);
        let module = der::sequence(&[&der::oid(TCG_TPM20), &serial]);
        let certificates: Vec<u8> =
            self.ek_certificates.iter().flat_map(|der| Names::ek_certificate(der)).collect();
        der::sequence(&[
            &der::tlv(0x86, &[uri.as_bytes()]),
            &other(HARDWARE_MODULE_NAME, &module),
            &certificates,
            &Names::permanent(&HEXLOWER.encode(self.ak_name), None),
        ])
    }

    fn ek_certificate(certificate: &[u8]) -> Vec<u8> {
        let digest = HEXLOWER.encode(digest(&SHA256, certificate).as_ref());
        Names::permanent(&digest, Some(EK_PERM_ID_SHA256))
    }

    fn permanent(value: &str, assigner: Option<&[u8]>) -> Vec<u8> {
        let assigner = assigner.map(der::oid).unwrap_or_default();
        other(PERMANENT_IDENTIFIER, &der::sequence(&[&der::tlv(der::UTF8, &[value.as_bytes()]), &assigner]))
    }
}

/// id-on-permanentIdentifier 1.3.6.1.5.5.7.8.3, id-on-hardwareModuleName 1.3.6.1.5.5.7.8.4.
const PERMANENT_IDENTIFIER: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x03];
const HARDWARE_MODULE_NAME: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x04];
/// tcg-tpm20 2.23.133.1.2, tcg-on-ekPermIdSha256 2.23.133.12.1.
const TCG_TPM20: &[u8] = &[0x67, 0x81, 0x05, 0x01, 0x02];
const EK_PERM_ID_SHA256: &[u8] = &[0x67, 0x81, 0x05, 0x0C, 0x01];

/// An otherName.
fn other(kind: &[u8], value: &[u8]) -> Vec<u8> {
    der::tlv(0xA0, &[&der::oid(kind), &der::tlv(0xA0, &[value])])
}

/// Reads one certificate.
pub fn parse(certificate: &[u8]) -> Result<Certificate, Error> {
    if certificate.len() > LARGEST_CERTIFICATE {
        return Err(Error::Certificate(format!("a certificate is larger than {LARGEST_CERTIFICATE} bytes")));
    }
    Certificate::from_der(certificate).map_err(|e| Error::Certificate(format!("this is no certificate: {e}")))
}

fn read_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_FILE).read_to_end(&mut bytes));
    read.map_err(|e| in_file(path, &e))?;
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).take(MOST).collect();
    match all {
        Ok(all) if all.is_empty() => Err(in_file(path, &"there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(e) => Err(in_file(path, &e)),
    }
}

fn in_file(path: &Path, what: &dyn std::fmt::Display) -> Error {
    Error::Certificate(format!("{}: {what}", path.display()))
}

//! The host's certificate and its request for one (RFC 5280, RFC 2986).

use data_encoding::BASE64;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::{Error, OrganizationCa};
use crate::clock::Timestamp;
use crate::verify::HostSan;
use crate::verify::der::{self, bit_string, extension, integer, oid, sequence, time, tlv};

/// Clocks differ: a certificate counts from this long before it was made, in seconds.
const BACKDATE_SECS: u64 = 300;

/// id-ExtensionReq, 1.2.840.113549.1.9.14 (RFC 2985, section 5.4.2).
const EXTENSION_REQUEST: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x0E];

/// What an organisation gives a host.
#[derive(Debug)]
pub struct CertificateTemplate<'a> {
    pub san: HostSan<'a>,
    pub host_key: &'a [u8; 65],
    pub now: Timestamp,
    pub days: u32,
    /// 16 random bytes.
    pub serial: [u8; 16],
}

impl CertificateTemplate<'_> {
    /// The certificate, DER. Of an end entity: a host that may sign certificates is another grant than a host that has a
    /// name.
    pub fn issue_host_certificate(&self, ca: &OrganizationCa) -> Result<Vec<u8>, Error> {
        // digitalSignature
        let (constraints, usage) = (sequence(&[]), [7, 0x80]);
        self.build(ca, &constraints, &usage, &self.san.to_der(), &host_subject(self.san.host))
    }

    /// That other grant, DER: the host key signs issuing CAs (path length 1), for the trust domain of the host.
    pub fn issue_signing_certificate(&self, ca: &OrganizationCa) -> Result<Vec<u8>, Error> {
        ca.check_can_certify_ca()?;
        let constraints = sequence(&[&[0x01, 0x01, 0xFF], &integer(&[1])]);
        let domain = format!("spiffe://{}", self.san.trust_domain);
        let san = sequence(&[&tlv(0x86, &[domain.as_bytes()])]);
        // keyCertSign and cRLSign
        self.build(ca, &constraints, &[1, 0x06], &san, &host_ca_name(self.san.host))
    }

    fn build(
        &self,
        ca: &OrganizationCa,
        constraints: &[u8],
        usage: &[u8],
        san: &[u8],
        subject: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let not_before = Timestamp::from_secs(self.now.as_secs().saturating_sub(BACKDATE_SECS));
        let not_after = self.now.as_secs() + u64::from(self.days) * 24 * 3600;
        // What outlives its issuer counts for nothing, and looks as if it did.
        let not_after = Timestamp::from_secs(not_after.min(ca.not_after().as_secs()));
        if not_after <= self.now {
            return Err(Error::OrganizationCa(
                "its certificate has expired, or no days are asked for".into(),
            ));
        }
        let mut serial = self.serial;
        // Positive, and of full length.
        serial[0] = serial[0] & 0x7F | 0x40;
        let key_id = der::key_id(self.host_key);
        let extensions = [
            extension(der::BASIC_CONSTRAINTS, true, constraints),
            extension(der::KEY_USAGE, true, &tlv(der::BIT_STRING, &[usage])),
            extension(der::SUBJECT_ALT_NAME, false, san),
            extension(der::SUBJECT_KEY_ID, false, &tlv(der::OCTET_STRING, &[&key_id])),
            ca.key_id()
                .map(|id| extension(der::AUTHORITY_KEY_ID, false, &sequence(&[&tlv(0x80, &[id])])))
                .unwrap_or_default(),
        ];
        let tbs = sequence(&[
            &tlv(0xA0, &[&integer(&[2])]),
            &integer(&serial),
            ca.signature_algorithm(),
            ca.subject(),
            &sequence(&[&time(not_before), &time(not_after)]),
            subject,
            &der::p256_spki(self.host_key),
            &tlv(0xA3, &[&sequence(&extensions.each_ref().map(Vec::as_slice))]),
        ]);
        let signature = ca.sign(&tbs)?;
        Ok(sequence(&[&tbs, ca.signature_algorithm(), &bit_string(&signature)]))
    }
}

/// What the host key signs to ask for a certificate: CertificationRequestInfo, DER.
pub fn csr_info(san: &HostSan<'_>, host_key: &[u8; 65]) -> Vec<u8> {
    let requested_extensions = sequence(&[&extension(der::SUBJECT_ALT_NAME, false, &san.to_der())]);
    let attribute = sequence(&[&oid(EXTENSION_REQUEST), &tlv(der::SET, &[&requested_extensions])]);
    sequence(&[&integer(&[0]), &host_subject(san.host), &der::p256_spki(host_key), &tlv(0xA0, &[&attribute])])
}

/// The request for a CA elsewhere, DER, from what was signed and the signature: r and s, 32 bytes each.
pub fn build_csr(info: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    sequence(&[info, &ecdsa_sha256(), &bit_string(&der::ecdsa_signature(signature))])
}

/// Whether a CSR is over exactly `info`, signed by the key. Nothing of it is read that is not compared.
pub(super) fn check_csr(csr: &[u8], info: &[u8], host_key: &[u8; 65]) -> Result<(), Error> {
    let mismatch = || Error::Request("CSR: it asks for other than the rest of the request".into());
    let at = csr.windows(info.len()).take(8).position(|part| part == info).ok_or_else(mismatch)?;
    let remainder = csr[at + info.len()..].strip_prefix(&ecdsa_sha256()[..]).ok_or_else(mismatch)?;
    // Tag, length, and no unused bits.
    let signature = remainder.get(3..).ok_or_else(mismatch)?;
    if csr != sequence(&[info, &ecdsa_sha256(), &bit_string(signature)]) {
        return Err(mismatch());
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, host_key)
        .verify(info, signature)
        .map_err(|_| Error::Request("CSR: the host key did not sign it".into()))
}

/// PEM (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

fn ecdsa_sha256() -> Vec<u8> {
    sequence(&[&oid(der::ECDSA_SHA256)])
}

/// What a host is called as a CA, by itself and by its organisation, so that what it signs leads to both.
pub fn host_ca_name(host: &str) -> Vec<u8> {
    der::distinguished_name(&[
        (der::ORGANIZATION, "hostbadge"),
        (der::COMMON_NAME, &format!("{host} host CA")),
    ])
}

/// A Name of one commonName: the host's id.
fn host_subject(host: &str) -> Vec<u8> {
    der::distinguished_name(&[(der::COMMON_NAME, host)])
}

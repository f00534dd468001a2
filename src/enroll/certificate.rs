//! The host's certificate and its request for one (RFC 5280, RFC 2986).

use data_encoding::BASE64;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::{Authority, Error};
use crate::clock::Timestamp;
use crate::verify::Names;
use crate::verify::der::{self, bits, extension, number, oid, sequence, time, tlv};

/// Clocks differ: a certificate counts from this long before it was made, in seconds.
const LEEWAY: u64 = 300;

/// id-ExtensionReq, 1.2.840.113549.1.9.14 (RFC 2985, section 5.4.2).
const EXTENSION_REQUEST: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x0E];

/// What an organisation gives a host.
#[derive(Debug)]
pub struct Grant<'a> {
    pub names: Names<'a>,
    pub host_key: &'a [u8; 65],
    pub now: Timestamp,
    pub days: u32,
    /// 16 random bytes.
    pub serial: [u8; 16],
}

impl Grant<'_> {
    /// The certificate, DER. Of an end entity: a host that may sign certificates is another grant than a host that has a
    /// name.
    pub fn certificate(&self, by: &Authority) -> Result<Vec<u8>, Error> {
        // digitalSignature
        let (constraints, usage) = (sequence(&[]), [7, 0x80]);
        self.write(by, &constraints, &usage, &self.names.der(), &subject(self.names.host))
    }

    /// That other grant, DER: the host key signs issuing CAs (path length 1), for the trust domain of the host.
    pub fn signing_certificate(&self, by: &Authority) -> Result<Vec<u8>, Error> {
        by.may_have_authorities_below()?;
        let constraints = sequence(&[&[0x01, 0x01, 0xFF], &number(&[1])]);
        let domain = format!("spiffe://{}", self.names.trust_domain);
        let names = sequence(&[&tlv(0x86, &[domain.as_bytes()])]);
        // keyCertSign and cRLSign
        self.write(by, &constraints, &[1, 0x06], &names, &host_ca_name(self.names.host))
    }

    fn write(
        &self,
        by: &Authority,
        constraints: &[u8],
        usage: &[u8],
        names: &[u8],
        subject: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let from = Timestamp::from_secs(self.now.secs().saturating_sub(LEEWAY));
        let until = self.now.secs() + u64::from(self.days) * 24 * 3600;
        // What outlives its issuer counts for nothing, and looks as if it did.
        let until = Timestamp::from_secs(until.min(by.not_after().secs()));
        if until <= self.now {
            return Err(Error::Authority("its certificate has expired, or no days are asked for".into()));
        }
        let mut serial = self.serial;
        // Positive, and of full length.
        serial[0] = serial[0] & 0x7F | 0x40;
        let key_id = der::key_id(self.host_key);
        let extensions = [
            extension(der::BASIC_CONSTRAINTS, true, constraints),
            extension(der::KEY_USAGE, true, &tlv(der::BIT_STRING, &[usage])),
            extension(der::SUBJECT_ALT_NAME, false, names),
            extension(der::SUBJECT_KEY_ID, false, &tlv(der::OCTET_STRING, &[&key_id])),
            by.key_id()
                .map(|id| extension(der::AUTHORITY_KEY_ID, false, &sequence(&[&tlv(0x80, &[id])])))
                .unwrap_or_default(),
        ];
        let body = sequence(&[
            &tlv(0xA0, &[&number(&[2])]),
            &number(&serial),
            by.algorithm(),
            by.name(),
            &sequence(&[&time(from), &time(until)]),
            subject,
            &der::p256_key(self.host_key),
            &tlv(0xA3, &[&sequence(&extensions.each_ref().map(Vec::as_slice))]),
        ]);
        let signature = by.sign(&body)?;
        Ok(sequence(&[&body, by.algorithm(), &bits(&signature)]))
    }
}

/// What the host key signs to ask for a certificate: CertificationRequestInfo, DER.
pub fn csr_info(names: &Names<'_>, host_key: &[u8; 65]) -> Vec<u8> {
    let wanted = sequence(&[&extension(der::SUBJECT_ALT_NAME, false, &names.der())]);
    let attribute = sequence(&[&oid(EXTENSION_REQUEST), &tlv(der::SET, &[&wanted])]);
    sequence(&[&number(&[0]), &subject(names.host), &der::p256_key(host_key), &tlv(0xA0, &[&attribute])])
}

/// The request for a CA elsewhere, DER, from what was signed and the signature: r and s, 32 bytes each.
pub fn csr(info: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    sequence(&[info, &ecdsa_sha256(), &bits(&der::ecdsa_signature(signature))])
}

/// Whether a CSR is over exactly `info`, signed by the key. Nothing of it is read that is not compared.
pub(super) fn check_csr(csr: &[u8], info: &[u8], host_key: &[u8; 65]) -> Result<(), Error> {
    let other = || Error::Request("CSR: it asks for other than the rest of the request".into());
    let at = csr.windows(info.len()).take(8).position(|part| part == info).ok_or_else(other)?;
    let signed = csr[at + info.len()..].strip_prefix(&ecdsa_sha256()[..]).ok_or_else(other)?;
    // Tag, length, and no unused bits.
    let signature = signed.get(3..).ok_or_else(other)?;
    if csr != sequence(&[info, &ecdsa_sha256(), &bits(signature)]) {
        return Err(other());
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
    der::name(&[(der::ORGANIZATION, "hostbadge"), (der::COMMON_NAME, &format!("{host} host CA"))])
}

/// A Name of one commonName: the host's id.
fn subject(host: &str) -> Vec<u8> {
    der::name(&[(der::COMMON_NAME, host)])
}

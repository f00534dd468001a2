//! What is signed, byte by byte: certificates as X509-SVID wants them, and revocation lists (RFC 5280).

use crate::clock::Timestamp;
use crate::verify::der::{self, bit_string, extension, integer, oid, sequence, time, tlv};

/// id-kp-serverAuth and id-kp-clientAuth, 1.3.6.1.5.5.7.3.1 and .2.
const SERVER_AUTH: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Bits of KeyUsage, with the number of unused ones in front: digitalSignature; keyCertSign and cRLSign.
const USAGE_DIGITAL_SIGNATURE: &[u8] = &[7, 0x80];
const USAGE_CERT_AND_CRL_SIGN: &[u8] = &[1, 0x06];

/// What a certificate is to its holder.
#[derive(Clone, Copy, Debug)]
pub enum CertificateProfile {
    /// Signs certificates; so many others may stand between it and a leaf.
    Ca { path_length: u8 },
    /// An X509-SVID (X509-SVID, section 4): no CA, digitalSignature, for servers and clients.
    Leaf,
}

/// All that a certificate says.
#[derive(Debug)]
pub struct TbsCertificate<'a> {
    pub profile: CertificateProfile,
    /// 128 random bits.
    pub serial: [u8; 16],
    /// Names, DER.
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// SubjectPublicKeyInfo, DER.
    pub spki: &'a [u8],
    pub key_id: [u8; 20],
    /// None for a root.
    pub issuer_key_id: Option<[u8; 20]>,
    /// The one URI of subjectAltName.
    pub uri: &'a str,
}

impl TbsCertificate<'_> {
    /// TBSCertificate, DER: what is signed with ECDSA and SHA-256.
    pub fn to_der(&self) -> Vec<u8> {
        let (constraints, usage) = match self.profile {
            CertificateProfile::Ca { path_length } => {
                (sequence(&[&[0x01, 0x01, 0xFF], &integer(&[path_length])]), USAGE_CERT_AND_CRL_SIGN)
            }
            // cA is FALSE by default, and a default is not written (X.690, section 11.5); the extension is there.
            CertificateProfile::Leaf => (sequence(&[]), USAGE_DIGITAL_SIGNATURE),
        };
        let extended_key_usage = match self.profile {
            CertificateProfile::Ca { .. } => Vec::new(),
            CertificateProfile::Leaf => {
                let both = sequence(&[&oid(SERVER_AUTH), &oid(CLIENT_AUTH)]);
                extension(der::EXTENDED_KEY_USAGE, false, &both)
            }
        };
        // Who has no name but this has it critical (RFC 5280, section 4.2.1.6).
        let san_critical = self.subject == sequence(&[]);
        let alt_names = sequence(&[&tlv(0x86, &[self.uri.as_bytes()])]);
        let extensions = [
            extension(der::BASIC_CONSTRAINTS, true, &constraints),
            extension(der::KEY_USAGE, true, &tlv(der::BIT_STRING, &[usage])),
            extended_key_usage,
            extension(der::SUBJECT_ALT_NAME, san_critical, &alt_names),
            extension(der::SUBJECT_KEY_ID, false, &tlv(der::OCTET_STRING, &[&self.key_id])),
            self.issuer_key_id.as_ref().map(authority_key_id).unwrap_or_default(),
        ];
        sequence(&[
            &tlv(0xA0, &[&integer(&[2])]),
            &integer(&self.serial),
            &ecdsa_sha256(),
            self.issuer,
            &sequence(&[&time(self.not_before), &time(self.not_after)]),
            self.subject,
            self.spki,
            &tlv(0xA3, &[&sequence(&extensions.each_ref().map(Vec::as_slice))]),
        ])
    }
}

/// A revocation list of one issuing CA.
#[derive(Debug)]
pub struct TbsCertList<'a, S> {
    pub issuer: &'a [u8],
    pub issuer_key_id: [u8; 20],
    /// Greater in each list than in those before it.
    pub number: u64,
    pub this_update: Timestamp,
    /// A later list is there by then.
    pub next_update: Timestamp,
    /// Serial numbers, and when each was revoked.
    pub revoked: S,
}

impl<S: Iterator<Item = ([u8; 16], Timestamp)>> TbsCertList<'_, S> {
    /// TBSCertList, DER (RFC 5280, section 5.1).
    pub fn into_der(self) -> Vec<u8> {
        let revoked: Vec<u8> =
            self.revoked.flat_map(|(serial, at)| sequence(&[&integer(&serial), &time(at)])).collect();
        // An empty list is not written.
        let revoked = if revoked.is_empty() { revoked } else { sequence(&[&revoked]) };
        let extensions = sequence(&[
            &authority_key_id(&self.issuer_key_id),
            &extension(der::CRL_NUMBER, false, &integer(&self.number.to_be_bytes())),
        ]);
        sequence(&[
            &integer(&[1]),
            &ecdsa_sha256(),
            self.issuer,
            &time(self.this_update),
            &time(self.next_update),
            &revoked,
            &tlv(0xA0, &[&extensions]),
        ])
    }
}

/// A body with its signature: r and s, 32 bytes each.
pub fn assemble(tbs: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    sequence(&[tbs, &ecdsa_sha256(), &bit_string(&der::ecdsa_signature(signature))])
}

fn authority_key_id(id: &[u8; 20]) -> Vec<u8> {
    extension(der::AUTHORITY_KEY_ID, false, &sequence(&[&tlv(0x80, &[id])]))
}

fn ecdsa_sha256() -> Vec<u8> {
    sequence(&[&oid(der::ECDSA_SHA256)])
}

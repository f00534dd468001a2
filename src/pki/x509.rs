//! What is signed, byte by byte: certificates as X509-SVID wants them, and revocation lists (RFC 5280).

use crate::clock::Timestamp;
use crate::verify::der::{self, bits, extension, number, oid, sequence, time, tlv};

/// id-kp-serverAuth and id-kp-clientAuth, 1.3.6.1.5.5.7.3.1 and .2.
const SERVER_AUTH: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Bits of KeyUsage, with the number of unused ones in front: digitalSignature; keyCertSign and cRLSign.
const SIGNS: &[u8] = &[7, 0x80];
const CERTIFIES: &[u8] = &[1, 0x06];

/// What a certificate is to its holder.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Signs certificates; so many others may stand between it and a leaf.
    Authority { path_length: u8 },
    /// An X509-SVID (X509-SVID, section 4): no CA, digitalSignature, for servers and clients.
    Leaf,
}

/// All that a certificate says.
#[derive(Debug)]
pub struct Body<'a> {
    pub kind: Kind,
    /// 128 random bits.
    pub serial: [u8; 16],
    /// Names, DER.
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
    pub from: Timestamp,
    pub until: Timestamp,
    /// SubjectPublicKeyInfo, DER.
    pub key: &'a [u8],
    pub key_id: [u8; 20],
    /// None for a root.
    pub issuer_key_id: Option<[u8; 20]>,
    /// The one URI of subjectAltName.
    pub uri: &'a str,
}

impl Body<'_> {
    /// TBSCertificate, DER: what is signed with ECDSA and SHA-256.
    pub fn der(&self) -> Vec<u8> {
        let (constraints, usage) = match self.kind {
            Kind::Authority { path_length } => {
                (sequence(&[&[0x01, 0x01, 0xFF], &number(&[path_length])]), CERTIFIES)
            }
            // cA is FALSE by default, and a default is not written (X.690, section 11.5); the extension is there.
            Kind::Leaf => (sequence(&[]), SIGNS),
        };
        let purposes = match self.kind {
            Kind::Authority { .. } => Vec::new(),
            Kind::Leaf => {
                let both = sequence(&[&oid(SERVER_AUTH), &oid(CLIENT_AUTH)]);
                extension(der::EXTENDED_KEY_USAGE, false, &both)
            }
        };
        // Who has no name but this has it critical (RFC 5280, section 4.2.1.6).
        let nameless = self.subject == sequence(&[]);
        let names = sequence(&[&tlv(0x86, &[self.uri.as_bytes()])]);
        let extensions = [
            extension(der::BASIC_CONSTRAINTS, true, &constraints),
            extension(der::KEY_USAGE, true, &tlv(der::BIT_STRING, &[usage])),
            purposes,
            extension(der::SUBJECT_ALT_NAME, nameless, &names),
            extension(der::SUBJECT_KEY_ID, false, &tlv(der::OCTET_STRING, &[&self.key_id])),
            self.issuer_key_id.as_ref().map(authority_key).unwrap_or_default(),
        ];
        sequence(&[
            &tlv(0xA0, &[&number(&[2])]),
            &number(&self.serial),
            &ecdsa_sha256(),
            self.issuer,
            &sequence(&[&time(self.from), &time(self.until)]),
            self.subject,
            self.key,
            &tlv(0xA3, &[&sequence(&extensions.each_ref().map(Vec::as_slice))]),
        ])
    }
}

/// A revocation list of one issuing CA.
#[derive(Debug)]
pub struct Crl<'a, S> {
    pub issuer: &'a [u8],
    pub issuer_key_id: [u8; 20],
    /// Greater in each list than in those before it.
    pub number: u64,
    pub from: Timestamp,
    /// A later list is there by then.
    pub until: Timestamp,
    /// Serial numbers, and when each was revoked.
    pub revoked: S,
}

impl<S: Iterator<Item = ([u8; 16], Timestamp)>> Crl<'_, S> {
    /// TBSCertList, DER (RFC 5280, section 5.1).
    pub fn der(self) -> Vec<u8> {
        let revoked: Vec<u8> =
            self.revoked.flat_map(|(serial, at)| sequence(&[&number(&serial), &time(at)])).collect();
        // An empty list is not written.
        let revoked = if revoked.is_empty() { revoked } else { sequence(&[&revoked]) };
        let extensions = sequence(&[
            &authority_key(&self.issuer_key_id),
            &extension(der::CRL_NUMBER, false, &number(&self.number.to_be_bytes())),
        ]);
        sequence(&[
            &number(&[1]),
            &ecdsa_sha256(),
            self.issuer,
            &time(self.from),
            &time(self.until),
            &revoked,
            &tlv(0xA0, &[&extensions]),
        ])
    }
}

/// A body with its signature: r and s, 32 bytes each.
pub fn signed(body: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    sequence(&[body, &ecdsa_sha256(), &bits(&der::ecdsa_signature(signature))])
}

fn authority_key(id: &[u8; 20]) -> Vec<u8> {
    extension(der::AUTHORITY_KEY_ID, false, &sequence(&[&tlv(0x80, &[id])]))
}

fn ecdsa_sha256() -> Vec<u8> {
    sequence(&[&oid(der::ECDSA_SHA256)])
}

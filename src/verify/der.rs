//! The little of DER (X.690) that certificates and requests are written with.

use ring::digest::{SHA256, digest};

use crate::clock::Timestamp;

/// Tags.
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const UTF8_STRING: u8 = 0x0C;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;

/// Contents of object identifiers.
pub const EC_PUBLIC_KEY: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
pub const PRIME256V1: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
pub const SECP384R1: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x22];
pub const ECDSA_SHA256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02];
pub const ECDSA_SHA384: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x03];
pub const RSA_SHA256: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0B];

pub const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
pub const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0A];
pub const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1D, 0x0E];
pub const KEY_USAGE: &[u8] = &[0x55, 0x1D, 0x0F];
pub const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];
pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1D, 0x13];
pub const CRL_NUMBER: &[u8] = &[0x55, 0x1D, 0x14];
pub const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1D, 0x23];
pub const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1D, 0x25];

/// A value with its tag and length.
pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut encoded = vec![tag];
    match length {
        0..=0x7F => encoded.push(length as u8),
        _ => {
            let bytes = length.to_be_bytes();
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
            encoded.push(0x80 | (bytes.len() - first) as u8);
            encoded.extend_from_slice(&bytes[first..]);
        }
    }
    for part in parts {
        encoded.extend_from_slice(part);
    }
    encoded
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, parts)
}

pub fn oid(contents: &[u8]) -> Vec<u8> {
    tlv(OID, &[contents])
}

/// A positive number, big endian.
pub fn integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = &bytes[first..];
    match bytes.first() {
        Some(high) if *high < 0x80 => tlv(INTEGER, &[bytes]),
        // Without a zero in front it would be negative; zero itself is one byte.
        _ => tlv(INTEGER, &[&[0], bytes]),
    }
}

/// Whole bytes.
pub fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

/// SubjectPublicKeyInfo of a P-256 point (RFC 5480).
pub fn p256_spki(point: &[u8; 65]) -> Vec<u8> {
    sequence(&[&sequence(&[&oid(EC_PUBLIC_KEY), &oid(PRIME256V1)]), &bit_string(point)])
}

/// A Name of single attributes, in their order.
pub fn distinguished_name(parts: &[(&[u8], &str)]) -> Vec<u8> {
    let rdn = |(kind, text): &(&[u8], &str)| {
        tlv(SET, &[&sequence(&[&oid(kind), &tlv(UTF8_STRING, &[text.as_bytes()])])])
    };
    tlv(SEQUENCE, &[&parts.iter().flat_map(rdn).collect::<Vec<u8>>()])
}

/// An extension (RFC 5280, section 4.1.2.9).
pub fn extension(extension_id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xFF] } else { &[] };
    sequence(&[&oid(extension_id), critical, &tlv(OCTET_STRING, &[value])])
}

/// UTCTime until 2049, GeneralizedTime from then on (RFC 5280, section 4.1.2.5).
pub fn time(at: Timestamp) -> Vec<u8> {
    let digits: String = at.to_string().chars().take(19).filter(char::is_ascii_digit).collect();
    match digits.as_str() < "2050" {
        true => tlv(0x17, &[&digits.as_bytes()[2..], b"Z"]),
        false => tlv(0x18, &[digits.as_bytes(), b"Z"]),
    }
}

/// A key's identifier: the first 160 bits of SHA-256 over it (RFC 7093, section 2, method 1).
pub fn key_id(point: &[u8]) -> [u8; 20] {
    let mut id = [0; 20];
    id.copy_from_slice(&digest(&SHA256, point).as_ref()[..20]);
    id
}

/// ECDSA-Sig-Value (RFC 3279, section 2.2.3) of r and s, 32 bytes each.
pub fn ecdsa_signature(fixed: &[u8; 64]) -> Vec<u8> {
    sequence(&[&integer(&fixed[..32]), &integer(&fixed[32..])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_integers_are_minimal() {
        assert_eq!(tlv(4, &[&[7; 127]])[..2], [4, 127]);
        assert_eq!(tlv(4, &[&[7; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[&[7; 300]])[..4], [4, 0x82, 1, 44]);
        assert_eq!(integer(&[0, 0]), [2, 1, 0]);
        assert_eq!(integer(&[0, 0x7F]), [2, 1, 0x7F]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
    }

    #[test]
    fn time_is_generalized_from_2050() {
        assert_eq!(time(Timestamp::from_secs(0)), b"\x17\x0d700101000000Z");
        assert_eq!(time(Timestamp::from_secs(2_524_607_999)), b"\x17\x0d491231235959Z");
        assert_eq!(time(Timestamp::from_secs(2_524_608_000)), b"\x18\x0f20500101000000Z");
    }
}

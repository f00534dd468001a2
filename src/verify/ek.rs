//! Endorsement keys, read from hostile bytes: those of the TCG's templates L-1 and L-2 and no other.

use ring::digest::{SHA256, digest};

use super::Error;
use super::tpm_structures::ByteReader;

/// TCG EK Credential Profile, sections B.3.3 and B.3.4: all of the public area but the key itself.
///
/// The Name covers these, and so does a credential: with other attributes it would be another key.
const TEMPLATE_COMMON: [u8; 40] = {
    const POLICY_A: [u8; 32] = [
        0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
        0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
    ];
    // SHA-256, the attributes, the policy's size.
    let mut common = [0; 40];
    let head = [0x00, 0x0B, 0x00, 0x03, 0x00, 0xB2, 0x00, 0x20];
    let mut at = 0;
    while at < 40 {
        common[at] = if at < 8 { head[at] } else { POLICY_A[at - 8] };
        at += 1;
    }
    common
};
/// AES-128 in CFB mode, no scheme; then P-256 without KDF, or 2048 bits with the usual exponent.
const P256_PARAMETERS: [u8; 12] = [0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10];
const RSA_2048_PARAMETERS: [u8; 14] =
    [0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00];

/// An endorsement key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ek {
    pub key: EkKey,
    /// Hash algorithm and digest of the area, Part 1 section 16.
    pub name: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EkKey {
    /// Uncompressed point.
    P256([u8; 65]),
    /// Modulus of 2048 bits; the exponent is 65537.
    Rsa(Box<[u8; 256]>),
}

impl Ek {
    /// Reads a TPM2B_PUBLIC.
    pub fn parse(bytes: &[u8]) -> Result<Ek, Error> {
        let mut outer = ByteReader::new("EK", bytes);
        let area = outer.tpm2b()?;
        outer.expect_end()?;
        let mut reader = ByteReader::new("EK", area);
        let algorithm: [u8; 2] = reader.array()?;
        if reader.array()? != TEMPLATE_COMMON {
            return Err(reader.error("it does not follow the TCG's template for EKs"));
        }
        let key = match algorithm {
            [0x00, 0x23] if reader.array()? == P256_PARAMETERS => {
                let mut point = [4; 65];
                point[1..33].copy_from_slice(&reader.ecc_parameter()?);
                point[33..].copy_from_slice(&reader.ecc_parameter()?);
                EkKey::P256(point)
            }
            [0x00, 0x01] if reader.array()? == RSA_2048_PARAMETERS => {
                let modulus: Option<[u8; 256]> = reader.tpm2b()?.try_into().ok();
                // The high bit: a modulus of fewer bits is none of this template.
                match modulus.filter(|modulus| modulus[0] >= 0x80 && modulus[255] % 2 == 1) {
                    Some(modulus) => EkKey::Rsa(Box::new(modulus)),
                    None => return Err(reader.error("its modulus is not one of 2048 bits")),
                }
            }
            _ => return Err(reader.error("it is neither a P-256 nor an RSA-2048 EK of the TCG's templates")),
        };
        reader.expect_end()?;
        let name = [&[0x00, 0x0B][..], digest(&SHA256, area).as_ref()].concat();
        Ok(Ek { key, name })
    }
}

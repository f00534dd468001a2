//! Endorsement keys, parsed from untrusted bytes.
//!
//! Only keys that follow the TCG's templates L-1 (RSA-2048) and L-2 (P-256) are accepted.

use ring::digest::{SHA256, digest};

use super::error::Error;
use super::tpm_reader::TpmReader;

/// The part of the public area that both templates share (TCG EK Credential Profile, sections B.3.3 and
/// B.3.4).
///
/// An EK's Name covers the public area, and a credential is bound to the Name: a key with other attributes is
/// another EK.
const TEMPLATE_COMMON: [u8; 40] = {
    const POLICY_A: [u8; 32] = [
        0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
        0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
    ];
    // The Name's algorithm (SHA-256), the attributes, and the size of the policy.
    let mut common = [0; 40];
    let head = [0x00, 0x0B, 0x00, 0x03, 0x00, 0xB2, 0x00, 0x20];
    let mut at = 0;
    while at < 40 {
        common[at] = if at < 8 { head[at] } else { POLICY_A[at - 8] };
        at += 1;
    }
    common
};
/// AES-128 in CFB mode, no scheme, curve P-256, no KDF.
const P256_PARAMETERS: [u8; 12] = [0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10];
/// AES-128 in CFB mode, no scheme, 2048 bits, the default exponent (65537).
const RSA_2048_PARAMETERS: [u8; 14] =
    [0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00];

/// The public half of an endorsement key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ek {
    /// The key itself.
    pub key: EkKey,
    /// The Name: the hash algorithm's identifier and the digest of the public area (TPM 2.0 Library part 1,
    /// section 16).
    pub name: Vec<u8>,
}

/// The key of an EK, by its algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EkKey {
    /// The uncompressed point of a P-256 key (SEC 1 section 2.3.3).
    P256([u8; 65]),
    /// The modulus of an RSA-2048 key, big-endian. The exponent is 65537.
    Rsa(Box<[u8; 256]>),
}

impl EkKey {
    /// The algorithm, for display.
    pub fn kind(&self) -> &'static str {
        match self {
            EkKey::P256(_) => "P-256",
            EkKey::Rsa(_) => "RSA",
        }
    }
}

impl Ek {
    /// Parses a TPM2B_PUBLIC.
    ///
    /// # Errors
    ///
    /// If the public area is malformed, or differs from both templates in anything but the key.
    pub fn parse(bytes: &[u8]) -> Result<Ek, Error> {
        let mut outer = TpmReader::new("EK", bytes);
        let area = outer.tpm2b()?;
        outer.expect_end()?;
        let mut reader = TpmReader::new("EK", area);
        let algorithm: [u8; 2] = reader.array()?;
        if reader.array()? != TEMPLATE_COMMON {
            return Err(reader.error("it does not follow the TCG's template for EKs"));
        }
        let key = match algorithm {
            [0x00, 0x23] if reader.array()? == P256_PARAMETERS => EkKey::P256(reader.p256_point()?),
            [0x00, 0x01] if reader.array()? == RSA_2048_PARAMETERS => {
                let modulus: Option<[u8; 256]> = reader.tpm2b()?.try_into().ok();
                // Without the high bit the modulus has fewer than 2048 bits.
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

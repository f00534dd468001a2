//! The few TPM structures that evidence holds, read from hostile bytes (TCG TPM 2.0 Library, Part 2).
//!
//! Only the kinds that hostbadge makes are known: P-256 keys with SHA-256 Names, ECDSA signatures, quotes over the SHA-256
//! bank, certifications. Every other is an error that says so.

use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use super::Error;

/// Section 6.3 (TPM_ALG_ID), 6.4 (TPM_ECC_CURVE), 6.9 (TPM_ST).
const ALG_SHA256: u16 = 0x000B;
const ALG_AES: u16 = 0x0006;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const CURVE_P256: u16 = 0x0003;
const ST_ATTEST_CERTIFY: u16 = 0x8017;
const ST_ATTEST_QUOTE: u16 = 0x8018;
/// TPM_GENERATED_VALUE, section 6.2: no restricted key signs foreign data that begin with it.
const TPM_GENERATED_VALUE: u32 = 0xFF54_4347;

/// Section 8.3 (TPMA_OBJECT), the bits that evidence rests on.
pub const FIXED_TPM: u32 = 1 << 1;
pub const FIXED_PARENT: u32 = 1 << 4;
pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
pub const RESTRICTED: u32 = 1 << 16;
pub const DECRYPT: u32 = 1 << 17;
pub const SIGN: u32 = 1 << 18;

/// A P-256 key's public area, from a TPM2B_PUBLIC (section 12.2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// TPMA_OBJECT
    pub attributes: u32,
    /// Uncompressed, SEC 1 section 2.3.3.
    pub point: [u8; 65],
    /// Hash algorithm and digest of the area, Part 1 section 16.
    pub name: Vec<u8>,
}

impl PublicKey {
    pub fn parse(bytes: &[u8]) -> Result<PublicKey, Error> {
        let mut outer = ByteReader::new("public area", bytes);
        let area = outer.tpm2b()?;
        outer.expect_end()?;
        let mut inner = ByteReader::new("public area", area);
        let reader = &mut inner;
        reader.expect_u16(ALG_ECC, "an ECC key")?;
        reader.expect_u16(ALG_SHA256, "a SHA-256 Name")?;
        let attributes = reader.u32()?;
        reader.tpm2b()?; // authPolicy
        match reader.u16()? {
            ALG_NULL => {}
            ALG_AES => drop(reader.take(4)?), // keyBits and mode
            _ => return Err(reader.error("its symmetric algorithm is unknown")),
        }
        match reader.u16()? {
            ALG_NULL => {}
            ALG_ECDSA => reader.expect_u16(ALG_SHA256, "ECDSA with SHA-256")?,
            _ => return Err(reader.error("its scheme is unknown")),
        }
        reader.expect_u16(CURVE_P256, "a P-256 key")?;
        reader.expect_u16(ALG_NULL, "a key without KDF")?;
        let (x, y) = (reader.ecc_parameter()?, reader.ecc_parameter()?);
        reader.expect_end()?;
        let mut point = [4; 65];
        point[1..33].copy_from_slice(&x);
        point[33..].copy_from_slice(&y);
        let name = [&ALG_SHA256.to_be_bytes()[..], digest(&SHA256, area).as_ref()].concat();
        Ok(PublicKey { attributes, point, name })
    }

    /// The qualified Name of this key right under a primary of the owner's hierarchy (Part 1, section 16.3): it is what
    /// the TPM names a signer by.
    pub fn qualified_name_under(&self, primary: &[u8]) -> Vec<u8> {
        const OWNER: u32 = 0x4000_0001;
        let qualify = |parent: &[u8], name: &[u8]| {
            [&ALG_SHA256.to_be_bytes()[..], digest(&SHA256, &[parent, name].concat()).as_ref()].concat()
        };
        qualify(&qualify(&OWNER.to_be_bytes(), primary), &self.name)
    }

    /// Whether all of these attributes are set.
    pub fn has_attributes(&self, attributes: u32) -> bool {
        self.attributes & attributes == attributes
    }

    /// Whether the key made this TPMT_SIGNATURE over `message`.
    pub fn verify_signature(&self, message: &[u8], signature: &[u8]) -> Result<bool, Error> {
        let mut reader = ByteReader::new("signature", signature);
        reader.expect_u16(ALG_ECDSA, "an ECDSA signature")?;
        reader.expect_u16(ALG_SHA256, "a signature over a SHA-256 digest")?;
        let fixed = [reader.ecc_parameter()?, reader.ecc_parameter()?].concat();
        reader.expect_end()?;
        Ok(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.point).verify(message, &fixed).is_ok())
    }
}

/// A TPMS_ATTEST (section 10.12.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// The signer's qualified Name.
    pub qualified_signer: Vec<u8>,
    pub extra_data: Vec<u8>,
    pub clock: ClockInfo,
    pub firmware_version: u64,
    pub attested: AttestedInfo,
}

/// TPMS_CLOCK_INFO (section 10.11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM has had power.
    pub millis: u64,
    /// TPM resets since the last clear.
    pub resets: u32,
    pub restarts: u32,
    /// False if the clock may have gone back.
    pub safe: bool,
}

/// What is attested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttestedInfo {
    /// The Name of a key that is in the same TPM.
    Certify { name: Vec<u8> },
    /// PCRs of the SHA-256 bank by number, and the digest of their values.
    Quote { pcr_indexes: Vec<u8>, digest: Vec<u8> },
}

impl Attest {
    pub fn parse(bytes: &[u8]) -> Result<Attest, Error> {
        let mut whole = ByteReader::new("attestation", bytes);
        let reader = &mut whole;
        if reader.u32()? != TPM_GENERATED_VALUE {
            return Err(reader.error("no TPM made it"));
        }
        let kind = reader.u16()?;
        let qualified_signer = reader.tpm2b()?.to_vec();
        let extra_data = reader.tpm2b()?.to_vec();
        let clock = ClockInfo {
            millis: reader.u64()?,
            resets: reader.u32()?,
            restarts: reader.u32()?,
            safe: reader.u8()? == 1,
        };
        let firmware_version = reader.u64()?;
        let attested = match kind {
            ST_ATTEST_CERTIFY => {
                let name = reader.tpm2b()?.to_vec();
                reader.tpm2b()?; // qualifiedName
                AttestedInfo::Certify { name }
            }
            ST_ATTEST_QUOTE => {
                if reader.u32()? != 1 {
                    return Err(reader.error("it is about several banks of PCRs"));
                }
                reader.expect_u16(ALG_SHA256, "the SHA-256 bank")?;
                let size = usize::from(reader.u8()?);
                let pcr_indexes = selected_pcrs(reader.take(size)?);
                AttestedInfo::Quote { pcr_indexes, digest: reader.tpm2b()?.to_vec() }
            }
            _ => return Err(reader.error("it is neither a quote nor a certification")),
        };
        reader.expect_end()?;
        Ok(Attest { qualified_signer, extra_data, clock, firmware_version, attested })
    }
}

/// Section 10.6.1 (TPMS_PCR_SELECT): bit 0 of the first byte is PCR 0.
fn selected_pcrs(bits: &[u8]) -> Vec<u8> {
    (0..bits.len().min(32) * 8).filter(|at| bits[at / 8] >> (at % 8) & 1 == 1).map(|at| at as u8).collect()
}

/// Bytes, big endian, with a bound at each step.
pub struct ByteReader<'a> {
    structure: &'static str,
    rest: &'a [u8],
}

impl<'a> ByteReader<'a> {
    pub fn new(structure: &'static str, rest: &'a [u8]) -> ByteReader<'a> {
        ByteReader { structure, rest }
    }

    pub fn error(&self, why: &str) -> Error {
        Error::Evidence(format!("{}: {why}", self.structure))
    }

    pub fn take(&mut self, size: usize) -> Result<&'a [u8], Error> {
        match self.rest.split_at_checked(size) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.error("it ends in the middle")),
        }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    fn expect_u16(&mut self, expected: u16, what: &str) -> Result<(), Error> {
        match self.u16()? == expected {
            true => Ok(()),
            false => Err(self.error(&format!("it is not {what}"))),
        }
    }

    /// A TPM2B: the size, then as many bytes.
    pub fn tpm2b(&mut self) -> Result<&'a [u8], Error> {
        let size = usize::from(self.u16()?);
        self.take(size)
    }

    /// A number of at most 32 bytes, which may come without its leading zeros.
    pub fn ecc_parameter(&mut self) -> Result<[u8; 32], Error> {
        let bytes = self.tpm2b()?;
        let mut fixed = [0; 32];
        match 32usize.checked_sub(bytes.len()) {
            Some(at) => fixed[at..].copy_from_slice(bytes),
            None => return Err(self.error("a number is too large for P-256")),
        }
        Ok(fixed)
    }

    pub fn expect_end(&self) -> Result<(), Error> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(self.error("something follows its end")),
        }
    }
}

//! The TPM structures in evidence, parsed from untrusted bytes (TPM 2.0 Library part 2).
//!
//! Only the kinds that hostbadge makes are accepted: P-256 keys with SHA-256 Names, ECDSA signatures, quotes
//! over the SHA-256 bank, and certifications. For every other kind the error names what is not supported.

use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use super::error::Error;
use super::tpm_reader::TpmReader;

/// Section 6.3 (TPM_ALG_ID), 6.4 (TPM_ECC_CURVE), 6.9 (TPM_ST).
const ALG_SHA256: u16 = 0x000B;
const ALG_AES: u16 = 0x0006;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const CURVE_P256: u16 = 0x0003;
const ST_ATTEST_NV: u16 = 0x8014;
const ST_ATTEST_CERTIFY: u16 = 0x8017;
const ST_ATTEST_QUOTE: u16 = 0x8018;
/// TPM_GENERATED_VALUE, section 6.2: a restricted key does not sign external data that begins with it.
const TPM_GENERATED_VALUE: u32 = 0xFF54_4347;

// Section 8.3 (TPMA_OBJECT): the attributes that the checks of evidence require or forbid.

/// `fixedTPM`: the key's hierarchy cannot change, so that the key does not leave its TPM.
pub const FIXED_TPM: u32 = 1 << 1;
/// `fixedParent`: the key cannot be moved to another parent.
pub const FIXED_PARENT: u32 = 1 << 4;
/// `sensitiveDataOrigin`: the TPM generated the private key, rather than importing it.
pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
/// `restricted`: the key signs only digests that the TPM computed, and decrypts only structures of a known
/// format.
pub const RESTRICTED: u32 = 1 << 16;
/// `decrypt`: the key can decrypt.
pub const DECRYPT: u32 = 1 << 17;
/// `sign`: the key can sign.
pub const SIGN: u32 = 1 << 18;

/// The public area of a P-256 key, from a TPM2B_PUBLIC (sections 12.2.4 and 12.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// TPMA_OBJECT. See [`FIXED_TPM`] and the other constants of this module.
    pub attributes: u32,
    /// The uncompressed point: 4, then x and y of 32 bytes each (SEC 1 section 2.3.3).
    pub point: [u8; 65],
    /// The Name: the hash algorithm's identifier and the digest of the public area (part 1, section 16).
    pub name: Vec<u8>,
}

impl PublicKey {
    /// Parses a TPM2B_PUBLIC.
    pub fn parse(bytes: &[u8]) -> Result<PublicKey, Error> {
        let mut outer = TpmReader::new("public area", bytes);
        let area = outer.tpm2b()?;
        outer.expect_end()?;
        let mut inner = TpmReader::new("public area", area);
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
        let point = reader.p256_point()?;
        reader.expect_end()?;
        let name = [&ALG_SHA256.to_be_bytes()[..], digest(&SHA256, area).as_ref()].concat();
        Ok(PublicKey { attributes, point, name })
    }

    /// The qualified Name of this key as a child of a primary key in the owner hierarchy (part 1, section
    /// 16.3). An attestation identifies its signer by the qualified Name.
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

    /// Whether this key made the TPMT_SIGNATURE `signature` over `message`.
    ///
    /// # Errors
    ///
    /// If `signature` is not an ECDSA signature over a SHA-256 digest.
    pub fn verify_signature(&self, message: &[u8], signature: &[u8]) -> Result<bool, Error> {
        let mut reader = TpmReader::new("signature", signature);
        reader.expect_u16(ALG_ECDSA, "an ECDSA signature")?;
        reader.expect_u16(ALG_SHA256, "a signature over a SHA-256 digest")?;
        let fixed = [reader.ecc_parameter()?, reader.ecc_parameter()?].concat();
        reader.expect_end()?;
        Ok(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.point).verify(message, &fixed).is_ok())
    }
}

/// An attestation: a TPMS_ATTEST (section 10.12.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// The qualified Name of the key that signed the attestation.
    pub qualified_signer: Vec<u8>,
    /// The qualifying data that the caller of the TPM gave, such as a nonce.
    pub extra_data: Vec<u8>,
    /// The TPM's clock and counters when it made the attestation.
    pub clock: ClockInfo,
    /// The version of the TPM's firmware, as its vendor numbers it.
    pub firmware_version: u64,
    /// What the attestation is about.
    pub attested: AttestedInfo,
}

/// TPMS_CLOCK_INFO (section 10.11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockInfo {
    /// Time that the TPM has been powered, in milliseconds.
    pub millis: u64,
    /// Number of TPM resets since the last `TPM2_Clear`, obfuscated (see `describe_clock` in the checks of
    /// evidence).
    pub resets: u32,
    /// Number of TPM restarts and resumes since the last reset, obfuscated in the same way.
    pub restarts: u32,
    /// Whether the clock has certainly not been reported with a higher value before.
    pub safe: bool,
}

/// What an attestation is about. Other kinds of TPMU_ATTEST are not supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttestedInfo {
    /// `TPM2_Certify`: a key is loaded in the TPM of the signer.
    Certify {
        /// The Name of that key.
        name: Vec<u8>,
    },
    /// `TPM2_Quote`: values of PCRs of the SHA-256 bank.
    Quote {
        /// Numbers of the PCRs, ascending.
        pcr_indexes: Vec<u8>,
        /// SHA-256 over the values of these PCRs, in this order.
        digest: Vec<u8>,
    },
    /// `TPM2_NV_Certify`: the content of an NV index, from its beginning.
    Nv {
        /// The Name of the NV index.
        name: Vec<u8>,
        /// Its content.
        content: Vec<u8>,
    },
}

impl Attest {
    /// Parses a TPMS_ATTEST.
    pub fn parse(bytes: &[u8]) -> Result<Attest, Error> {
        let mut whole = TpmReader::new("attestation", bytes);
        let reader = &mut whole;
        if reader.u32()? != TPM_GENERATED_VALUE {
            return Err(reader.error("it does not begin with TPM_GENERATED_VALUE, so no TPM made it"));
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
                    return Err(reader.error("it selects PCRs of more than one bank, or none"));
                }
                reader.expect_u16(ALG_SHA256, "the SHA-256 bank")?;
                let size = usize::from(reader.u8()?);
                let pcr_indexes = selected_pcrs(reader.take(size)?);
                AttestedInfo::Quote { pcr_indexes, digest: reader.tpm2b()?.to_vec() }
            }
            ST_ATTEST_NV => {
                let name = reader.tpm2b()?.to_vec();
                reader.expect_u16(0, "content from the beginning")?; // offset
                AttestedInfo::Nv { name, content: reader.tpm2b()?.to_vec() }
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

//! A reader for marshaled TPM structures, whose errors name the structure.

use super::byte_reader::{ByteOrder, ByteReader};
use super::error::Error;

/// Reads a TPM structure (big-endian) from untrusted bytes.
#[derive(Debug)]
pub(crate) struct TpmReader<'a> {
    /// The structure's name in errors.
    structure: &'static str,
    bytes: ByteReader<'a>,
}

impl<'a> TpmReader<'a> {
    pub(crate) fn new(structure: &'static str, bytes: &'a [u8]) -> TpmReader<'a> {
        TpmReader { structure, bytes: ByteReader::new(bytes, ByteOrder::Big) }
    }

    /// An error about this structure.
    pub(crate) fn error(&self, reason: &str) -> Error {
        Error::Evidence(format!("{}: {reason}", self.structure))
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        self.bytes.take(len).ok_or_else(|| self.truncated())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.bytes.array().ok_or_else(|| self.truncated())
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.bytes.u8().ok_or_else(|| self.truncated())
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        self.bytes.u16().ok_or_else(|| self.truncated())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.bytes.u32().ok_or_else(|| self.truncated())
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.bytes.u64().ok_or_else(|| self.truncated())
    }

    /// Reads a number that has to be `expected`. `description` completes "it is not".
    pub(super) fn expect_u16(&mut self, expected: u16, description: &str) -> Result<(), Error> {
        if self.u16()? != expected {
            return Err(self.error(&format!("it is not {description}")));
        }
        Ok(())
    }

    /// A TPM2B: the size as 16 bits, then so many bytes.
    pub(crate) fn tpm2b(&mut self) -> Result<&'a [u8], Error> {
        let size = usize::from(self.u16()?);
        self.take(size)
    }

    /// A TPM2B_ECC_PARAMETER of P-256: at most 32 bytes, which a TPM may give without leading zeros.
    pub(crate) fn ecc_parameter(&mut self) -> Result<[u8; 32], Error> {
        let bytes = self.tpm2b()?;
        let Some(padding) = 32usize.checked_sub(bytes.len()) else {
            return Err(self.error("a number is too large for P-256"));
        };
        let mut padded = [0; 32];
        padded[padding..].copy_from_slice(bytes);
        Ok(padded)
    }

    /// A TPMS_ECC_POINT of P-256, as an uncompressed point (SEC 1 section 2.3.3).
    pub(super) fn p256_point(&mut self) -> Result<[u8; 65], Error> {
        let mut point = [4; 65];
        point[1..33].copy_from_slice(&self.ecc_parameter()?);
        point[33..].copy_from_slice(&self.ecc_parameter()?);
        Ok(point)
    }

    /// Fails unless all bytes were read.
    pub(crate) fn expect_end(&self) -> Result<(), Error> {
        if !self.bytes.is_empty() {
            return Err(self.error("something follows its end"));
        }
        Ok(())
    }

    fn truncated(&self) -> Error {
        self.error("it ends in the middle")
    }
}

//! One entry of the list.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::digest::sha256;
use crate::verify::byte_reader::{ByteOrder, ByteReader};
use crate::verify::pcr::{PcrDigest, extend_pcr};

/// The longest data of an entry, in bytes. A path has at most 4096 bytes, a signature some hundreds; a buffer
/// that the kernel measures may be longer.
const MAX_DATA_LEN: usize = 1024 * 1024;
/// The longest name of a template, or the longest list of fields of a custom template, in bytes.
const MAX_TEMPLATE_NAME_LEN: usize = 256;
const SHA1_LEN: usize = 20;
const IMA_PCR: u32 = 10;

/// An entry whose SHA-1 is that of its data. Only a replay to a quoted PCR 10 proves it.
#[derive(Clone, Debug)]
pub struct ImaEntry<'a> {
    /// The path that the file was opened by, in which the kernel replaced spaces with underscores; empty
    /// where the entry is not about a file. It can contain any bytes: escape it before it is displayed.
    pub path: &'a [u8],
    /// The algorithm of `digest`, such as "sha256" or "verity:sha256".
    pub algorithm: &'a str,
    /// The digest of the file's content.
    pub digest: &'a [u8],
    /// Whether the file was changed while it was measured. Such an entry proves only that it exists.
    pub violation: bool,
    /// Whether the entry has the fields of a file, rather than those of other data that the kernel measured.
    is_file: bool,
    pcr_digest: PcrDigest,
    encoded_len: usize,
}

/// Why an entry was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The entry does not begin with the number of PCR 10 in binary, as an entry of the list in text format
    /// does not.
    #[error("not of PCR 10 in the kernel's binary format, the only one that is supported")]
    NotBinary,
    /// The length of a template name or of data is above the limit.
    #[error("a part of it has {len} bytes, more than {max_len}")]
    PartTooLong {
        /// The length that the entry gives, in bytes.
        len: usize,
        /// The longest that is accepted, in bytes.
        max_len: usize,
    },
    /// The entry is of the template "ima", which has SHA-1 and MD5 digests only.
    #[error("template \"ima\" is too old to prove anything; boot with ima_template=ima-ng")]
    OldTemplate,
    /// The entry's SHA-1 is not that of its data.
    #[error("its digest is not that of its data")]
    DigestMismatch,
    /// The list ends within the entry.
    #[error("the list breaks off within it")]
    Truncated,
}

impl ImaEntry<'_> {
    /// The SHA-256 of the file's content, if the kernel measured the file by this algorithm.
    pub fn sha256(&self) -> Option<PcrDigest> {
        match self.algorithm {
            "sha256" | "ima:sha256" if self.is_file_measurement() => self.digest.try_into().ok(),
            _ => None,
        }
    }

    /// The value of PCR 10 of the SHA-256 bank after this entry, given its value before.
    ///
    /// The kernel extends that bank with the SHA-256 of the entry's data since Linux 5.8.
    pub fn extend_pcr(&self, pcr: &PcrDigest) -> PcrDigest {
        extend_pcr(pcr, &self.pcr_digest)
    }

    /// The length of the whole entry, in bytes.
    pub fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// Whether this is a valid measurement of a file's content.
    pub(super) fn is_file_measurement(&self) -> bool {
        self.is_file && !self.violation
    }
}

/// Parses the entry at the start of `bytes`. Returns `None` where `bytes` ends within it.
///
/// `order` is the byte order of the host. Where it is `None`, it is set from the first entry: `10` as a
/// number of 32 bits begins with a zero only in big-endian order.
///
/// # Errors
///
/// If the entry is malformed. An entry of an unknown template is not malformed: it is proven like others, and
/// has no path.
pub fn parse_entry<'a>(
    bytes: &'a [u8],
    order: &mut Option<ByteOrder>,
) -> Result<Option<ImaEntry<'a>>, EntryError> {
    let detected = match (*order, bytes.first()) {
        (Some(order), _) => order,
        (None, Some(0)) => ByteOrder::Big,
        (None, _) => ByteOrder::Little,
    };
    let mut reader = ByteReader::new(bytes, detected);
    let Some(pcr) = reader.u32() else { return Ok(None) };
    if pcr != IMA_PCR {
        return Err(EntryError::NotBinary);
    }
    *order = Some(detected);
    let Some(template_digest) = reader.take(SHA1_LEN) else { return Ok(None) };
    let Some(template) = read_sized(&mut reader, MAX_TEMPLATE_NAME_LEN)? else { return Ok(None) };
    let Some(data) = read_sized(&mut reader, MAX_DATA_LEN)? else { return Ok(None) };
    if template == b"ima" {
        return Err(EntryError::OldTemplate);
    }
    let violation = template_digest.iter().all(|byte| *byte == 0);
    if !violation && digest(&SHA1_FOR_LEGACY_USE_ONLY, data).as_ref() != template_digest {
        return Err(EntryError::DigestMismatch);
    }
    let has_file_fields =
        matches!(template, b"ima-ng" | b"ima-ngv2" | b"ima-sig" | b"ima-sigv2" | b"ima-modsig");
    let fields = if has_file_fields { parse_file_fields(data, detected) } else { None };
    let (algorithm, digest, path) = fields.unwrap_or_default();
    Ok(Some(ImaEntry {
        path,
        algorithm,
        digest,
        violation,
        is_file: fields.is_some(),
        // For a violation the kernel extends the PCR with ones.
        pcr_digest: if violation { [0xff; 32] } else { sha256(data) },
        encoded_len: reader.offset(),
    }))
}

/// Parses the first two fields of a file's entry: the algorithm's name, a colon, a NUL and the digest; and
/// the path with a NUL at its end. Returns algorithm, digest and path.
fn parse_file_fields(data: &[u8], order: ByteOrder) -> Option<(&str, &[u8], &[u8])> {
    let mut reader = ByteReader::new(data, order);
    let algorithm_and_digest = read_sized(&mut reader, MAX_DATA_LEN).ok()??;
    let path = read_sized(&mut reader, MAX_DATA_LEN).ok()??.strip_suffix(b"\0")?;
    let end = algorithm_and_digest.iter().position(|byte| *byte == 0)?;
    let algorithm = std::str::from_utf8(algorithm_and_digest[..end].strip_suffix(b":")?).ok()?;
    Some((algorithm, &algorithm_and_digest[end + 1..], path))
}

/// Reads a length of 32 bits and so many bytes. Returns `None` where the input ends before.
fn read_sized<'a>(reader: &mut ByteReader<'a>, max_len: usize) -> Result<Option<&'a [u8]>, EntryError> {
    let Some(len) = reader.u32() else { return Ok(None) };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > max_len {
        return Err(EntryError::PartTooLong { len, max_len });
    }
    Ok(reader.take(len))
}

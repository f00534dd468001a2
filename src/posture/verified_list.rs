//! The part of the IMA list that a quoted PCR 10 proves.

use std::collections::HashSet;

use super::ima_error::ImaError;
use crate::verify;
use crate::verify::ima::{self, ByteOrder};

/// The first half of a SHA-256. To find another file with the same half takes 2^128 attempts.
pub(super) type TruncatedDigest = [u8; 16];

/// The part of the list that the last quote proves.
#[derive(Clone, Debug, Default)]
pub(super) struct VerifiedList {
    pub(super) digests: HashSet<TruncatedDigest>,
    /// Whether digests were left out because of the capacity.
    pub(super) incomplete: bool,
    /// PCR 10 after the entries that were read.
    pub(super) pcr: [u8; 32],
    /// The length of these entries, in bytes.
    pub(super) offset: u64,
    pub(super) byte_order: Option<ByteOrder>,
    pub(super) entry_count: usize,
    /// Entries without a SHA-256 of a file.
    pub(super) non_sha256_count: usize,
    /// Why no list is proven.
    pub(super) error: Option<ImaError>,
}

impl VerifiedList {
    /// A copy for an incremental update, to which the digests are moved when it has succeeded.
    pub(super) fn without_digests(&self) -> VerifiedList {
        VerifiedList {
            digests: HashSet::new(),
            incomplete: self.incomplete,
            pcr: self.pcr,
            offset: self.offset,
            byte_order: self.byte_order,
            entry_count: self.entry_count,
            non_sha256_count: self.non_sha256_count,
            error: None,
        }
    }

    /// Adds the whole entries at the start of `bytes`, up to where they replay to `pcr`. Returns their
    /// length.
    pub(super) fn add_entries(
        &mut self,
        bytes: &[u8],
        pcr: &[u8; 32],
        should_keep: impl Fn(usize, &TruncatedDigest) -> bool,
    ) -> Result<usize, ImaError> {
        let mut consumed = 0;
        while self.pcr != *pcr {
            let entry = ima::parse_entry(&bytes[consumed..], &mut self.byte_order)
                .map_err(|error| verify::Error::Ima { entry: self.entry_count + 1, error })?;
            let Some(entry) = entry else { break };
            consumed += entry.encoded_len();
            self.offset += entry.encoded_len() as u64;
            self.entry_count += 1;
            self.pcr = entry.extend_pcr(&self.pcr);
            match entry.sha256() {
                Some(digest) => self.add_digest(truncate(&digest), &should_keep),
                None => self.non_sha256_count += 1,
            }
        }
        Ok(consumed)
    }

    pub(super) fn add_digest(
        &mut self,
        digest: TruncatedDigest,
        should_keep: impl Fn(usize, &TruncatedDigest) -> bool,
    ) {
        if should_keep(self.digests.len(), &digest) {
            self.digests.insert(digest);
        } else {
            self.incomplete |= !self.digests.contains(&digest);
        }
    }
}

pub(super) fn truncate(digest: &[u8; 32]) -> TruncatedDigest {
    std::array::from_fn(|at| digest[at])
}

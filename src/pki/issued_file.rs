//! The certificates that were issued to an identity, in memory and in `leaves.json`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store;

/// Bytes of a leaf in the file: serial number, expiry in seconds since the epoch, tag of the issuing CA.
const RECORD_LEN: usize = 16 + 8 + 4;
const FILE_NAME: &str = "leaves.json";
const VERSION: u64 = 1;

/// Names an issuing CA: the first bytes of its key identifier.
pub type CaTag = [u8; 4];

/// What revocation needs of an issued certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRecord {
    /// The serial number, big-endian.
    pub serial: [u8; 16],
    /// When the certificate expires.
    pub expires: Timestamp,
    /// The issuing CA.
    pub ca_tag: CaTag,
}

/// The leaves of one identity.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    /// Those that count.
    pub counted: Vec<LeafRecord>,
    /// Those that expire later than a leaf that is issued now. The clock was ahead when they were issued, or
    /// is behind now. They can be revoked, and do not count: they would keep the identity from getting others
    /// for as long as the clock was ahead.
    pub ahead: Vec<LeafRecord>,
}

/// The content of `leaves.json`: for each SPIFFE ID its leaves, in base64 of 28 bytes each.
/// Serial numbers are not secret.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuedCertificatesFile {
    leaves: HashMap<Arc<str>, String>,
}

impl IssuedCertificatesFile {
    /// Reads `leaves.json`; empty where there is none. Blocking.
    pub fn read(dir: &Path) -> Result<IssuedCertificatesFile, store::Error> {
        Ok(store::read(&dir.join(FILE_NAME), VERSION)?.unwrap_or_default())
    }

    /// The leaves by SPIFFE ID. What is not base64 of whole records is left out.
    pub fn into_leaves(self) -> impl Iterator<Item = (Arc<str>, Vec<LeafRecord>)> {
        self.leaves.into_iter().map(|(id, encoded)| {
            let bytes = BASE64.decode(encoded.as_bytes()).unwrap_or_default();
            (id, bytes.chunks_exact(RECORD_LEN).filter_map(LeafRecord::from_bytes).collect())
        })
    }

    /// Writes `leaves.json`, which is on disk when this returns. Blocking.
    pub fn write(&self, dir: &Path) -> Result<(), store::Error> {
        store::write(&dir.join(FILE_NAME), VERSION, self)
    }
}

impl<L: Iterator<Item = LeafRecord>> FromIterator<(Arc<str>, L)> for IssuedCertificatesFile {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, L)>>(by_identity: I) -> IssuedCertificatesFile {
        let encode = |leaves: L| BASE64.encode(&leaves.flat_map(LeafRecord::to_bytes).collect::<Vec<u8>>());
        IssuedCertificatesFile {
            leaves: by_identity.into_iter().map(|(id, leaves)| (id, encode(leaves))).collect(),
        }
    }
}

impl LeafRecord {
    fn to_bytes(self) -> Vec<u8> {
        [&self.serial[..], &self.expires.as_secs().to_be_bytes(), &self.ca_tag].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<LeafRecord> {
        let (serial, rest) = bytes.split_first_chunk::<16>()?;
        let (expires, ca_tag) = rest.split_first_chunk::<8>()?;
        let expires = Timestamp::from_secs(u64::from_be_bytes(*expires));
        Some(LeafRecord { serial: *serial, expires, ca_tag: ca_tag.try_into().ok()? })
    }
}

impl Leaves {
    /// All leaves, those that count last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &LeafRecord> {
        self.ahead.iter().chain(&self.counted)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty() && self.ahead.is_empty()
    }

    /// Drops expired leaves, and has those count that expire at `horizon` or before.
    pub fn update(&mut self, now: Timestamp, horizon: Timestamp) {
        move_if(&mut self.ahead, &mut self.counted, |leaf| leaf.expires <= horizon);
        move_if(&mut self.counted, &mut self.ahead, |leaf| leaf.expires > horizon);
        self.counted.retain(|leaf| leaf.expires > now);
    }
}

/// Moves leaves from one list to the end of another.
fn move_if(from: &mut Vec<LeafRecord>, to: &mut Vec<LeafRecord>, moves: impl Fn(&LeafRecord) -> bool) {
    if from.iter().any(&moves) {
        to.extend(from.iter().filter(|leaf| moves(leaf)));
        from.retain(|leaf| !moves(leaf));
    }
}
